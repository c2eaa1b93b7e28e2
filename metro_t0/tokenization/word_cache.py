"""Encoding words once: text repeats its words, and no rule of the tokenizer looks beyond a word but one.

Texts are cut into words, and words from the punctuation around them (`parts`). A distinct part is encoded once; a
text is then a row of table look-ups, done for all texts of a batch in numpy. This is exact because normalization and
pieces stay inside parts. The exceptions are found by flags on the parts, and such words are encoded together with
their neighbors (`segments`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metro_t0.tokenization.arrow_strings import codes_of, content_of, matches, select, to_list
from metro_t0.tokenization.encoder import Encoded, RustEncoder, flatten
from metro_t0.tokenization.normalization import SINGLE_QUOTES, WORD_MARK
from metro_t0.tokenization.parts import Parts, batches, cut_into_parts
from metro_t0.tokenization.segments import BELONGS_TO_LAST, TAKES_NEXT, Flags, segments_of, texts_of

# Bounds of the memory that the table takes (about 150 MB at these), whatever the amount of text.
MAX_PARTS = 1 << 19
MAX_CHARACTERS = 1 << 23
# Bounds the memory that a batch needs.
CHARACTERS_AT_ONCE = 1 << 22
# A longer text is cut where no rule looks across.
LONGEST_TEXT = 1 << 20
SAFE_CUT = re.compile("(?<=[0-9A-Za-z]) (?=[0-9A-Za-z])")
# Arrays of so many parts fit into a processor's cache.
PARTS_AT_ONCE = 1 << 16


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
        self._clear()

    def _clear(self) -> None:
        self._numbers: dict[str, int] = {}
        self._characters = 0
        # Part p has the number n = numbers[p] and the ids ids[starts[n]:starts[n] + lengths[n]]; plain parts that
        # differ only in case share a number where the vocabulary is uncased.
        self._ids = Growing(np.int32)
        self._starts = Growing(np.int64)
        self._lengths = Growing(np.int64)
        self._ends_with_quote = Growing(np.bool_)
        self._has_word_mark = Growing(np.bool_)
        self._looks_back = Growing(np.bool_)
        self._looks_ahead = Growing(np.bool_)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of all texts back to back, (total,) int32, and the number of ids of each text, (texts,) int64."""
        pieces = [_pieces(text) for text in texts]
        cut = [piece for text in pieces for piece in text]
        ids, sizes = zip(*(self._encode(batch) for batch in batches(cut, CHARACTERS_AT_ONCE)), strict=True)
        ends = np.append(0, np.cumsum(np.concatenate(sizes)))
        last = np.append(0, np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces))))
        return np.concatenate(ids), np.diff(ends[last])

    def _encode(self, texts: Sequence[str]) -> Encoded:
        if len(self._numbers) > MAX_PARTS or self._characters > MAX_CHARACTERS:
            self._clear()
        parts = cut_into_parts(texts)
        numbers = self._number(parts.distinct)
        ids, ends = self._look_up(numbers, parts)
        segments = segments_of(parts, self._flags(numbers, parts))
        sizes = np.diff(ends[parts.text_ends])
        return self._replace(parts, segments, ids, ends, sizes) if len(segments) else (ids, sizes)

    def _number(self, parts: pa.LargeStringArray) -> NDArray[np.int64]:
        """Numbers of distinct parts, (parts,), once the table holds them all."""
        numbers = self._find(to_list(parts))
        if (unknown := np.flatnonzero(numbers < 0)).size:
            numbers[unknown] = self._learn(select(parts, unknown))
        return numbers

    def _find(self, parts: list[str]) -> NDArray[np.int64]:
        """The number of each part, -1 for one that is not known: (parts,)."""
        return np.fromiter(map(self._numbers.get, parts, repeat(-1)), np.int64, len(parts))

    def _learn(self, new: pa.LargeStringArray) -> NDArray[np.int64]:
        """Numbers of distinct parts that are not known yet: (parts,)."""
        numbers = np.empty(len(new), np.int64)
        plain = self._encoder.are_plain(new)
        others = select(new, ~plain)
        numbers[~plain] = self._add(others, flatten(self._encoder.encode_texts(to_list(others))), plain=False)
        numbers[plain] = self._learn_plain(self._encoder.plain_forms(select(new, plain)))
        self._numbers.update(zip(to_list(new), numbers.tolist(), strict=True))
        self._characters += len(content_of(new)[0])
        return numbers

    def _learn_plain(self, forms: pa.LargeStringArray) -> NDArray[np.int64]:
        """Numbers of plain forms, among which may be equal ones and known ones: (forms,)."""
        coded = forms.dictionary_encode()
        numbers = self._find(distinct := to_list(coded.dictionary))
        fresh = np.array(sorted(np.flatnonzero(numbers < 0).tolist(), key=distinct.__getitem__), np.int64)
        new = select(coded.dictionary, fresh)
        numbers[fresh] = self._add(new, self._encoder.encode_plain_forms(new), plain=True)
        return numbers[codes_of(coded)]

    def _add(self, parts: pa.LargeStringArray, encoded: Encoded, plain: bool) -> NDArray[np.int64]:
        """Give new numbers to new distinct parts, (parts,). plain: they are ASCII."""
        ids, lengths = encoded
        numbers = np.arange(len(self._starts), len(self._starts) + len(lengths))
        self._numbers.update(zip(to_list(parts), numbers.tolist(), strict=True))
        self._starts.extend(len(self._ids) + np.cumsum(lengths) - lengths)
        self._lengths.extend(lengths)
        self._ids.extend(ids)
        self._ends_with_quote.extend(matches(parts, f"[{SINGLE_QUOTES}]$"))
        for flags, pattern in (
            (self._has_word_mark, WORD_MARK), (self._looks_back, BELONGS_TO_LAST), (self._looks_ahead, TAKES_NEXT)
        ):  # fmt: skip
            flags.extend(np.zeros(len(parts), np.bool_) if plain else matches(parts, pattern))
        return numbers

    def _flags(self, numbers: NDArray[np.int64], parts: Parts) -> Flags:
        growing = (self._ends_with_quote, self._has_word_mark, self._looks_back, self._looks_ahead)
        return Flags(*(each.values[numbers][parts.indices] for each in growing))

    def _look_up(self, numbers: NDArray[np.int64], parts: Parts) -> Encoded:
        """Ids of all parts back to back, and where each begins and the last ends: (parts + 1,)."""
        lengths = self._lengths.values[numbers]
        starts = self._starts.values[numbers]
        ends = np.zeros(len(parts.indices) + 1, np.int64)
        np.cumsum(lengths[parts.indices], out=ends[1:])
        ids = np.empty(ends[-1], np.int32)
        for first in range(0, len(parts.indices), PARTS_AT_ONCE):
            indices = parts.indices[first : first + PARTS_AT_ONCE]
            start, end = ends[first], ends[first + len(indices)]
            # Position in the output minus position in the table is constant within a part.
            positions = np.repeat(starts[indices] - ends[first : first + len(indices)], lengths[indices])
            positions += np.arange(start, end)
            np.take(
                self._ids.values, positions, out=ids[start:end], mode="clip"
            )  # quicker; no position is out of bounds
        return ids, ends

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
