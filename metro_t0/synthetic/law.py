"""The law that examples of one task are drawn from, and the pieces of arrays that samplers are made of.

Matrices are (examples, width) with row i valid in its first `lengths[i]` columns. "Flat" arrays hold the rows of all
examples one after the other, without padding: half as much to draw and to move as a matrix of the longest width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metro_t0.errors import UserError
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens, exclusive_sum
from metro_t0.synthetic.settings import Profile
from metro_t0.synthetic.vocabulary import Vocabulary

Mask = NDArray[np.bool_]
NO_TOKEN = np.uint16(2**16 - 1)


@dataclass(frozen=True)
class Law:
    """profile: the authors' generator or the paper's text, where the two differ.
    low, high: bounds of the input's length in tokens, without prefix and end of sequence, with separators.
    prefix: ids in front of every input.
    """

    vocabulary: Vocabulary
    profile: Profile
    low: int
    high: int
    prefix: tuple[int, ...] = ()

    @property
    def authors(self) -> bool:
        return self.profile == "authors"

    @cached_property
    def numbers(self) -> Ragged:
        """Ids of the numbers that can be an output: 0 .. high."""
        return self.vocabulary.number_table(self.high)

    def tokens(self, draws: Draws, shape: int | tuple[int, ...]) -> Tokens:
        """Tokens of the universe, independent and uniform."""
        return draws.tokens(self.vocabulary.universe_low, self.vocabulary.universe_size, shape)


Sampler = Callable[[Draws, Law, int], Examples]


def valid(lengths: Index, width: int) -> Mask:
    """(n, width): True in the first `lengths[i]` columns of row i."""
    return np.arange(width, dtype=np.uint16) < lengths[:, None].astype(np.uint16)


def distinct_tokens(draws: Draws, law: Law, counts: Index, width: int) -> Tokens:
    """(n, width) tokens; the first `counts[i]` of row i are distinct, uniform without replacement."""
    vocabulary = law.vocabulary
    size, needed = vocabulary.universe_size, int(counts.max())
    if needed > size:
        raise UserError(
            f"vocabulary {vocabulary.fingerprint}: {size} tokens to draw from are too few, "
            f"an example of this task has up to {needed} distinct ones; lower the maximal length or take more tokens"
        )
    if needed * needed > 4 * size:  # a redrawn row would have a repeat again in most cases: permute all tokens
        labels = np.broadcast_to(np.arange(size, dtype=np.uint32), (len(counts), size))
        order = shuffle(draws, labels, np.full(len(counts), size, dtype=np.int64))
        out = np.zeros((len(counts), width), dtype=np.uint16)
        kept = min(width, size)
        out[:, :kept] = order[:, :kept] + vocabulary.universe_low
        return out
    tokens = _padded_tokens(draws, law, counts, width)
    rows = np.flatnonzero(_has_repeat(tokens))
    while len(rows):
        fresh = _padded_tokens(draws, law, counts[rows], width)
        tokens[rows] = fresh
        rows = rows[_has_repeat(fresh)]
    return tokens


def _padded_tokens(draws: Draws, law: Law, counts: Index, width: int) -> Tokens:
    """(n, width) independent tokens in the first `counts[i]` columns, `NO_TOKEN` behind them."""
    tokens = np.full((len(counts), width), NO_TOKEN)
    tokens[valid(counts, width)] = law.tokens(draws, int(counts.sum()))
    return tokens


def _has_repeat(tokens: Tokens) -> Mask:
    """(n,): whether a token other than the padding is twice in its row."""
    ordered = np.sort(tokens, axis=1)
    return ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_TOKEN)).any(axis=1)


def shuffle(draws: Draws, labels: NDArray[np.integer], lengths: Index) -> Tokens:
    """Every row's valid labels (at most 16 bits) in random order.

    One row-wise sort of (random key, label). A key has 32 bits less those of a label, so two keys of a row may be
    equal and then keep label order; where labels need more than 8 bits the keys are 64 bits wide to keep that rare.
    """
    n, width = labels.shape
    bits = max(int(labels.max(initial=0)).bit_length(), 1)
    inside, count = valid(lengths, width), int(lengths.sum())
    drawn: NDArray[np.unsignedinteger] = (draws.lanes(count) if bits <= 8 else draws.wide_lanes(count)).copy()
    kind = drawn.dtype.type
    drawn >>= kind(bits + 1)  # one bit is left free above the key: set, it sends padding to the end
    drawn <<= kind(bits)
    keys = np.full((n, width), np.iinfo(drawn.dtype).max, dtype=drawn.dtype)
    keys[inside] = drawn
    keys |= labels.astype(keys.dtype)
    keys.sort(axis=1)
    keys &= kind((1 << bits) - 1)
    return keys.astype(np.uint16)


def group_sizes(draws: Draws, totals: Index, groups: Index) -> Index:
    """Sizes of `groups[i]` non-empty groups of `totals[i]` members, flat: 1 + Multinomial(totals - groups, uniform)."""
    free = totals - groups
    chosen = draws.below(np.repeat(groups, free), int(free.sum()))
    chosen += np.repeat(exclusive_sum(groups), free)
    return 1 + np.bincount(chosen, minlength=int(groups.sum()))


def group_labels(draws: Draws, totals: Index, groups: Index, width: int) -> Tokens:
    """(n, width): labels 0 .. groups[i] - 1, each at least once, `totals[i]` in all.

    The sizes are 1 + Multinomial(totals - groups, uniform): `groups` fixed labels, the others uniform.
    """
    labels = draws.below(groups[:, None], (len(totals), width)).astype(np.uint16)
    np.copyto(labels, np.arange(width, dtype=np.uint16), where=valid(groups, width))
    return labels


def sorted_labels(labels: NDArray[np.integer], lengths: Index) -> NDArray[np.uint16]:
    """Every row's valid labels in ascending order (columns past the end hold 65535)."""
    ordered = np.where(valid(lengths, labels.shape[1]), labels.astype(np.uint16), NO_TOKEN)
    ordered.sort(axis=1)
    return ordered


def pick(table: NDArray[np.integer], columns: NDArray[np.integer]) -> NDArray[Any]:
    """`table[i, columns[i, j]]`; columns past the table's width (padding) give its last column."""
    n, width = table.shape
    flat = np.add(np.minimum(columns, width - 1), (np.arange(n, dtype=np.int64) * width)[:, None], dtype=np.int64)
    return np.ascontiguousarray(table).ravel().take(flat, mode="clip")


def first_occurrence(tokens: Tokens, lengths: Index) -> Mask:
    """(n, width): True where a valid token is the first of its kind in its row.

    A sort of (token, position) brings equal tokens together in order of position; a second sort of
    (position, is first) brings the answers back to their places. Both are cheaper than scattering.
    """
    n, width = tokens.shape
    inside = valid(lengths, width)
    columns = np.arange(width, dtype=np.uint32)
    keys = np.where(inside, tokens, NO_TOKEN).astype(np.uint32)
    keys <<= np.uint32(16)
    keys |= columns
    keys.sort(axis=1)
    first = np.ones((n, width), dtype=bool)
    tops = (keys >> np.uint32(16)).astype(np.uint16)
    np.not_equal(tops[:, 1:], tops[:, :-1], out=first[:, 1:])
    positions = keys.astype(np.uint16)
    positions <<= np.uint16(1)
    positions |= first
    positions.sort(axis=1)
    return (positions & np.uint16(1)).astype(bool) & inside


def select(matrix: Tokens, kept: Mask) -> Ragged:
    """The kept entries of every row, flat."""
    # Not matrix[kept]: for a mask without long runs the two steps are several times as fast.
    return Ragged.contiguous(
        matrix.ravel().take(np.flatnonzero(kept)), kept.sum(axis=1, dtype=np.uint16).astype(np.int64)
    )


def flat(matrix: Tokens, lengths: Index) -> Ragged:
    """The first `lengths[i]` entries of every row, flat."""
    return Ragged.contiguous(matrix[valid(lengths, matrix.shape[1])], lengths)


def rows_of(matrix: Tokens, lengths: Index) -> Ragged:
    """The first `lengths[i]` entries of row i, as windows into the matrix."""
    return Ragged(np.ascontiguousarray(matrix).ravel(), np.arange(len(lengths)) * matrix.shape[1], lengths)


@dataclass(frozen=True)
class Frame:
    """Where the pieces of the sources lie in one flat buffer: prefix, part, divider, part, .., one row per example.

    parts: lengths of each part, (n,) each.
    A sampler fills the whole buffer at once and `sources` writes the few fixed tokens over it.
    """

    law: Law
    parts: tuple[Index, ...]

    @cached_property
    def rows(self) -> Index:
        """Lengths of the sources."""
        return sum(self.parts, np.full_like(self.parts[0], len(self.law.prefix) + len(self.parts) - 1))

    @cached_property
    def starts(self) -> Index:
        """Where each source starts."""
        return exclusive_sum(self.rows)

    @cached_property
    def size(self) -> int:
        return int(self.rows.sum())

    def start(self, number: int) -> Index:
        """Where part `number` of each source starts."""
        return self.starts + len(self.law.prefix) + sum(self.parts[:number], np.full_like(self.starts, number))

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value per example -> one per token of its source."""
        return np.repeat(values, self.rows)

    def mask(self, number: int) -> Mask:
        """(size,): True on part `number`."""
        before = self.start(number) - self.starts
        return stretches((False, True, False), before, self.parts[number], self.rows - before - self.parts[number])

    def sources(self, values: Tokens) -> Ragged:
        """The buffer as sources, prefix and separators written over it."""
        for offset, token in enumerate(self.law.prefix):
            values[self.starts + offset] = token
        for number in range(1, len(self.parts)):
            values[self.start(number) - 1] = self.law.vocabulary.separator
        return Ragged(values, self.starts, self.rows)


def stretches(flags: Sequence[bool], *lengths: Index) -> Mask:
    """Flat mask of rows that are made of stretches: of row i the k-th has `lengths[k][i]` entries `flags[k]`."""
    return np.repeat(np.tile(np.array(flags), len(lengths[0])), np.stack(lengths, axis=1).ravel())


def join(law: Law, parts: Sequence[Ragged]) -> Ragged:
    """Sources of parts whose values are flat."""
    frame = Frame(law, tuple(part.lengths for part in parts))
    values = np.empty(frame.size, dtype=np.uint16)
    for number, part in enumerate(parts):
        values[frame.mask(number)] = part.values
    return frame.sources(values)


def numbers(law: Law, values: Index) -> Ragged:
    """Targets that are numbers."""
    return law.numbers.take(values)


def answers(law: Law, truth: Mask) -> Ragged:
    """Targets yes or no."""
    table = Ragged.from_lists([law.vocabulary.no, law.vocabulary.yes])
    return table.take(truth.astype(np.int64))
