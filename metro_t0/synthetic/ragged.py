"""Rows of different lengths in one flat array: how a block of examples lies in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.uint16]
Index = NDArray[np.int64]


def exclusive_sum(lengths: Index) -> Index:
    """Where each row starts when rows of these lengths lie one after the other: (n,) -> (n,)."""
    starts = np.zeros(len(lengths), dtype=np.int64)
    np.cumsum(lengths[:-1], out=starts[1:])
    return starts


def row_positions(starts: Index, lengths: Index) -> Index:
    """The flat indices `starts[i] .. starts[i] + lengths[i] - 1` of all rows, concatenated: (sum of lengths,)."""
    total = int(lengths.sum())
    return np.arange(total) + np.repeat(starts - exclusive_sum(lengths), lengths)


def tokens_of(ids: list[int]) -> Tokens:
    """A list as an array; `array` reads lists of small integers several times as fast as numpy."""
    return np.frombuffer(array("H", ids), dtype=np.uint16)


@dataclass(frozen=True)
class Ragged:
    """Row i is `values[starts[i] : starts[i] + lengths[i]]`.

    Rows may lie anywhere in `values`, in any order, and may overlap: the target of an identity example is a
    window into the buffer of its source, and costs nothing.
    """

    values: Tokens
    starts: Index
    lengths: Index

    @classmethod
    def contiguous(cls, values: Tokens, lengths: Index) -> Ragged:
        """Rows that lie one after the other in `values`."""
        return cls(values, exclusive_sum(lengths), lengths)

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        return cls.contiguous(tokens_of(list(chain.from_iterable(rows))), lengths)

    @classmethod
    def concatenate(cls, parts: Iterable[Ragged]) -> Ragged:
        compact = [part.compact() for part in parts]
        return cls.contiguous(
            np.concatenate([part.values for part in compact]), np.concatenate([part.lengths for part in compact])
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> Tokens:
        start = int(self.starts[row])
        return self.values[start : start + int(self.lengths[row])]

    def __iter__(self) -> Iterator[Tokens]:
        return (self[row] for row in range(len(self)))

    @property
    def token_count(self) -> int:
        return int(self.lengths.sum())

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Ragged:
        """These rows, over the same buffer."""
        return Ragged(self.values, self.starts[rows], self.lengths[rows])

    def compact(self) -> Ragged:
        """The same rows, one after the other in a buffer of their own; these rows where they lie so already."""
        if len(self.values) == self.token_count and np.array_equal(self.starts, exclusive_sum(self.lengths)):
            return self
        return Ragged.contiguous(self.values[row_positions(self.starts, self.lengths)], self.lengths)

    def or_marker(self, marker: int) -> Ragged:
        """The same rows with every empty one replaced by the single token `marker`."""
        empty = self.lengths == 0
        if not empty.any():
            return self
        values = np.append(self.values, np.uint16(marker))
        starts = np.where(empty, len(self.values), self.starts)
        return Ragged(values, starts, np.where(empty, 1, self.lengths))

    def padded(self, pad: int, end: int | None = None) -> NDArray[np.int64]:
        """Rows as a matrix (rows, longest), padded on the right; with `end`, that token closes every row."""
        extra = 0 if end is None else 1
        width = int(self.lengths.max(initial=0)) + extra
        matrix = np.full((len(self), width), pad, dtype=np.int64)
        row_starts = np.arange(len(self), dtype=np.int64) * width
        matrix.ravel()[row_positions(row_starts, self.lengths)] = self.compact().values
        if end is not None:
            matrix[np.arange(len(self)), self.lengths] = end
        return matrix


@dataclass(frozen=True)
class Examples:
    """A block of (source, target) pairs of token ids; neither side carries the end-of-sequence token."""

    sources: Ragged
    targets: Ragged

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def token_count(self) -> int:
        """Source plus target tokens."""
        return self.sources.token_count + self.targets.token_count

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Examples:
        return Examples(self.sources.take(rows), self.targets.take(rows))

    @classmethod
    def concatenate(cls, parts: Sequence[Examples]) -> Examples:
        return cls(Ragged.concatenate(p.sources for p in parts), Ragged.concatenate(p.targets for p in parts))
