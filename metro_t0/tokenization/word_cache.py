"""Encoding words once: text repeats its words, and no rule of the tokenizer looks beyond a word but one.

Texts are cut into words, and words from the punctuation around them (`parts`). A distinct part is encoded once; a
text is then a row of table look-ups, done for all texts of a batch in numpy. This is exact because normalization and
pieces stay inside parts. The exceptions are found by flags on the parts, and such words are encoded together with
their neighbors (`segments`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metro_t0.tokenization.arrow_strings import content_of, ends_of, from_content, select, to_list
from metro_t0.tokenization.encoder import Encoded, RustEncoder, ids_of
from metro_t0.tokenization.parts import Parts, batches, cut_into_parts
from metro_t0.tokenization.segments import flags_of, segments_of, texts_of

# Bounds of the memory that the table takes (about 150 MB at these), whatever the amount of text.
MAX_PARTS = 1 << 19
MAX_CHARACTERS = 1 << 23
# Bounds the memory that a batch needs.
CHARACTERS_AT_ONCE = 1 << 22
# A longer text is cut where no rule looks across.
LONGEST_TEXT = 1 << 20
SAFE_CUT = re.compile("(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")


class Growing:
    """A numpy array that grows at its end without being copied each time."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._room = np.empty(1024, dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> NDArray[Any]:
        """All values so far: (size,)."""
        return self._room[: self._size]

    def extend(self, values: NDArray[Any]) -> None:
        """Add (n,) values at the end."""
        size = self._size + len(values)
        if size > len(self._room):
            self._room = np.concatenate((self.values, np.empty(size, self._room.dtype)))
        self._room[self._size : size] = values
        self._size = size


class WordCache:
    """Encode batches of texts through a table of their parts."""

    def __init__(self, encoder: RustEncoder) -> None:
        self._encoder = encoder
        self._lock = Lock()  # a part has its number before the table has its ids
        self._clear()

    def _clear(self) -> None:
        # A part's number, which looking it up gives it, is how many there were before it. Part n has the ids
        # content[ends[n]:ends[n + 1]], as bytes.
        self._numbers = defaultdict[str, int](count().__next__)
        self._characters = 0
        self._content, self._ends, self._flags = Growing(np.uint8), Growing(np.int64), Growing(np.uint8)
        self._ends.extend(np.zeros(1, np.int64))

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of all texts back to back, (total,) int32, and the number of ids of each text, (texts,) int64."""
        if max(map(len, texts), default=0) <= LONGEST_TEXT:
            return self._encode_batches(texts)
        pieces = [_pieces(text) for text in texts]
        ids, sizes = self._encode_batches([piece for text in pieces for piece in text])
        last = ends_of(np.fromiter(map(len, pieces), np.int64, len(pieces)))
        return ids, np.diff(ends_of(sizes)[last])

    def _encode_batches(self, texts: Sequence[str]) -> Encoded:
        with self._lock:
            ids, sizes = zip(*(self._encode(batch) for batch in batches(texts, CHARACTERS_AT_ONCE)), strict=True)
        return np.concatenate(ids), np.concatenate(sizes)

    def _encode(self, texts: Sequence[str]) -> Encoded:
        interrupted = len(self._numbers) != len(self._flags)
        if interrupted or len(self._numbers) > MAX_PARTS or self._characters > MAX_CHARACTERS:
            self._clear()
        parts = cut_into_parts(texts)
        numbers = self._number(parts.distinct)
        table = from_content(self._content.values, self._ends.values, pa.large_binary())
        ids, ends = ids_of(select(table, numbers[parts.indices]))
        segments = segments_of(parts, self._flags.values[numbers])
        sizes = np.diff(ends[parts.text_ends])
        return self._replace(parts, segments, ids, ends, sizes) if len(segments) else (ids, sizes)

    def _number(self, parts: pa.LargeStringArray) -> NDArray[np.int64]:
        """Numbers of distinct parts, (parts,), once the table holds them all."""
        known = len(self._numbers)
        numbers = np.fromiter(map(self._numbers.__getitem__, to_list(parts)), np.int64, len(parts))
        if len(self._numbers) > known:
            new = select(parts, numbers >= known)
            content, ends = content_of(self._encoder.encode_words(new))
            self._ends.extend(len(self._content) + ends[1:])
            self._content.extend(content)
            self._characters += len(content_of(new)[0])
            self._flags.extend(flags_of(new))
        return numbers

    def _replace(
        self,
        parts: Parts,
        segments: NDArray[np.int64],
        ids: NDArray[np.int32],
        ends: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> Encoded:
        """Put the ids of the segments, each encoded as one text, in the place of those of their parts."""
        rows = self._encoder.encode_texts(texts_of(parts, segments))
        pieces: list[NDArray[np.int32]] = []
        kept = 0
        for (start, end), row in zip(segments.tolist(), rows, strict=True):
            pieces += ids[kept : ends[start]], np.array(row, np.int32)
            kept = ends[end]
        changes = np.fromiter(map(len, rows), np.int64, len(rows)) - (ends[segments[:, 1]] - ends[segments[:, 0]])
        sizes = sizes.copy()
        np.add.at(sizes, np.searchsorted(parts.text_ends, segments[:, 0], side="right") - 1, changes)
        return np.concatenate([*pieces, ids[kept:]]), sizes


def _pieces(text: str) -> list[str]:
    """A long text cut at spaces between an ASCII letter or digit and another, where no rule looks across."""
    if len(text) <= LONGEST_TEXT:
        return [text]
    pieces = []
    start = 0
    while cut := SAFE_CUT.search(text, start + LONGEST_TEXT):
        pieces.append(text[start : cut.start()])
        start = cut.end()
    return [*pieces, text[start:]]
