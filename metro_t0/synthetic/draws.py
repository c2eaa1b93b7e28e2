"""Random numbers of one block, made from the raw words of a counter-based generator.

Only Philox's raw 64-bit words are used, whose values are fixed by the algorithm; the conversions to integers
are written here, so that a stream is the same under any numpy release (numpy does not promise that for the
methods of `Generator`). Which numbers are drawn, how many and in what order is part of a stream's definition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metro_t0.randomness import keyed_seed
from metro_t0.synthetic.ragged import Index, Mask, Tokens, exclusive_sum, valid

Shape = int | tuple[int, ...]


class Draws:
    """A sequence of random numbers that depends on the keys alone."""

    def __init__(self, *keys: int | str) -> None:
        self._bits = np.random.Philox(keyed_seed(*keys))

    def lanes(self, count: int) -> NDArray[np.uint32]:
        """(count,) uniform 32-bit words."""
        words = self._bits.random_raw((count + 1) // 2)
        return words.astype("<u8", copy=False).view("<u4")[:count]

    def wide_lanes(self, count: int) -> NDArray[np.uint64]:
        """(count,) uniform 64-bit words."""
        return self._bits.random_raw(count)

    def below(self, bound: int | Index, shape: Shape) -> Index:
        """Uniform integers in [0, bound), of this shape; `bound` broadcasts against it.

        Multiply and shift of 32-bit words: no value is favored by more than bound / 2**32.
        """
        lanes = self.lanes(int(np.prod(shape))).reshape(shape).astype(np.uint64)
        lanes *= np.asarray(bound, dtype=np.int64).view(np.uint64)
        lanes >>= np.uint64(32)
        return lanes.view(np.int64)

    def between(self, low: int | Index, high: int | Index, shape: Shape) -> Index:
        """Uniform integers in [low, high], both ends included."""
        return np.asarray(low) + self.below(np.asarray(high) - np.asarray(low) + 1, shape)

    def coins(self, probability: float, count: int) -> NDArray[np.bool_]:
        """(count,): True with this probability."""
        return self.lanes(count) < np.uint64(round(probability * 2**32))

    def shuffled(self, labels: NDArray[np.integer] | Mask, lengths: Index) -> Tokens:
        """labels: (n, width), at most 16 bits -> the first `lengths[i]` of every row in random order, flat.

        One row-wise sort of (random key, label). A key has 32 bits less those of a label, so two keys of a row may be
        equal and then keep label order; where labels need more than 8 bits the keys are 64 bits wide to keep that rare.
        """
        bits = max(int(labels.max(initial=0)).bit_length(), 1)
        inside, count = valid(lengths, labels.shape[1]), int(lengths.sum())
        drawn = self.lanes(count) if bits <= 8 else self.wide_lanes(count)
        kind = drawn.dtype.type
        keys = np.full(labels.shape, np.iinfo(kind).max)
        keys[inside] = drawn >> kind(bits + 1) << kind(bits)  # one bit is free above the key: set, it marks padding
        keys |= labels.astype(kind)
        keys.sort(axis=1)
        return (keys[inside] & kind((1 << bits) - 1)).astype(np.uint16)

    def group_labels(self, totals: Index, groups: Index) -> Tokens:
        """Flat, of row i: `totals[i]` labels 0 .. groups[i] - 1 in random order, each at least once.

        The sizes are 1 + Multinomial(totals - groups, uniform): `groups` fixed labels, the others uniform.
        """
        width = int(totals.max())
        labels = self.below(groups[:, None], (len(totals), width))
        np.copyto(labels, np.arange(width), where=valid(groups, width))
        return self.shuffled(labels, totals)

    def group_sizes(self, totals: Index, groups: Index) -> Index:
        """Flat: sizes of `groups[i]` non-empty groups of `totals[i]` members, of the same distribution."""
        free = totals - groups
        chosen = self.below(np.repeat(groups, free), int(free.sum())) + np.repeat(exclusive_sum(groups), free)
        return 1 + np.bincount(chosen, minlength=int(groups.sum()))
