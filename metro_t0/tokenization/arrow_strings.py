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


def content_of(strings: pa.LargeStringArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The UTF-8 bytes of all strings, (bytes,), and where each begins and the last ends, (strings + 1,)."""
    _, offsets, content = strings.buffers()
    ends = np.frombuffer(offsets, np.int64, len(strings) + 1, OFFSET_BYTES * strings.offset)
    return np.frombuffer(content or b"", np.uint8)[ends[0] : ends[-1]], ends - ends[0]


def from_content(content: bytes, starts: NDArray[np.int64]) -> pa.LargeStringArray:
    """starts: (strings,). Strings that begin at these places of the bytes, each ending where the next begins."""
    buffers = [None, pa.py_buffer(np.append(starts, len(content))), pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.large_string(), len(starts), buffers)


def from_list(strings: list[str]) -> pa.LargeStringArray:
    """Raises `UnicodeEncodeError` for half a surrogate pair."""
    encoded = [string.encode() for string in strings]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return from_content(b"".join(encoded), np.cumsum(lengths) - lengths)


def lines_of(strings: pa.LargeStringArray) -> bytes:
    """Each string and a line end; strings that hold none themselves."""
    content, offsets = content_of(strings)
    return np.insert(content, offsets[1:], ord(LINE_END)).tobytes()


def to_list(strings: pa.LargeStringArray) -> list[str]:
    """The same as `to_pylist`, much faster; strings that hold no line end."""
    return lines_of(strings).decode().split(LINE_END)[:-1]


def select(strings: pa.LargeStringArray, places: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> pa.LargeStringArray:
    """The strings at `places`: (found,) places or a (strings,) mask."""
    places = np.flatnonzero(places) if places.dtype == np.bool_ else places.astype(np.int64)
    return strings.take(pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places)]))


def codes_of(coded: pa.DictionaryArray) -> NDArray[np.int32]:
    """Which of the distinct strings each one is: (strings,)."""
    return np.frombuffer(coded.indices.buffers()[1], np.int32, len(coded), 4 * coded.indices.offset)


def matches(strings: pa.LargeStringArray, pattern: str) -> NDArray[np.bool_]:
    """Where a regular expression (RE2) is found: (strings,)."""
    found = pc.match_substring_regex(strings, pattern).cast(pa.uint8())
    return np.frombuffer(found.buffers()[1], np.bool_, len(strings))
