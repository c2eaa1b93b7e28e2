"""Rows of different lengths in one flat array: how a block of examples lies in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.uint16]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


def exclusive_sum(lengths: Index) -> Index:
    """Where each row starts when rows of these lengths lie one after the other: (n,) -> (n,)."""
    return np.cumsum(lengths) - lengths


def row_positions(starts: Index, lengths: Index) -> Index:
    """The flat indices `starts[i] .. starts[i] + lengths[i] - 1` of all rows, concatenated: (sum of lengths,)."""
    return np.arange(int(lengths.sum())) + np.repeat(starts - exclusive_sum(lengths), lengths)


@dataclass(frozen=True)
class Ragged:
    """Rows one after the other. values: (sum of lengths,) uint16; lengths: (rows,) int64."""

    values: Tokens
    lengths: Index

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        return cls(np.fromiter(chain.from_iterable(rows), dtype=np.uint16, count=int(lengths.sum())), lengths)

    @classmethod
    def concatenate(cls, parts: Iterable[Ragged]) -> Ragged:
        values, lengths = zip(*((part.values, part.lengths) for part in parts), strict=True)
        return cls(np.concatenate(values), np.concatenate(lengths))

    @cached_property
    def starts(self) -> Index:
        """(rows,) int64: where each row begins in `values`."""
        return exclusive_sum(self.lengths)

    @cached_property
    def _bounds(self) -> list[tuple[int, int]]:
        return list(zip(self.starts.tolist(), np.cumsum(self.lengths).tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> Tokens:
        begin, end = self._bounds[row]
        return self.values[begin:end]

    def __iter__(self) -> Iterator[Tokens]:
        return (self.values[begin:end] for begin, end in self._bounds)

    def lists(self) -> Iterator[list[int]]:
        """Every row as a list."""
        return (row.tolist() for row in self)

    def row_bytes(self) -> Iterator[bytes]:
        """What tells whether two rows are equal."""
        content = self.values.tobytes()
        return (content[2 * begin : 2 * end] for begin, end in self._bounds)

    def take(self, rows: Index | Mask) -> Ragged:
        """The rows at these positions, or where a mask is true."""
        lengths = self.lengths[rows]
        return Ragged(self.values[row_positions(self.starts[rows], lengths)], lengths)

    def padded(self, pad: int, end: int) -> NDArray[np.int64]:
        """(rows, longest + 1) int64: every row closed by `end`, `pad` behind it."""
        matrix = np.full((len(self), int(self.lengths.max(initial=0)) + 1), pad, dtype=np.int64)
        matrix[valid(self.lengths, matrix.shape[1])] = self.values
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
        return len(self.sources.values) + len(self.targets.values)

    def take(self, rows: Index | Mask) -> Examples:
        return Examples(self.sources.take(rows), self.targets.take(rows))

    @classmethod
    def concatenate(cls, parts: Sequence[Examples]) -> Examples:
        return cls(Ragged.concatenate(p.sources for p in parts), Ragged.concatenate(p.targets for p in parts))


def valid(lengths: Index, width: int) -> Mask:
    """(n, width): True in the first `lengths[i]` columns of row i."""
    return np.arange(width) < lengths[:, None]
