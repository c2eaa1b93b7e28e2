"""Infinite streams of examples: a pure function of (seed, task, profile, split, block).

A block is 1,024 examples and can be made alone, so a resumed, resharded or differently batched run sees the same
examples. Training examples never have a source of the validation set.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metro_t0.errors import UserError
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import Law
from metro_t0.synthetic.ragged import Examples, Ragged
from metro_t0.synthetic.settings import BLOCK, VALID_BLOCKS, VALID_EXAMPLES, Order, StreamSettings
from metro_t0.synthetic.tasks import GROUPS, Task, get_task, target_of, task_law, task_sampler
from metro_t0.synthetic.vocabulary import Vocabulary

Split = Literal["train", "valid"]
GENERATOR_VERSION = 2
ROWS_PER_DRAW = 512  # half a block at a time: its temporary arrays stay in the cache
SPARE_DRAWS = 64
SMALLEST_RATE = Fraction(1, 512)


@dataclass(frozen=True)
class TaskStream:
    """The examples of one task."""

    task: Task
    law: Law
    seed: int
    order: Order = "first_occurrence"

    def block(self, split: Split, number: int) -> Examples:
        """Examples number * 1024 .. (number + 1) * 1024 - 1 of a split.

        Raises `UserError` past the end of the validation set, and where the task has so few sources that nearly
        all of them are in the validation set.
        """
        if split == "valid":
            if number >= VALID_BLOCKS:
                raise UserError(f"the validation set has {VALID_EXAMPLES} examples; block {number} is past its end")
            return self._draw(split, number, 0)
        kept = self._unseen(number, 0)
        for spare in range(1, SPARE_DRAWS):
            if len(kept) == BLOCK:
                return kept
            kept = Examples.concatenate([kept, self._unseen(number, spare)])
            kept = kept.take(np.arange(min(BLOCK, len(kept))))
        raise UserError(
            f"task {self.task.name} with these length bounds and this vocabulary has too few different sources: "
            "nearly all are in the validation set; take longer sequences or more tokens"
        )

    def _unseen(self, number: int, spare: int) -> Examples:
        """Training examples whose source is not in the validation set."""
        examples = self._draw("train", number, spare)
        new = np.array([source.tobytes() not in self._held_out for source in examples.sources])
        return examples if new.all() else examples.take(new)

    def _draw(self, split: Split, number: int, spare: int) -> Examples:
        profile = self.law.profile
        draws = Draws("synthetic", GENERATOR_VERSION, self.seed, self.task.name, profile, split, number, spare)
        sampler = task_sampler(self.task, profile)
        parts = [sampler(draws, self.law, ROWS_PER_DRAW) for _ in range(BLOCK // ROWS_PER_DRAW)]
        examples = _stack(parts)
        if self.task.set_operation is not None and self.order != "first_occurrence":
            targets = [target_of(self.task, source.tolist(), self.law, self.order) for source in examples.sources]
            return Examples(examples.sources, Ragged.from_lists(targets))
        return Examples(examples.sources, examples.targets.or_marker(self.law.vocabulary.empty))

    @cached_property
    def _held_out(self) -> set[bytes]:
        """The sources of the validation set."""
        blocks = [self.block("valid", number).sources for number in range(VALID_BLOCKS)]
        return {source.tobytes() for block in blocks for source in block}


def _stack(parts: Sequence[Examples]) -> Examples:
    """Blocks one after the other, without moving rows within their buffers."""

    def side(rows: Sequence[Ragged]) -> Ragged:
        offsets = np.cumsum([0, *(len(part.values) for part in rows[:-1])])
        return Ragged(
            np.concatenate([part.values for part in rows]),
            np.concatenate([part.starts + offset for part, offset in zip(rows, offsets, strict=True)]),
            np.concatenate([part.lengths for part in rows]),
        )

    sources = side([part.sources for part in parts])
    if all(part.sources.values is part.targets.values for part in parts):
        targets = side([part.targets for part in parts])
        return Examples(sources, Ragged(sources.values, targets.starts, targets.lengths))
    return Examples(sources, side([part.targets for part in parts]))


@dataclass(frozen=True)
class Mixture:
    """Several task streams at fixed rates, as one stream of blocks.

    After i examples the mixture has taken floor(i * C_t) - floor(i * C_(t-1)) examples of task t, C being the
    cumulative rates: rates hold exactly, and every task gives its examples in order, each once. Within a block the
    tasks are shuffled.
    """

    streams: tuple[TaskStream, ...]
    rates: tuple[Fraction, ...]
    seed: int

    def __post_init__(self) -> None:
        for stream, rate in zip(self.streams, self.rates, strict=True):
            if rate < SMALLEST_RATE:
                raise UserError(f"task {stream.task.name} has a rate of {float(rate):.5f}; at least 1/512 is needed")
        object.__setattr__(self, "_blocks", {})

    def _taken(self, examples: int) -> list[int]:
        """Examples of each task among the first `examples` of the mixture."""
        bounds = [0]
        total = Fraction(0)
        for rate in self.rates:
            total += rate
            bounds.append(int(examples * total))
        return [high - low for low, high in itertools.pairwise(bounds)]

    def block(self, split: Split, number: int) -> Examples:
        """Block `number` of the mixture."""
        return self.labeled_block(split, number)[0]

    def labeled_block(self, split: Split, number: int) -> tuple[Examples, NDArray[np.int64]]:
        """A block, and for each of its examples the position of its task in `streams`."""
        if len(self.streams) == 1:
            return self.streams[0].block(split, number), np.zeros(BLOCK, dtype=np.int64)
        begins, ends = self._taken(number * BLOCK), self._taken((number + 1) * BLOCK)
        parts = [self._range(t, split, begin, end) for t, (begin, end) in enumerate(zip(begins, ends, strict=True))]
        labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        keys = Draws("mixture", GENERATOR_VERSION, self.seed, split, number).wide_lanes(BLOCK)
        order = np.argsort(keys, kind="stable")
        return Examples.concatenate(parts).take(order), labels[order]

    def _range(self, t: int, split: Split, begin: int, end: int) -> Examples:
        """Examples begin .. end - 1 of task t."""
        parts = []
        for number in range(begin // BLOCK, -(-end // BLOCK)):
            first = number * BLOCK
            rows = np.arange(max(begin - first, 0), min(end - first, BLOCK))
            parts.append(self._task_block(t, split, number).take(rows))
        return Examples.concatenate(parts) if parts else Examples(Ragged.from_lists([]), Ragged.from_lists([]))

    def _task_block(self, t: int, split: Split, number: int) -> Examples:
        # Neighboring blocks of the mixture take from the same block of a task: the latest one is kept.
        cache: dict[tuple[int, str], tuple[int, Examples]] = self.__dict__["_blocks"]
        kept = cache.get((t, split))
        if kept is None or kept[0] != number:
            kept = (number, self.streams[t].block(split, number))
            cache[t, split] = kept
        return kept[1]

    def describe(self) -> dict[str, Any]:
        """Everything the examples depend on, as a manifest records it."""
        law = self.streams[0].law
        return {
            "generator_version": GENERATOR_VERSION,
            "seed": self.seed,
            "profile": law.profile,
            "order": self.streams[0].order,
            "length_min": law.low,
            "length_max": law.high,
            "tasks": {s.task.name: float(rate) for s, rate in zip(self.streams, self.rates, strict=True)},
            "prefixes": {s.task.name: list(s.law.prefix) for s in self.streams},
            "vocabulary": law.vocabulary.describe,
        }


def make_mixture(settings: StreamSettings, vocabulary: Vocabulary) -> Mixture:
    """The stream of these examples. Raises `UserError` for whatever cannot be."""
    rates = parse_rates(settings.tasks)
    bounds = (settings.length_min, settings.length_max)
    streams = tuple(
        TaskStream(
            get_task(name),
            task_law(get_task(name), vocabulary, settings.profile, *bounds, settings.task_prefix),
            settings.seed,
            settings.order,
        )
        for name in rates
    )
    return Mixture(streams, tuple(rates.values()), settings.seed)


def parse_rates(text: str) -> Mapping[str, Fraction]:
    """`set:1,lime:2` -> share of every task. Raises `UserError` for unknown names and bad rates."""
    weights: dict[str, Fraction] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, rate = item.partition(":")
        members = GROUPS.get(name, (name,))
        for member in members:
            task = get_task(member).name
            weights[task] = weights.get(task, Fraction(0)) + _rate(item, rate) / len(members)
    if not weights:
        raise UserError("no synthetic task is given; name at least one, as in set or set:1,identity:2")
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _rate(item: str, rate: str) -> Fraction:
    try:
        value = Fraction(rate or "1").limit_denominator(10**6)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise UserError(f"rate of {item!r} is not a positive number; write TASK:RATE, as in set:0.5")
    return value
