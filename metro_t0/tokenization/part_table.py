"""A hash table from byte strings to numbers, in numpy: thousands of strings are looked up in a few dozen operations.

Python's dict takes half a microsecond to find a string that was just made (hash, then cache misses); here strings stay
the bytes that they are. A string of up to 16 bytes is its first eight bytes, its last eight and its size, so that
three comparisons of integers tell for certain whether two are equal. Collisions go on to the next slot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metro_t0.tokenization.arrow_strings import content_of

WORD = 8  # bytes of an integer
SHORT = 2 * WORD
FIRST_BITS = 12
# Odd numbers with bits in no order (of the fractions of pi), as multiplicative hashing wants them.
MIX_HEAD, MIX_TAIL, MIX_ALL = (np.uint64(n) for n in (0x243F6A8885A308D3, 0x13198A2E03707345, 0xA4093822299F31D1))
HEAD_MASKS = np.array([(1 << 8 * size) - 1 for size in range(WORD + 1)], np.uint64)


class Growing:
    """A numpy array that grows at its end without being copied each time."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._room = np.empty(1024, dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> NDArray[Any]:
        """All values so far."""
        return self._room[: self._size]

    def extend(self, values: NDArray[Any]) -> None:
        """Add values at the end."""
        size = self._size + len(values)
        if size > len(self._room):
            self._room = np.concatenate((self.values, np.empty(size, self._room.dtype)))
        self._room[self._size : size] = values
        self._size = size


class PartTable:
    """Numbers of distinct strings."""

    def __init__(self) -> None:
        self._heads, self._tails = Growing(np.uint64), Growing(np.uint64)
        self._sizes, self._numbers = Growing(np.int64), Growing(np.int64)
        self._long: dict[bytes, int] = {}
        self._slots = np.full(1 << FIRST_BITS, -1, np.int32)  # places in the four arrays

    def __len__(self) -> int:
        return len(self._numbers) + len(self._long)

    def find(self, strings: pa.LargeStringArray) -> NDArray[np.int64]:
        """The number of each string, -1 for one that is not there: (strings,)."""
        content, offsets = content_of(strings)
        sizes = np.diff(offsets)
        numbers = np.full(len(strings), -1, np.int64)
        short = np.flatnonzero(sizes <= SHORT)
        heads, tails = _head_and_tail(content, offsets[short], sizes[short])
        numbers[short] = self._find_short(heads, tails, sizes[short])
        for index in np.flatnonzero(sizes > SHORT).tolist():
            numbers[index] = self._long.get(content[offsets[index] : offsets[index + 1]].tobytes(), -1)
        return numbers

    def _find_short(
        self, heads: NDArray[np.uint64], tails: NDArray[np.uint64], sizes: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        numbers = np.full(len(heads), -1, np.int64)
        rows, slots = np.arange(len(heads)), self._first_slots(heads, tails)
        while rows.size:
            places = self._slots[slots]
            used = places >= 0
            rows, slots, places = rows[used], slots[used], places[used]
            same = self._heads.values[places] == heads[rows]
            same &= self._tails.values[places] == tails[rows]
            same &= self._sizes.values[places] == sizes[rows]
            numbers[rows[same]] = self._numbers.values[places[same]]
            rows, slots = rows[~same], self._next(slots[~same])
        return numbers

    def insert(self, strings: pa.LargeStringArray, numbers: NDArray[np.int64]) -> None:
        """Give numbers to distinct strings that are not there yet."""
        content, offsets = content_of(strings)
        sizes = np.diff(offsets)
        short = sizes <= SHORT
        heads, tails = _head_and_tail(content, offsets[:-1][short], sizes[short])
        first = len(self._numbers)
        for growing, values in (
            (self._heads, heads), (self._tails, tails), (self._sizes, sizes[short]), (self._numbers, numbers[short])
        ):  # fmt: skip
            growing.extend(values)
        if 2 * len(self._numbers) > len(self._slots):
            self._slots = np.full(1 << (4 * len(self._numbers) - 1).bit_length(), -1, np.int32)
            first = 0
        self._place(np.arange(first, len(self._numbers), dtype=np.int32))
        for index in np.flatnonzero(~short).tolist():
            self._long[content[offsets[index] : offsets[index + 1]].tobytes()] = int(numbers[index])

    def _place(self, places: NDArray[np.int32]) -> None:
        slots = self._first_slots(self._heads.values[places], self._tails.values[places])
        while places.size:
            free = self._slots[slots] < 0
            self._slots[slots[free]] = places[free]  # of several that want one slot, the last stays
            left = self._slots[slots] != places
            places, slots = places[left], self._next(slots[left])

    def _first_slots(self, heads: NDArray[np.uint64], tails: NDArray[np.uint64]) -> NDArray[np.int64]:
        mixed = heads * MIX_HEAD ^ tails * MIX_TAIL
        mixed ^= mixed >> np.uint64(32)
        mixed *= MIX_ALL
        return (mixed >> np.uint64(65 - len(self._slots).bit_length())).astype(np.int64)

    def _next(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        return (slots + 1) & (len(self._slots) - 1)


def _head_and_tail(
    content: NDArray[np.uint8], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first bytes of each string as an integer, up to eight, and its last eight where it is longer than eight."""
    padded = np.concatenate((content, np.zeros(WORD, np.uint8)))
    # Every run of eight bytes as an integer, without a copy.
    integers = np.ndarray(len(content) + 1, "<u8", padded.data, strides=(1,))
    heads = integers[starts] & HEAD_MASKS[np.minimum(sizes, WORD)]
    longer = sizes > WORD
    tails = np.where(longer, integers[np.where(longer, starts + sizes - WORD, starts)], np.uint64(0))
    return heads, tails


def alphabetical_order(strings: pa.LargeStringArray) -> NDArray[np.int64]:
    """Places of the strings in the order of their first eight bytes."""
    content, offsets = content_of(strings)
    heads, _ = _head_and_tail(content, offsets[:-1], np.diff(offsets))
    return np.argsort(heads.byteswap())
