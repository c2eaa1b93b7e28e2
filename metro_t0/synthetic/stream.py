"""Infinite streams of examples: a pure function of (seed, task, profile, split, block).

A block is 1,024 examples and can be made alone, so a resumed, resharded or differently batched run sees the same
examples. Training examples never have a source of the validation set.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np

from metro_t0.errors import UserError
from metro_t0.synthetic.distribution import Distribution
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.ragged import Examples, Index
from metro_t0.synthetic.settings import BLOCK, VALID_BLOCKS, VALID_EXAMPLES, StreamSettings
from metro_t0.synthetic.tasks import GROUPS, SyntheticTask, get_task
from metro_t0.synthetic.vocabulary import SyntheticVocabulary

Split = Literal["train", "valid"]
SPLITS: tuple[Split, ...] = ("train", "valid")
GENERATOR_VERSION = 2
DRAWS_PER_BLOCK = 2
SPARE_DRAWS = 64
SMALLEST_RATE = Fraction(1, 512)


@dataclass(frozen=True)
class TaskStream:
    """The examples of one task."""

    task: SyntheticTask
    distribution: Distribution
    seed: int

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
            if len(kept) >= BLOCK:
                return kept.take(np.arange(BLOCK))
            kept = Examples.concatenate([kept, self._unseen(number, spare)])
        raise UserError(
            f"task {self.task.name} with these length bounds and this vocabulary has too few different sources: "
            "nearly all are in the validation set; take longer sequences or more tokens"
        )

    def _unseen(self, number: int, spare: int) -> Examples:
        """Training examples whose source is not in the validation set."""
        examples = self._draw("train", number, spare)
        unseen = np.array([key not in self._held_out for key in examples.sources.row_bytes()])
        return examples if unseen.all() else examples.take(unseen)

    def _draw(self, split: Split, number: int, spare: int) -> Examples:
        profile = self.distribution.profile
        draws = Draws("synthetic", GENERATOR_VERSION, self.seed, self.task.name, profile, split, number, spare)
        size = BLOCK // DRAWS_PER_BLOCK
        return Examples.concatenate([self.task.draw(draws, self.distribution, size) for _ in range(DRAWS_PER_BLOCK)])

    @cached_property
    def _held_out(self) -> set[bytes]:
        """The sources of the validation set."""
        return {key for number in range(VALID_BLOCKS) for key in self.block("valid", number).sources.row_bytes()}


class BlockReader:
    """Examples by their number, of blocks the latest of which is kept: neighboring examples are of the same block."""

    def __init__(self, block: Callable[[int], Examples]) -> None:
        self._block = block
        self._latest: tuple[int, Examples] | None = None

    def _read(self, number: int) -> Examples:
        if self._latest is None or self._latest[0] != number:
            self._latest = (number, self._block(number))
        return self._latest[1]

    def __call__(self, begin: int, end: int) -> Examples:
        """Examples begin .. end - 1."""
        parts = []
        for number in range(begin // BLOCK, -(-end // BLOCK)):
            first = number * BLOCK
            parts.append(self._read(number).take(np.arange(max(begin - first, 0), min(end - first, BLOCK))))
        return Examples.concatenate(parts)


@dataclass(frozen=True)
class TaskMixture:
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

    @property
    def vocabulary(self) -> SyntheticVocabulary:
        return self.streams[0].distribution.vocabulary

    @cached_property
    def _readers(self) -> dict[Split, list[BlockReader]]:
        return {split: [BlockReader(partial(s.block, split)) for s in self.streams] for split in SPLITS}

    def block(self, split: Split, number: int) -> Examples:
        """Block `number` of the mixture."""
        return self.labeled_block(split, number)[0]

    def labeled_block(self, split: Split, number: int) -> tuple[Examples, Index]:
        """A block, and for each of its examples the position of its task in `streams`: (1024,) int64."""
        if len(self.streams) == 1:
            return self.streams[0].block(split, number), np.zeros(BLOCK, dtype=np.int64)
        shares = [Fraction(0), *itertools.accumulate(self.rates)]
        taken = [
            [int(examples * high) - int(examples * low) for low, high in itertools.pairwise(shares)]
            for examples in (number * BLOCK, (number + 1) * BLOCK)
        ]
        parts = [read(*bounds) for read, *bounds in zip(self._readers[split], *taken, strict=True)]
        labels = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        keys = Draws("mixture", GENERATOR_VERSION, self.seed, split, number).wide_lanes(BLOCK)
        order = np.argsort(keys, kind="stable")
        return Examples.concatenate(parts).take(order), labels[order]

    def describe(self) -> dict[str, Any]:
        """Everything the examples depend on, as a manifest records it."""
        distribution = self.streams[0].distribution
        return {
            "generator_version": GENERATOR_VERSION,
            "seed": self.seed,
            "profile": distribution.profile,
            "order": distribution.order,
            "length_min": distribution.low,
            "length_max": distribution.high,
            "tasks": {s.task.name: float(rate) for s, rate in zip(self.streams, self.rates, strict=True)},
            "prefixes": {s.task.name: list(s.distribution.prefix) for s in self.streams},
            "vocabulary": distribution.vocabulary.describe,
        }


def make_mixture(settings: StreamSettings, vocabulary: SyntheticVocabulary) -> TaskMixture:
    """The stream of these examples. Raises `UserError` for whatever cannot be."""
    rates = parse_rates(settings.tasks)
    profile, bounds = settings.profile, (settings.length_min, settings.length_max)
    prefixed = profile == "authors" if settings.task_prefix is None else settings.task_prefix
    streams = []
    for task in map(get_task, rates):
        task.check_bounds(profile, *bounds)
        prefix = task.prefix(vocabulary) if prefixed else ()
        distribution = Distribution(vocabulary, profile, *bounds, prefix, settings.order)
        streams.append(TaskStream(task, distribution, settings.seed))
    return TaskMixture(tuple(streams), tuple(rates.values()), settings.seed)


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
    with contextlib.suppress(ValueError, ZeroDivisionError):
        if (value := Fraction(rate or "1").limit_denominator(10**6)) > 0:
            return value
    raise UserError(f"rate of {item!r} is not a positive number; write TASK:RATE, as in set:0.5")
