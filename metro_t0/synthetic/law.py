"""The law that examples of one task are drawn from, and the pieces of arrays that samplers are made of.

Matrices are (examples, width) with row i valid in its first `lengths[i]` columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metro_t0.errors import UserError
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens, row_positions
from metro_t0.synthetic.vocabulary import Vocabulary

Profile = Literal["authors", "paper"]
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
    tokens = law.tokens(draws, (len(counts), width))
    rows = np.arange(len(counts))
    while len(rows):
        rows = rows[_has_repeat(tokens[rows], counts[rows])]
        tokens[rows] = law.tokens(draws, (len(rows), width))
    return tokens


def _has_repeat(tokens: Tokens, counts: Index) -> Mask:
    ordered = np.where(valid(counts, tokens.shape[1]), tokens, NO_TOKEN)
    ordered.sort(axis=1)
    repeated = ordered[:, 1:] == ordered[:, :-1]
    return (repeated & valid(counts - 1, repeated.shape[1])).any(axis=1)


def shuffle(draws: Draws, labels: NDArray[np.integer], lengths: Index) -> NDArray[np.uint32]:
    """Every row's valid labels in random order.

    One row-wise sort of (random key, label). A key has 32 bits less those of a label, so two keys of a row may be
    equal and then keep label order; where labels need more than 8 bits the keys are 64 bits wide to keep that rare.
    """
    n, width = labels.shape
    bits = max(int(labels.max(initial=0)).bit_length(), 1)
    if bits <= 8:
        keys: NDArray[np.unsignedinteger] = draws.lanes(n * width).reshape(n, width).copy()
    else:
        keys = draws.wide_lanes(n * width).reshape(n, width).copy()
    kind = keys.dtype.type
    keys >>= kind(bits + 1)  # one bit is left free above the key: set, it sends padding to the end
    keys <<= kind(bits)
    keys |= labels.astype(keys.dtype)
    keys[~valid(lengths, width)] = np.iinfo(keys.dtype).max
    keys.sort(axis=1)
    keys &= kind((1 << bits) - 1)
    return keys.astype(np.uint32, copy=False)


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


def pick(table: NDArray[np.integer], columns: NDArray[np.integer]) -> NDArray:
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
    """The kept entries of every row."""
    return Ragged.contiguous(matrix[kept], kept.sum(axis=1))


def rows_of(matrix: Tokens, lengths: Index) -> Ragged:
    """The first `lengths[i]` entries of row i, as windows into the matrix."""
    return Ragged(np.ascontiguousarray(matrix).ravel(), np.arange(len(lengths)) * matrix.shape[1], lengths)


def join(law: Law, parts: Sequence[Ragged], divider: int | None = None) -> Ragged:
    """Sources: prefix, then the parts of every example with `divider` (the separator by default) between them."""
    gap = len(parts) - 1
    lengths = len(law.prefix) + gap + np.sum([part.lengths for part in parts], axis=0)
    source = Ragged.contiguous(np.empty(int(lengths.sum()), dtype=np.uint16), lengths)
    at = write_prefix(source, law)
    for number, part in enumerate(parts):
        if number:
            source.values[at] = law.vocabulary.separator if divider is None else divider
            at = at + 1
        source.values[row_positions(at, part.lengths)] = part.values[row_positions(part.starts, part.lengths)]
        at = at + part.lengths
    return source


def write_prefix(source: Ragged, law: Law) -> Index:
    """Overwrite the first tokens of every row with the prefix; gives where the inputs start."""
    for offset, token in enumerate(law.prefix):
        source.values[source.starts + offset] = token
    return source.starts + len(law.prefix)


def numbers(law: Law, values: Index) -> Ragged:
    """Targets that are numbers."""
    return law.numbers.take(values)


def answers(law: Law, truth: Mask) -> Ragged:
    """Targets yes or no."""
    table = Ragged.from_lists([law.vocabulary.no, law.vocabulary.yes])
    return table.take(truth.astype(np.int64))
