"""What the examples of one task are drawn from, and where the parts of their sources lie."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from metro_t0.errors import UserError
from metro_t0.synthetic.draws import Draws, Shape
from metro_t0.synthetic.ragged import Index, Ragged, Tokens, exclusive_sum, row_positions, valid
from metro_t0.synthetic.settings import Order, Profile
from metro_t0.synthetic.vocabulary import SyntheticVocabulary

NO_TOKEN = np.uint16(2**16 - 1)


@dataclass(frozen=True)
class Distribution:
    """profile: the authors' generator or the paper's text, where the two differ.
    low, high: bounds of the input's length in tokens, without prefix and end of sequence, with separators.
    prefix: ids in front of every input. order: of the outputs of set operations.
    """

    vocabulary: SyntheticVocabulary
    profile: Profile
    low: int
    high: int
    prefix: tuple[int, ...] = ()
    order: Order = "first_occurrence"

    @property
    def authors(self) -> bool:
        return self.profile == "authors"

    def tokens(self, draws: Draws, shape: Shape) -> Tokens:
        """Tokens of the universe, independent and uniform, of this shape."""
        ids = draws.below(self.vocabulary.universe_size, shape).astype(np.uint16)
        ids += np.uint16(self.vocabulary.universe_low)
        return ids

    def distinct_tokens(self, draws: Draws, counts: Index) -> Tokens:
        """(n, largest count) tokens; the first `counts[i]` of row i are distinct, uniform without replacement.

        Raises `UserError` where the universe is smaller than a count.
        """
        size, needed = self.vocabulary.universe_size, int(counts.max())
        if needed > size:
            raise UserError(
                f"vocabulary {self.vocabulary.fingerprint}: {size} tokens to draw from are too few, an "
                f"example of this task has up to {needed} distinct ones; lower the maximal length or take more tokens"
            )
        if needed * needed > 4 * size:  # a redrawn row would have a repeat again in most cases: permute all tokens
            labels = np.broadcast_to(np.arange(size), (len(counts), size))
            order = draws.shuffled(labels, np.full(len(counts), size)).reshape(labels.shape)
            return order[:, :needed] + np.uint16(self.vocabulary.universe_low)
        tokens = np.full((len(counts), needed), NO_TOKEN)
        rows = np.arange(len(counts))
        while len(rows):
            inside = valid(counts[rows], needed)
            fresh = np.full(inside.shape, NO_TOKEN)
            fresh[inside] = self.tokens(draws, int(inside.sum()))
            tokens[rows] = fresh
            ordered = np.sort(fresh, axis=1)
            repeated = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_TOKEN)
            rows = rows[repeated.any(axis=1)]
        return tokens


class Frame:
    """Where the parts of n sources lie in one flat buffer: prefix, part, separator, part, .. of one after the other.

    lengths: (n,) of each part. rows: (n,) lengths of the sources; size: their sum.
    A sampler fills the buffer, and `sources` writes prefix and separators over it.
    """

    def __init__(self, distribution: Distribution, *lengths: Index) -> None:
        self.distribution, self.lengths = distribution, lengths
        self.rows: Index = np.sum(lengths, axis=0) + (len(distribution.prefix) + len(lengths) - 1)
        self.size = int(self.rows.sum())

    @cached_property
    def starts(self) -> list[Index]:
        """(n,) for each part: where it begins."""
        first = exclusive_sum(self.rows) + len(self.distribution.prefix)
        return [first + np.sum(self.lengths[:k], axis=0, dtype=np.int64) + k for k in range(len(self.lengths))]

    def positions(self, part: int) -> Index:
        """(sum of its lengths,): the places of a part in the buffer."""
        return row_positions(self.starts[part], self.lengths[part])

    def sources(self, values: Tokens) -> Ragged:
        """values: (size,), written to."""
        begins = self.starts[0] - len(self.distribution.prefix)
        for offset, token in enumerate(self.distribution.prefix):
            values[begins + offset] = token
        for start in self.starts[1:]:
            values[start - 1] = self.distribution.vocabulary.separator
        return Ragged(values, self.rows)


def join(distribution: Distribution, *parts: Ragged) -> Ragged:
    """The sources that have these parts."""
    frame = Frame(distribution, *(part.lengths for part in parts))
    values = np.empty(frame.size, dtype=np.uint16)
    for number, part in enumerate(parts):
        values[frame.positions(number)] = part.values
    return frame.sources(values)
