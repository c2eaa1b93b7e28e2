"""Encoding words once: text repeats its words, and no rule of the tokenizer looks beyond a word but one.

A text is cut with str.split(). A distinct word is encoded by the Rust tokenizer once; a text is then a row of table
look-ups, done for all texts of a batch in numpy. This is exact because normalisation and pieces stay inside words.
The exceptions are found by flags on the words, and such texts are encoded whole: a contraction that is joined to
a single quote at the end of the word before it ("the dogs' s"), and words that contain the word mark itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from metro_t0.tokenization.normalization import JOINABLE_WORD, SINGLE_QUOTES, WORD_MARK

# Bounds of the memory that the table takes (about 60 MB at these), whatever the amount of text.
MAX_WORDS = 1 << 18
MAX_CHARACTERS = 1 << 22
ENDS_WITH_QUOTE, JOINABLE, HAS_WORD_MARK = 1, 2, 4

Encode = Callable[[list[str]], list[list[int]]]


class _WordNumbers(dict[str, int]):
    """Numbers words in the order of their first occurrence."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


class WordCache:
    """Encode batches of texts through a table of words.

    encode: the slow and exact function, texts to lists of ids.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
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
        encoded = self._encode(new)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum()))
        self._ids = np.concatenate((self._ids, ids))
        self._ends = np.concatenate((self._ends, self._ends[-1] + np.cumsum(lengths)))
        flags = np.fromiter(map(_flags, new), np.uint8, len(new))
        self._flags = np.concatenate((self._flags, flags))
        self._characters += sum(map(len, new))

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
        for index, encoded in zip(whole.tolist(), self._encode([texts[i] for i in whole.tolist()]), strict=True):
            parts[index] = np.array(encoded, np.int32)
        return np.concatenate(parts), np.fromiter(map(len, parts), np.int64, len(parts))


def _flags(word: str) -> int:
    flags = HAS_WORD_MARK if WORD_MARK in word else 0
    if word[-1] in SINGLE_QUOTES:
        flags |= ENDS_WITH_QUOTE
    if JOINABLE_WORD.match(word):
        flags |= JOINABLE
    return flags
