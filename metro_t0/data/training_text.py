"""The words of inputs and their counts: what a vocabulary is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from metro_t0.data.documents import BadLines, documents
from metro_t0.data.sources import PIECES, Input, Unit
from metro_t0.parallel import workers
from metro_t0.progress import progress


def words_of(inputs: Sequence[Input], max_mb: int, processes: int | None) -> Counter[str]:
    """Counts of white-space separated words in the first `max_mb` MB of text."""
    total: Counter[str] = Counter()
    with workers(processes, fork=True) as pool:
        for counts in progress(pool.in_order(_count, _units(inputs, max_mb)), "count words", unit=PIECES):
            total.update(counts)
    return total


def _units(inputs: Sequence[Input], max_mb: int) -> Iterator[Unit]:
    room = max_mb * 1_000_000
    for each in inputs:
        for unit in each.units():
            if room <= 0:
                return
            room -= unit.nbytes
            yield unit


def _count(unit: Unit) -> Counter[str]:
    counts: Counter[str] = Counter()
    for document in documents(unit, BadLines()):
        for line in document:
            counts.update(line.split())
    return counts
