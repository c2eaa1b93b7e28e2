"""Encoding words once: text repeats its words, and no rule of the tokenizer looks beyond a word but one.

A text is cut with str.split(). A distinct word is encoded once; a text is then a row of table look-ups, done for all
texts of a batch in numpy. This is exact because normalisation and pieces stay inside words. The exceptions are found
by flags on the words, and such texts are encoded whole: a contraction that is joined to a single quote at the end of
the word before it ("the dogs' s"), and words that contain the word mark itself.

New words are mostly known ones with other punctuation around them, so a word of printable ASCII is encoded as its
punctuation, core and punctuation, which the word rules separate anyway, and these parts are remembered too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metro_t0.tokenization.normalization import JOINABLE_WORD, SINGLE_QUOTES, WORD_MARK

# Bounds of the memory that the table takes (about 150 MB at these), whatever the amount of text.
MAX_WORDS = 1 << 19
MAX_CHARACTERS = 1 << 23
ENDS_WITH_QUOTE, JOINABLE, HAS_WORD_MARK = 1, 2, 4

MAX_PARTS = 1 << 18
PARTS_PER_TEXT = 256
ASCII_WORD = re.compile(r"([!-/:-@\[-`{-~]*)((?:[0-9A-Za-z](?:[!-~]*[0-9A-Za-z])?)?)([!-/:-@\[-`{-~]*)")


class Encoder(Protocol):
    """The slow and exact tokenizer."""

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text."""

    def encode_words(self, words: list[str]) -> list[tuple[int, ...]]:
        """The ids of each word, where each is printable ASCII with no punctuation, or nothing else, at its ends."""


class _WordNumbers(dict[str, int]):
    """Numbers words in the order of their first occurrence."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


class WordCache:
    """Encode batches of texts through a table of words."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._parts: dict[str, tuple[int, ...]] = {"": ()}
        self._clear()

    def _clear(self) -> None:
        self._numbers = _WordNumbers()
        self._characters = 0
        self._ids: NDArray[np.int32] = np.empty(0, np.int32)
        self._ends: NDArray[np.int64] = np.zeros(1, np.int64)  # word w is ids[ends[w]:ends[w + 1]]
        self._flags: NDArray[np.uint8] = np.empty(0, np.uint8)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all texts back to back, (total,) int32, and the number of ids of each text, (texts,) int64."""
        if len(self._numbers) > MAX_WORDS or self._characters > MAX_CHARACTERS:
            self._clear()
        splits = list(map(str.split, texts))
        counts = np.fromiter(map(len, splits), np.int64, len(splits))
        total = int(counts.sum())
        words = np.fromiter(map(self._numbers.__getitem__, chain.from_iterable(splits)), np.int64, total)
        self._learn()
        text_ends = np.concatenate(([0], np.cumsum(counts)))
        whole = self._texts_to_encode_whole(words, text_ends)
        ids, sizes = self._look_up(words, text_ends)
        return self._replace(texts, whole, ids, sizes) if whole.size else (ids, sizes)

    def _learn(self) -> None:
        """Encode the words that were numbered but are not yet in the table."""
        new = list(islice(self._numbers, len(self._flags), None))
        if not new:
            return
        encoded = self._encode_words(new)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum()))
        self._ids = np.concatenate((self._ids, ids))
        self._ends = np.concatenate((self._ends, self._ends[-1] + np.cumsum(lengths)))
        flags = np.fromiter(map(_flags, new), np.uint8, len(new))
        self._flags = np.concatenate((self._flags, flags))
        self._characters += sum(map(len, new))

    def _encode_words(self, words: list[str]) -> list[tuple[int, ...]]:
        if len(self._parts) > MAX_PARTS:
            self._parts = {"": ()}
        cut = list(map(_cut, words))
        whole = [word for word, parts in zip(words, cut, strict=True) if parts is None]
        others = iter(self._encoder.encode_texts(whole) if whole else [])
        known = self._parts
        new = list(dict.fromkeys(part for parts in cut if parts for part in parts if part not in known))
        known.update(zip(new, self._encoder.encode_words(new), strict=True))
        return [tuple(next(others)) if p is None else known[p[0]] + known[p[1]] + known[p[2]] for p in cut]

    def _texts_to_encode_whole(self, words: NDArray[np.int64], text_ends: NDArray[np.int64]) -> NDArray[np.int64]:
        flags = self._flags[words]
        joined = np.flatnonzero((flags[:-1] & ENDS_WITH_QUOTE) & ((flags[1:] & JOINABLE) // JOINABLE))
        marked = np.flatnonzero(flags & HAS_WORD_MARK)
        # A quote that ends one text and a contraction that begins the next cost a needless exact pass, no error.
        return np.unique(np.searchsorted(text_ends, np.concatenate((joined, marked)), side="right") - 1)

    def _look_up(
        self, words: NDArray[np.int64], text_ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        starts = self._ends[words]
        lengths = self._ends[words + 1] - starts
        ends = np.concatenate(([0], np.cumsum(lengths)))
        # Position in the output minus position in the table is constant within a word.
        positions = np.repeat(starts - ends[:-1], lengths)
        positions += np.arange(len(positions))
        return self._ids[positions], np.diff(ends[text_ends])

    def _replace(
        self, texts: Sequence[str], whole: NDArray[np.int64], ids: NDArray[np.int32], sizes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        parts = np.split(ids, np.cumsum(sizes)[:-1])
        for index, encoded in zip(
            whole.tolist(), self._encoder.encode_texts([texts[i] for i in whole.tolist()]), strict=True
        ):
            parts[index] = np.array(encoded, np.int32)
        return np.concatenate(parts), np.fromiter(map(len, parts), np.int64, len(parts))


def _cut(word: str) -> tuple[str, str, str] | None:
    """Leading punctuation, core, trailing punctuation; None for a word whose parts cannot be encoded alone."""
    match = ASCII_WORD.fullmatch(word)
    if not match:
        return None
    before, core, after = match.groups()
    if before.endswith("'") and JOINABLE_WORD.match(core):
        return None
    return before, core, after


def _flags(word: str) -> int:
    flags = HAS_WORD_MARK if WORD_MARK in word else 0
    if word[-1] in SINGLE_QUOTES:
        flags |= ENDS_WITH_QUOTE
    if JOINABLE_WORD.match(word):
        flags |= JOINABLE
    return flags
