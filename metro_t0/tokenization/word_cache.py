"""Encoding words once: text repeats its words, and no rule of the tokenizer looks beyond a word but one.

Texts are cut into words, and words from the punctuation around them (`parts`). A distinct part is encoded once; a
text is then a row of table look-ups, done for all texts of a batch in numpy. This is exact because normalisation and
pieces stay inside parts. The exceptions are found by flags on the parts, and such texts are encoded whole: a
contraction that is joined to a single quote at the end of the word before it ("the dogs' s"), and words that contain
the word mark itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, repeat

import numpy as np
from numpy.typing import NDArray

from metro_t0.tokenization.encoder import Encoded, RustEncoder, flatten
from metro_t0.tokenization.normalization import JOINABLE_WORD, SINGLE_QUOTES, WORD_MARK
from metro_t0.tokenization.parts import Parts, cut_into_parts

# Bounds of the memory that the table takes (about 150 MB at these), whatever the amount of text.
MAX_PARTS = 1 << 19
MAX_CHARACTERS = 1 << 23
# Bounds the memory that cutting needs.
CHARACTERS_AT_ONCE = 1 << 21
ENDS_WITH_QUOTE, JOINABLE, HAS_WORD_MARK = 1, 2, 4


class WordCache:
    """Encode batches of texts through a table of their parts."""

    def __init__(self, encoder: RustEncoder) -> None:
        self._encoder = encoder
        self._clear()

    def _clear(self) -> None:
        self._numbers: dict[str, int] = {}
        self._characters = 0
        # Part p is ids[starts[p]:starts[p] + lengths[p]]; parts that differ only in case may share their ids.
        self._ids: NDArray[np.int32] = np.empty(0, np.int32)
        self._starts: NDArray[np.int64] = np.empty(0, np.int64)
        self._lengths: NDArray[np.int64] = np.empty(0, np.int64)
        self._flags: NDArray[np.uint8] = np.empty(0, np.uint8)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of all texts back to back, (total,) int32, and the number of ids of each text, (texts,) int64."""
        encoded = [self._encode(batch) for batch in _batches(texts)]
        if not encoded:
            return np.empty(0, np.int32), np.empty(0, np.int64)
        ids, sizes = zip(*encoded, strict=True)
        return np.concatenate(ids), np.concatenate(sizes)

    def _encode(self, texts: Sequence[str]) -> Encoded:
        if len(self._numbers) > MAX_PARTS or self._characters > MAX_CHARACTERS:
            self._clear()
        parts = cut_into_parts(texts)
        numbers = self._number(parts.distinct)
        whole = self._texts_to_encode_whole(self._flags[numbers][parts.indices], parts.text_ends)
        ids, sizes = self._look_up(numbers, parts)
        return self._replace(texts, whole, ids, sizes) if whole.size else (ids, sizes)

    def _number(self, parts: list[str]) -> NDArray[np.int64]:
        """Places of parts in the table, once it holds them all."""
        numbers = np.fromiter(map(self._numbers.get, parts, repeat(-1)), np.int64, len(parts))
        unknown = np.flatnonzero(numbers < 0)
        if unknown.size:
            new = [parts[i] for i in unknown.tolist()]
            self._learn(new)
            numbers[unknown] = [self._numbers[part] for part in new]
        return numbers

    def _learn(self, new: list[str]) -> None:
        plain: list[str] = []
        others: list[str] = []
        for part in new:
            (plain if self._encoder.is_plain(part) else others).append(part)
        if others:
            self._add(others, flatten(self._encoder.encode_texts(others)))
        forms = list(map(self._encoder.plain_form, plain))
        new_forms = [form for form in dict.fromkeys(forms) if form not in self._numbers]
        if new_forms:
            self._add(new_forms, self._encoder.encode_plain_forms(new_forms))
        capital = {part: self._numbers[form] for part, form in zip(plain, forms, strict=True) if part != form}
        if capital:
            same = np.fromiter(capital.values(), np.int64, len(capital))
            self._add_rows(list(capital), self._starts[same], self._lengths[same])

    def _add(self, parts: list[str], encoded: Encoded) -> None:
        ids, lengths = encoded
        starts = len(self._ids) + np.cumsum(lengths) - lengths
        self._ids = np.concatenate((self._ids, ids))
        self._add_rows(parts, starts, lengths)

    def _add_rows(self, parts: list[str], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        self._numbers.update(zip(parts, count(len(self._numbers)), strict=False))
        self._starts = np.concatenate((self._starts, starts))
        self._lengths = np.concatenate((self._lengths, lengths))
        self._flags = np.append(self._flags, np.fromiter(map(_flags, parts), np.uint8, len(parts)))
        self._characters += sum(map(len, parts))

    def _texts_to_encode_whole(self, flags: NDArray[np.uint8], text_ends: NDArray[np.int64]) -> NDArray[np.int64]:
        joined = np.flatnonzero((flags[:-1] & ENDS_WITH_QUOTE) & ((flags[1:] & JOINABLE) // JOINABLE))
        marked = np.flatnonzero(flags & HAS_WORD_MARK)
        # A quote that ends one text and a contraction that begins the next cost a needless exact pass, no error.
        return np.unique(np.searchsorted(text_ends, np.concatenate((joined, marked)), side="right") - 1)

    def _look_up(self, numbers: NDArray[np.int64], parts: Parts) -> Encoded:
        lengths = self._lengths[numbers][parts.indices]
        ends = np.concatenate(([0], np.cumsum(lengths)))
        # Position in the output minus position in the table is constant within a part.
        positions = np.repeat(self._starts[numbers][parts.indices] - ends[:-1], lengths)
        positions += np.arange(len(positions))
        return self._ids[positions], np.diff(ends[parts.text_ends])

    def _replace(
        self, texts: Sequence[str], whole: NDArray[np.int64], ids: NDArray[np.int32], sizes: NDArray[np.int64]
    ) -> Encoded:
        """Put the ids of the texts that are encoded whole in the place of theirs."""
        ends = np.cumsum(sizes)
        pieces: list[NDArray[np.int32]] = []
        kept = 0
        encoded = self._encoder.encode_texts([texts[index] for index in whole.tolist()])
        for index, row in zip(whole.tolist(), encoded, strict=True):
            pieces += ids[kept : ends[index] - sizes[index]], np.array(row, np.int32)
            kept = ends[index]
        sizes = sizes.copy()
        sizes[whole] = list(map(len, encoded))
        return np.concatenate([*pieces, ids[kept:]]), sizes


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = characters = 0
    for end, text in enumerate(texts, 1):
        characters += len(text)
        if characters >= CHARACTERS_AT_ONCE or end == len(texts):
            yield texts[start:end]
            start, characters = end, 0


def _flags(part: str) -> int:
    flags = HAS_WORD_MARK if WORD_MARK in part else 0
    if part[-1] in SINGLE_QUOTES:
        flags |= ENDS_WITH_QUOTE
    if JOINABLE_WORD.match(part):
        flags |= JOINABLE
    return flags
