"""The words of inputs and their counts: what a vocabulary is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from metro_t0.data.documents import BadLines, documents
from metro_t0.data.sources import PIECES, Input, Unit
from metro_t0.parallel import workers
from metro_t0.progress import progress


def words_of(inputs: Sequence[Input], max_mb: int, processes: int | None) -> tuple[Counter[str], BadLines]:
    """Counts of white-space separated words in the first `max_mb` MB of text, and the lines that were skipped."""
    total: Counter[str] = Counter()
    skipped = BadLines()
    with workers(processes, fork=True) as pool:
        for counts, bad in progress(pool.in_order(_count, _units(inputs, max_mb)), "count words", unit=PIECES):
            total.update(counts)
            skipped.merge(bad.counts, bad.examples)
    return total, skipped


def _units(inputs: Sequence[Input], max_mb: int) -> Iterator[Unit]:
    room = max_mb * 1_000_000
    for each in inputs:
        for unit in each.units():
            if room <= 0:
                return
            room -= unit.nbytes
            yield unit


def _count(unit: Unit) -> tuple[Counter[str], BadLines]:
    counts: Counter[str] = Counter()
    bad = BadLines()
    for document in documents(unit, bad):
        for line in document:
            counts.update(line.split())
    return counts, bad
