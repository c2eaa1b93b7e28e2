"""Arrow's string arrays as numpy sees them: many strings, no Python object for any of them.

Arrow's own ways from and to Python (`pa.array`, `to_numpy`) import pandas, which takes as long as all else that a
command imports; the buffers are used instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

OFFSET_BYTES = 8
LINE_END = "\n"


def content_of(strings: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bytes of all large strings or binaries, (bytes,), and where each begins and the last ends, (strings + 1,)."""
    _, offsets, content = strings.buffers()
    ends = np.frombuffer(offsets, np.int64, len(strings) + 1, OFFSET_BYTES * strings.offset)
    return np.frombuffer(content or b"", np.uint8)[ends[0] : ends[-1]], ends - ends[0]


def from_content(
    content: bytes | NDArray[Any], offsets: NDArray[np.int64], kind: pa.DataType | None = None
) -> pa.LargeStringArray:
    """The other way round, without a copy; offsets count bytes. kind: `pa.large_binary()` for what is no text."""
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    return pa.Array.from_buffers(kind or pa.large_string(), len(offsets) - 1, buffers)


def from_list(strings: list[str]) -> pa.LargeStringArray:
    """Raises `UnicodeEncodeError` for half a surrogate pair."""
    encoded = [string.encode() for string in strings]
    return from_content(b"".join(encoded), ends_of(np.fromiter(map(len, encoded), np.int64, len(encoded))))


def ends_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """lengths: (rows,). Where each row begins and the last ends when they stand back to back: (rows + 1,)."""
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def lines_of(strings: pa.LargeStringArray) -> bytes:
    """Each string and a line end; strings that hold none themselves."""
    content, offsets = content_of(strings)
    return np.insert(content, offsets[1:], ord(LINE_END)).tobytes()


def to_list(strings: pa.LargeStringArray) -> list[str]:
    """The same as `to_pylist`, much faster; strings that hold no line end."""
    return lines_of(strings).decode().split(LINE_END)[:-1]


def select(strings: pa.LargeStringArray, places: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> pa.LargeStringArray:
    """The strings at `places`: (found,) places or a (strings,) mask."""
    places = np.flatnonzero(places) if places.dtype == np.bool_ else np.ascontiguousarray(places, np.int64)
    return strings.take(pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places)]))


def codes_of(coded: pa.DictionaryArray) -> NDArray[np.int32]:
    """Which of the distinct strings each one is: (strings,)."""
    return np.frombuffer(coded.indices.buffers()[1], np.int32, len(coded), 4 * coded.indices.offset)


def matches(strings: pa.LargeStringArray, pattern: str) -> NDArray[np.bool_]:
    """Where a regular expression (RE2) is found: (strings,)."""
    found = pc.match_substring_regex(strings, pattern).cast(pa.uint8())
    return np.frombuffer(found.buffers()[1], np.bool_, len(strings))
