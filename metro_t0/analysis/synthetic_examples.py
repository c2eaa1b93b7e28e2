"""Synthetic examples looked at and counted: with letters for tokens, as the papers print them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from metro_t0.progress import progress
from metro_t0.synthetic.lime import Marks
from metro_t0.synthetic.settings import BLOCK
from metro_t0.synthetic.stream import TaskMixture, TaskStream
from metro_t0.synthetic.tasks import FunctionTask
from metro_t0.synthetic.vocabulary import SyntheticVocabulary
from metro_t0.tables import print_table


def print_examples(mixture: TaskMixture, count: int, ids: bool) -> None:
    """The first `count` examples, with letters for tokens or with their ids."""
    rows = []
    for source, target, label in _first_rows(mixture, count):
        stream = mixture.streams[label]
        shown = (source, target) if ids else in_letters(stream, source, target)
        rows.append((stream.task.name, *(" ".join(map(str, side)) for side in shown)))
    print_table(("task", "source", "target"), rows, left=(1, 2))


def _first_rows(mixture: TaskMixture, count: int) -> Iterator[tuple[list[int], list[int], int]]:
    """(source, target, position of the task) of each."""
    for number in range(-(-count // BLOCK)):
        examples, labels = mixture.labeled_block("train", number)
        rows = zip(examples.sources.lists(), examples.targets.lists(), labels.tolist(), strict=True)
        yield from itertools.islice(rows, count - number * BLOCK)


def print_statistics(mixture: TaskMixture, count: int) -> None:
    """Lengths, shares and duplicates of the first `count` examples."""
    empty = mixture.vocabulary.empty
    rows: dict[int, list[tuple[int, int, bool, bool, bytes]]] = {}
    for source, target, task in progress(_first_rows(mixture, count), "read", count, "examples"):
        body = source[len(mixture.streams[task].distribution.prefix) :]
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


def in_letters(stream: TaskStream, source: Sequence[int], target: Sequence[int]) -> tuple[list[str], list[str]]:
    """Source without its prefix, and target, as the papers print them; a number or an answer is shown as such."""
    names, letters = _names_of_marks(stream.distribution.vocabulary), dict[int, str]()

    def shown(token: int) -> str:
        """Tokens are a, b, .., z, a1, b1, .. in order of appearance."""
        if token in names:
            return names[token]
        if not stream.distribution.vocabulary.in_universe(token):
            return f"#{token}"
        cycle, letter = divmod(len(letters), 26)
        return letters.setdefault(token, chr(ord("a") + letter) + (str(cycle) if cycle else ""))

    body = [shown(token) for token in source[len(stream.distribution.prefix) :]]
    output = stream.task.output(source, stream.distribution) if isinstance(stream.task, FunctionTask) else None
    if isinstance(output, bool):
        return body, ["yes" if output else "no"]
    return body, [str(output)] if isinstance(output, int) else [shown(token) for token in target]


def _names_of_marks(vocabulary: SyntheticVocabulary) -> dict[int, str]:
    marks = Marks.of(vocabulary)
    names = {token: f"<x{i}>" for i, token in enumerate(reversed(vocabulary.reserved))}
    names |= {vocabulary.word_divider: "<s>", vocabulary.separator: "<s>", vocabulary.empty: "<e>"}
    names |= {marks.colon: ":", marks.separator: "|", marks.opening: "[", marks.closing: "]"}
    return names | {marks.upper: "UPPER", marks.lower: "LOWER", marks.math: "MATH"}
