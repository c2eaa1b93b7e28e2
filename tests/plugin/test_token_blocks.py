"""Blocks cut from memory-mapped token files: the same as those of fairseq's own classes, in a few bytes each."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import TokenBlockDataset, data_utils
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_plugins.tasks.pretraining import BlockDataset, MetroPretrainingConfig, MetroPretrainingTask
from fairseq_plugins.tasks.token_blocks import TokenBlocks, block_bounds, split_long, token_files
from metro_t0.data.token_files import TokenFile, TokenFileWriter, bin_path
from metro_t0.errors import UserError
from metro_t0.randomness import keyed_generator

PAD, EOS, BOS = 1, 2, 0
LINES = st.lists(st.integers(0, 25), min_size=1, max_size=40)
"""Words per line; 0 is the empty line between documents."""


def write(prefix: Path, words_per_line: list[int]) -> TokenFile:
    """Numbered words, so that every block shows where it was cut; each line ends with </s>."""
    word = 4
    with TokenFileWriter(prefix, dtype=np.uint16) as writer:
        for words in words_per_line:
            writer.add([*range(word, word + words), EOS])
            word += words
    return TokenFile(prefix)


def blocks_of_fairseq(prefix: Path, longest: int, mode: str) -> list[list[int]]:
    """fairseq's blocks, those over `longest` cut into equal parts, all with <s> before them."""
    lines = data_utils.load_indexed_dataset(str(prefix))
    blocks = []
    for block in TokenBlockDataset(lines, lines.sizes, longest, PAD, EOS, break_mode=mode):
        parts = -(-len(block) // longest)
        cuts = [part * len(block) // parts for part in range(parts + 1)]
        blocks += [block[a:b] for a, b in pairwise(cuts)]
    return [[BOS, *block.tolist()] for block in blocks]


@settings(deadline=None, max_examples=60)
@given(lines=LINES.filter(any), longest=st.integers(2, 30), mode=st.sampled_from(["none", "complete", "complete_doc"]))
def test_blocks_are_those_of_fairseq(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], longest: int, mode: str
) -> None:
    prefix = tmp_path_factory.mktemp("blocks") / "train"
    ours = TokenBlocks(write(prefix, lines), longest, mode, BOS)
    assert [ours[number].tolist() for number in range(len(ours))] == blocks_of_fairseq(prefix, longest, mode)
    assert ours.sizes.tolist() == [len(ours[number]) for number in range(len(ours))]


@settings(deadline=None)
@given(
    lines=LINES,
    longest=st.integers(2, 30),
    chunk=st.integers(1, 7),
    mode=st.sampled_from(["complete", "complete_doc", "eos"]),
)
def test_blocks_do_not_depend_on_how_the_index_is_read(lines: list[int], longest: int, chunk: int, mode: str) -> None:
    sizes = np.array(lines, dtype=np.int32) + 1
    (whole,) = block_bounds(sizes, longest, mode)
    parts = list(block_bounds(sizes, longest, mode, chunk))
    for side in (0, 1):
        assert np.concatenate([part[side] for part in parts]).tolist() == whole[side].tolist()


def test_break_mode_eos_makes_one_block_of_every_line(tmp_path: Path) -> None:
    blocks = TokenBlocks(write(tmp_path / "train", [3, 0, 2]), 9, "eos", BOS)
    assert [blocks[number].tolist() for number in range(3)] == [[BOS, 4, 5, 6, EOS], [BOS, EOS], [BOS, 7, 8, EOS]]


@given(st.lists(st.integers(1, 100), min_size=1), st.integers(1, 20))
def test_long_blocks_are_cut_into_equal_parts_that_lose_nothing(sizes: list[int], longest: int) -> None:
    ends = np.cumsum(sizes, dtype=np.int64)
    begins, cut_ends = split_long(ends - np.array(sizes), ends, longest)
    assert begins.tolist() == [0, *cut_ends[:-1].tolist()]  # side by side
    assert set(ends.tolist()) <= set(cut_ends.tolist())  # and never across a block
    assert int((cut_ends - begins).max()) <= longest
    assert len(begins) == sum(-(-size // longest) for size in sizes)


def test_ten_bytes_per_block_and_tokens_stay_in_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "train", [20, 0] * 500)
    blocks = TokenBlocks(file, 511, "complete_doc", BOS)
    assert blocks.begins.nbytes + blocks.sizes.nbytes == 10 * len(blocks) == 5000
    assert blocks.file.tokens is file.tokens
    assert TokenBlocks(file, 70_000, "complete_doc", BOS).sizes.dtype == np.int32


def test_parts_of_a_split_follow_one_another(tmp_path: Path) -> None:
    for name, lines in (("train", [3, 0]), ("train1", [4, 0]), ("train3", [5, 0])):
        write(tmp_path / name, lines)
    assert [file.prefix.name for file in token_files(tmp_path / "train", combine=True)] == ["train", "train1"]
    assert [file.prefix.name for file in token_files(tmp_path / "train", combine=False)] == ["train"]
    (tmp_path / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(96)))
    config = MetroPretrainingConfig(data=str(tmp_path), tokens_per_sample=16)
    config.seed = 1
    task = MetroPretrainingTask.setup_task(config)
    task.load_dataset("train", combine=True)
    data = task.datasets["train"]
    assert [data[number]["tokens"].tolist() for number in range(len(data))] == [[0, 4, 5, 6, 2], [0, 4, 5, 6, 7, 2]]
    assert data.sizes.tolist() == [5, 6]


def test_a_file_of_empty_lines_has_no_blocks_and_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(TokenBlocks(write(tmp_path / "train", [0, 0]), 9, "complete_doc", BOS)) == 0
    (tmp_path / "dict.txt").write_text("w 1\n")
    config = MetroPretrainingConfig(data=str(tmp_path), tokens_per_sample=16)
    config.seed = 1
    with pytest.raises(SystemExit):
        MetroPretrainingTask.setup_task(config).load_dataset("train")
    assert "train.bin: holds no text, only empty lines" in capfd.readouterr().err


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such files; make them with metro-t0-data binarize"):
        token_files(tmp_path / "train", combine=True)
    write(tmp_path / "train", [5, 0])
    bin_path(tmp_path / "train").write_bytes(b"\x05\x00")
    with pytest.raises(UserError, match=r"train\.bin: has 2 bytes, its index says 14"):
        token_files(tmp_path / "train", combine=True)


@pytest.fixture
def data() -> Any:
    """A `BlockDataset` over 400 blocks of 1 to 40 tokens."""
    sizes = np.random.default_rng(0).integers(1, 41, 400).astype(np.uint16)
    blocks = type("Blocks", (list,), {"sizes": sizes})([torch.zeros(size) for size in sizes.tolist()])
    return BlockDataset(blocks, lambda *_: None, PAD, seed=3, epoch=1)  # type: ignore[arg-type]


def test_order_sorts_by_size_and_shuffles_ties(data: Any) -> None:
    shuffle = keyed_generator("shuffle", 3).permutation(400)
    assert data.ordered_indices().tolist() == np.lexsort((shuffle, data.sizes)).tolist()
    assert data.ordered_indices().dtype == np.int64


def test_batches_by_tokens_are_those_of_one_call_per_block(data: Any) -> None:
    order = data.ordered_indices()
    ours = data.batch_by_size(order, max_tokens=300)
    theirs = data_utils.batch_by_size(order, data.num_tokens, max_tokens=300)
    assert [batch.tolist() for batch in ours] == [batch.tolist() for batch in theirs]
