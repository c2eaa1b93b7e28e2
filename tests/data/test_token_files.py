"""Token files against fairseq's own reader and writer."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metro_t0.data import token_files
from metro_t0.data.token_files import HEADER, IdLimit, TokenFile, TokenFileWriter, bin_path, idx_path, token_dtype
from metro_t0.errors import UserError

ITEMS = st.lists(hnp.arrays(np.int64, st.integers(0, 7), elements=st.integers(0, 65_499)), min_size=1, max_size=12)


def write(prefix: Path, items: list, dtype: type = np.uint16) -> None:
    with TokenFileWriter(prefix, dtype=dtype) as writer:
        for item in items:
            writer.add(item)


@settings(deadline=None, max_examples=60)
@given(items=ITEMS, dtype=st.sampled_from([np.uint16, np.int32, np.int64, np.uint32]))
def test_bytes_equal_those_of_fairseq(tmp_path_factory: pytest.TempPathFactory, items: list, dtype: type) -> None:
    torch = pytest.importorskip("torch")
    indexed_dataset = pytest.importorskip("fairseq.data.indexed_dataset")
    directory = tmp_path_factory.mktemp("token_files")
    theirs = indexed_dataset.MMapIndexedDatasetBuilder(str(directory / "theirs.bin"), dtype=dtype)
    for item in items:
        theirs.add_item(torch.from_numpy(item))
    theirs.finalize(str(directory / "theirs.idx"))
    write(directory / "ours", items, dtype)
    assert bin_path(directory / "ours").read_bytes() == (directory / "theirs.bin").read_bytes()
    assert idx_path(directory / "ours").read_bytes() == (directory / "theirs.idx").read_bytes()

    read = TokenFile(directory / "theirs")
    assert len(read) == len(items)
    assert read.sizes.tolist() == [len(item) for item in items]
    for ours, item in zip(read, items, strict=True):
        assert ours.dtype == dtype
        assert ours.tolist() == item.tolist()


def test_fairseq_reads_what_we_write(tmp_path: Path) -> None:
    indexed_dataset = pytest.importorskip("fairseq.data.indexed_dataset")
    items = [[5, 6, 2], [2], [65_535, 2]]
    write(tmp_path / "train", items)
    theirs = indexed_dataset.make_dataset(str(tmp_path / "train"), impl="mmap")
    assert [item.tolist() for item in theirs] == items


def test_items_are_views_and_survive_pickling(tmp_path: Path) -> None:
    write(tmp_path / "train", [[5, 6, 2], [7, 2]])
    read = TokenFile(tmp_path / "train")
    assert np.shares_memory(read[0], read.tokens)
    assert not read[0].flags.writeable
    assert pickle.loads(pickle.dumps(read))[-1].tolist() == [7, 2]


def test_many_items_at_once_equal_one_by_one(tmp_path: Path) -> None:
    write(tmp_path / "one", [[5, 6, 2], [2], [7, 2]])
    with TokenFileWriter(tmp_path / "many") as writer:
        writer.add_items(np.array([5, 6, 2, 2], np.uint16), [3, 1])
        writer.add_items([7, 2], [2])
    for path in (bin_path, idx_path):
        assert path(tmp_path / "one").read_bytes() == path(tmp_path / "many").read_bytes()


def test_no_items(tmp_path: Path) -> None:
    write(tmp_path / "empty", [])
    assert len(TokenFile(tmp_path / "empty")) == 0


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OverflowError):
        write(tmp_path / "train", [[1, 2, 3], [65_536]])
    assert list(tmp_path.iterdir()) == []


def test_dtype_follows_the_vocabulary() -> None:
    assert token_dtype(65_499) == np.uint16
    assert token_dtype(65_500) == np.int32


@pytest.mark.parametrize(
    "damage",
    [
        "missing",
        "magic",
        "short index",
        "long index",
        "short data",
        "long data",
        "size",
        "sizes",
        "offset",
        "negative size",
    ],
)
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "train", [[5, 6, 2], [7, 2]])
    index, data = idx_path(tmp_path / "train"), bin_path(tmp_path / "train")
    if damage == "missing":
        index.unlink()
    elif damage == "magic":
        index.write_bytes(b"TNTIDX\x00\x00" + index.read_bytes()[8:])
    elif damage == "short index":
        index.write_bytes(index.read_bytes()[:-1])
    elif damage == "long index":
        index.write_bytes(index.read_bytes() + b"\0")
    elif damage == "short data":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "long data":
        data.write_bytes(data.read_bytes() + b"\5\0")
    else:
        sizes, offsets = np.array([3, 2], np.int32), np.array([0, 6])
        wrong = {
            "size": (sizes, 0, 2),
            "sizes": (sizes, 1, 3),
            "offset": (offsets, 1, 4),
            "negative size": (sizes, 0, -3),
        }
        values, place, value = wrong[damage]
        values[place] = value
        index.write_bytes(index.read_bytes()[: HEADER.size] + sizes.tobytes() + offsets.tobytes())
    with pytest.raises(UserError, match=r"train\.(idx|bin): "):
        TokenFile(tmp_path / "train")


def test_ids_are_held_against_the_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train", [[5, 6, 2], [7, 2]] * 4 + [[8, 2]] + [[4, 2]] * 9)
    limit = IdLimit(8, tmp_path / "dict.txt")
    assert len(TokenFile(tmp_path / "train", IdLimit(9, tmp_path / "dict.txt"))) == 18
    message = r"train\.bin: holds the id 8, but .*dict\.txt has 8 ids; they do not belong together"
    with pytest.raises(UserError, match=message):
        TokenFile(tmp_path / "train", limit)
    # Of a large file the first look sees a part, reading sees the rest, in another process too.
    monkeypatch.setattr(token_files, "SAMPLES", 2)
    monkeypatch.setattr(token_files, "SAMPLE_TOKENS", 4)
    file = pickle.loads(pickle.dumps(TokenFile(tmp_path / "train", limit)))
    assert file[1].tolist() == [7, 2]
    with pytest.raises(UserError, match=message):
        file[8]
    write(tmp_path / "end", [[4, 2]] * 20 + [[9, 2]])
    with pytest.raises(UserError, match=r"end\.bin: holds the id 9"):
        TokenFile(tmp_path / "end", limit)


def test_no_file_stays_open(tmp_path: Path) -> None:
    write(tmp_path / "train", [[5, 6, 2], [7, 2]])
    before = len(list(Path("/proc/self/fd").iterdir()))
    files = [TokenFile(tmp_path / "train") for _ in range(20)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert [file[1].tolist() for file in files] == [[7, 2]] * 20
