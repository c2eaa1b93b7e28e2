"""Synthetic examples looked at, counted and checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metro_t0.progress import progress
from metro_t0.synthetic.law import Law
from metro_t0.synthetic.letters import Letters
from metro_t0.synthetic.settings import BLOCK, Order
from metro_t0.synthetic.storage import Row, open_directory, read_rows
from metro_t0.synthetic.stream import Mixture
from metro_t0.synthetic.tasks import TASKS, defect_of
from metro_t0.tables import print_table


def print_examples(mixture: Mixture, count: int, ids: bool) -> None:
    """The first `count` examples, with letters for tokens or with their ids."""
    rows = []
    for source, target, task in _first_rows(mixture, count):
        letters = Letters(mixture.streams[task].law)
        shown = (source, target) if ids else (letters.source(source), letters.target(target))
        rows.append((mixture.streams[task].task.name, *(" ".join(map(str, side)) for side in shown)))
    print_table(("task", "source", "target"), rows, left=(1, 2))


def _first_rows(mixture: Mixture, count: int) -> Iterator[tuple[list[int], list[int], int]]:
    for number in range(-(-count // BLOCK)):
        examples, labels = mixture.labeled_block("train", number)
        for row in range(min(BLOCK, count - number * BLOCK)):
            yield examples.sources[row].tolist(), examples.targets[row].tolist(), int(labels[row])


def print_statistics(mixture: Mixture, count: int) -> None:
    """Lengths, shares and duplicates of the first `count` examples."""
    empty = mixture.streams[0].law.vocabulary.empty
    rows: dict[int, list[tuple[int, int, bool, bool, bytes]]] = {}
    for source, target, task in progress(_first_rows(mixture, count), "read", count, "examples"):
        body = source[len(mixture.streams[task].law.prefix) :]
        key = np.array(source, dtype=np.uint16).tobytes()
        rows.setdefault(task, []).append((len(body), len(target), target == [empty], target == body, key))
    cells = []
    for task, found in sorted(rows.items()):
        lengths, targets, is_empty, same, keys = zip(*found, strict=True)
        cells.append(
            (
                mixture.streams[task].task.name,
                str(len(found)),
                f"{min(lengths)}..{max(lengths)}, mean {np.mean(lengths):.1f}",
                f"{min(targets)}..{max(targets)}, mean {np.mean(targets):.1f}",
                f"{np.mean(is_empty):.1%}",
                f"{np.mean(same):.1%}",
                str(len(keys) - len(set(keys))),
            )
        )
    header = ("task", "examples", "input length", "target length", "empty", "target = input", "duplicate sources")
    print_table(header, cells)


def verify_directory(directory: Path, vocabulary: str | None) -> int:
    """Check all files of a directory that `generate` wrote; gives 1 at the first wrong example, or 0."""
    opened = open_directory(directory, vocabulary)
    for split in opened.splits:
        for name, law in opened.laws.items():
            path = opened.files.path(split, name)
            rows = read_rows(opened.files, split, name, law.vocabulary.eos)
            if verify_rows(path, rows, name, law, opened.order):
                return 1
    return 0


def verify_rows(path: Path, rows: Iterator[Row], name: str, law: Law, order: Order) -> int:
    """Check rows; print the first wrong one and give 1, or print how many are right and give 0."""
    count = 0
    for source, target in progress(rows, str(path), unit="examples"):
        count += 1
        defect = defect_of(TASKS[name], source, target, law, order)
        if defect is not None:
            print(f"{path}: line {count}: {defect}")
            return 1
    print(f"{path}: {count} examples of {name}, all right")
    return 0
