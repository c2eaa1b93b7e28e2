"""Random numbers of one block, made from the raw words of a counter-based generator.

Only Philox's raw 64-bit words are used, whose values are fixed by the algorithm; the conversions to integers
are written here, so that a stream is the same under any numpy release (numpy does not promise that for the
methods of `Generator`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metro_t0.randomness import keyed_seed
from metro_t0.synthetic.ragged import Index, Tokens

LANE_BITS = np.uint64(32)


class Draws:
    """A sequence of random numbers that depends on the keys alone."""

    def __init__(self, *keys: int | str) -> None:
        self._bits = np.random.Philox(keyed_seed(*keys))

    def lanes(self, count: int) -> NDArray[np.uint32]:
        """`count` uniform 32-bit words."""
        words = self._bits.random_raw((count + 1) // 2)
        return words.astype("<u8", copy=False).view("<u4")[:count]

    def wide_lanes(self, count: int) -> NDArray[np.uint64]:
        """`count` uniform 64-bit words."""
        return self._bits.random_raw(count)

    def below(self, bound: int | NDArray[np.integer], shape: int | tuple[int, ...]) -> Index:
        """Uniform integers in [0, bound); `bound` broadcasts against `shape`.

        Multiply and shift of 32-bit words: no value is favored by more than bound / 2**32.
        """
        lanes = self.lanes(int(np.prod(shape))).reshape(shape).astype(np.uint64)
        lanes *= np.asarray(bound, dtype=np.int64).view(np.uint64)
        lanes >>= LANE_BITS
        return lanes.view(np.int64)

    def between(self, low: int | Index, high: int | Index, shape: int | tuple[int, ...]) -> Index:
        """Uniform integers in [low, high], both ends included."""
        return np.asarray(low) + self.below(np.asarray(high) - np.asarray(low) + 1, shape)

    def coins(self, probability: float, count: int) -> NDArray[np.bool_]:
        """True with this probability."""
        return self.lanes(count) < np.uint64(round(probability * 2**32))

    def tokens(self, low: int, size: int, shape: int | tuple[int, ...]) -> Tokens:
        """Uniform token ids in [low, low + size)."""
        ids = self.below(size, shape).astype(np.uint16)
        ids += np.uint16(low)
        return ids
