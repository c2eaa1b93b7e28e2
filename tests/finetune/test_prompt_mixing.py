"""Which examples an epoch uses, and reading mixtures and JSONL pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metro_t0.data.token_files import TokenFileWriter
from metro_t0.errors import UserError
from metro_t0.prompts.mixing import TaskExamples, choose_tasks, load_pairs, load_task_examples
from metro_t0.tokenization import Tokenizer


def task(total: int, cap: int | None, name: str = "t") -> TaskExamples:
    items = [np.array([index + 4, 2]) for index in range(total)]
    sizes = np.full(total, 2, dtype=np.int32)
    return TaskExamples(name, "d", items, items, sizes, sizes, cap)


@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 3))
@settings(max_examples=60)
def test_capped_epochs_use_every_example_before_any_twice(total: int, cap: int, seed: int) -> None:
    capped = task(total, cap)
    epochs = [capped.epoch_indices(seed, epoch) for epoch in range(1, 9)]
    assert all(len(each) == min(cap, total) for each in epochs)
    if cap < total:
        used = np.concatenate(epochs)
        counts = np.bincount(used, minlength=total)
        assert counts.max() - counts.min() <= 1
    else:
        assert all(np.array_equal(each, np.arange(total)) for each in epochs)


def test_subsets_are_functions_of_seed_name_and_epoch() -> None:
    first = task(1000, 100).epoch_indices(1, 3)
    assert np.array_equal(first, task(1000, 100).epoch_indices(1, 3))
    for other in (task(1000, 100).epoch_indices(2, 3), task(1000, 100, "u").epoch_indices(1, 3)):
        assert not np.array_equal(first, other)
    assert not set(first) & set(task(1000, 100).epoch_indices(1, 4))


def test_the_order_within_an_epoch_is_fixed() -> None:
    """A resumed run must meet the same examples in the same order."""
    assert [task(7, 3).epoch_indices(1, epoch).tolist() for epoch in (1, 2, 3)] == [[4, 2, 5], [0, 1, 6], [3, 6, 3]]
    assert task(7, 7).epoch_indices(1, 1).tolist() == list(range(7))


def write_task(directory: Path, name: str, count: int, targets: int | None = None) -> None:
    for side, number in (("source", count), ("target", count if targets is None else targets)):
        (directory / "train").mkdir(parents=True, exist_ok=True)
        with TokenFileWriter(directory / "train" / f"{name}.{side}") as writer:
            for index in range(number):
                writer.add([4 + index, 2])


def entry(name: str, **changes: object) -> dict[str, object]:
    base = {"name": name, "dataset": "d", "subset": "s", "examples": 3, "cap": None, "held_out_examples": 0}
    return {**base, **changes}


def test_mixtures_are_read_as_built(tmp_path: Path) -> None:
    write_task(tmp_path, "a", 3)
    (tmp_path / "mixture.json").write_text(json.dumps({"tasks": [entry("a", cap=2)]}))
    (loaded,) = load_task_examples(tmp_path, "train")
    assert (loaded.dataset, loaded.cap, len(loaded)) == ("d_s", 2, 3)
    assert [item.tolist() for item in loaded.sources] == [[4, 2], [5, 2], [6, 2]]
    with pytest.raises(UserError, match="no task has valid examples"):
        load_task_examples(tmp_path, "valid")
    assert choose_tasks([loaded], "d/s") == choose_tasks([loaded], "a") == [loaded]
    with pytest.raises(UserError, match="no held-out examples of 'd_t'; did you mean d_s"):
        choose_tasks([loaded], "d_t")


def test_damaged_mixtures_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make the directory with metro-t0-prompts build"):
        load_task_examples(tmp_path, "train")
    write_task(tmp_path, "a", 3, targets=2)
    (tmp_path / "mixture.json").write_text(json.dumps({"tasks": [entry("a")]}))
    with pytest.raises(UserError, match="3 sources but 2 targets"):
        load_task_examples(tmp_path, "train")


def test_data_sets_of_three_part_names_are_chosen_by_them() -> None:
    nothing = np.zeros(0, dtype=np.int32)
    hub = TaskExamples("o_n_c_t", "o/n_c", [], [], nothing, nothing)
    assert choose_tasks([hub], "o/n/c") == choose_tasks([hub], "o/n_c") == [hub]


def test_pairs_are_tokenized_and_cut(tmp_path: Path, vocabulary: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Tokenizer.load(vocabulary)
    path = tmp_path / "train.jsonl"
    path.write_text('{"source": "what is red", "target": "yes"}\n\n{"source": "very very very", "target": "no no"}\n')
    for source, target in ((4, 3), (3, 2), (40, 41)):  # `<s>` before the source counts, `</s>` after either
        pairs = load_pairs(path, tokenizer, max_source=source, max_target=target)
        assert [item.tolist() for item in pairs.sources] == [
            [*tokenizer.encode("what is red")[: source - 2], 2],
            [*tokenizer.encode("very very very")[: source - 2], 2],
        ]
        assert [item.tolist() for item in pairs.targets] == [
            [*tokenizer.encode("yes")[: target - 1], 2],
            [*tokenizer.encode("no no")[: target - 1], 2],
        ]
        assert pairs.target_sizes.tolist() == [len(item) for item in pairs.targets]
        cut = [sum(len(tokenizer.encode(text)) > kept for text in texts) for texts, kept in (
            (("what is red", "very very very"), source - 2), (("yes", "no no"), target - 1),
        )]  # fmt: skip
        said = f"of 2 examples {cut[0]} sources are cut to {source} tokens, {cut[1]} targets to {target}"
        assert (said in caplog.text) is any(cut)


@pytest.mark.parametrize("line", ['{"source": "a"}', "no json", '{"source": "a", "target": ""}', "[1]"])
def test_bad_pairs_name_their_line(tmp_path: Path, vocabulary: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"source": "a", "target": "b"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"train\.jsonl:2: "):
        load_pairs(path, Tokenizer.load(vocabulary), 10, 10)
