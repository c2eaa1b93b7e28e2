"""Encoding words once: text repeats its words, and no rule of the tokenizer looks beyond a word but one.

Texts are cut into words, and words from the punctuation around them (`parts`). A distinct part is encoded once; a
text is then a row of table look-ups, done for all texts of a batch in numpy. This is exact because normalisation and
pieces stay inside parts. The exceptions are found by flags on the parts, and such texts are encoded whole: a
contraction that is joined to a single quote at the end of the word before it ("the dogs' s"), and words that contain
the word mark itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, count, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metro_t0.tokenization.encoder import Encoded, RustEncoder, flatten
from metro_t0.tokenization.normalization import JOINABLE_WORD, SINGLE_QUOTES, WORD_MARK
from metro_t0.tokenization.parts import Parts, batches, cut_into_parts

# Bounds of the memory that the table takes (about 150 MB at these), whatever the amount of text.
MAX_PARTS = 1 << 19
MAX_CHARACTERS = 1 << 23
# Bounds the memory that a batch needs.
CHARACTERS_AT_ONCE = 1 << 24
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
        """All values so far."""
        return self._room[: self._size]

    def extend(self, values: NDArray[Any]) -> None:
        """Add values at the end."""
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

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of all texts back to back, (total,) int32, and the number of ids of each text, (texts,) int64."""
        ids, sizes = zip(*(self._encode(batch) for batch in batches(texts, CHARACTERS_AT_ONCE)), strict=True)
        return np.concatenate(ids), np.concatenate(sizes)

    def _encode(self, texts: Sequence[str]) -> Encoded:
        if len(self._numbers) > MAX_PARTS or self._characters > MAX_CHARACTERS:
            self._clear()
        parts = cut_into_parts(texts)
        numbers = self._number(parts.distinct)
        whole = self._texts_to_encode_whole(numbers, parts)
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
        plain = self._encoder.are_plain(new)
        if others := list(compress(new, ~plain)):
            self._add(others, flatten(self._encoder.encode_texts(others)))
        words = list(compress(new, plain))
        forms = self._encoder.plain_forms(words)
        if new_forms := sorted(set(forms).difference(self._numbers)):
            self._add(new_forms, self._encoder.encode_plain_forms(new_forms))
        self._numbers.update(zip(words, map(self._numbers.__getitem__, forms), strict=True))
        self._characters += sum(map(len, new))

    def _add(self, parts: list[str], encoded: Encoded) -> None:
        ids, lengths = encoded
        self._numbers.update(zip(parts, count(len(self._starts)), strict=False))
        self._starts.extend(len(self._ids) + np.cumsum(lengths) - lengths)
        self._lengths.extend(lengths)
        self._ids.extend(ids)
        self._ends_with_quote.extend(np.fromiter((part[-1] in SINGLE_QUOTES for part in parts), np.bool_, len(parts)))
        self._has_word_mark.extend(np.fromiter((WORD_MARK in part for part in parts), np.bool_, len(parts)))

    def _texts_to_encode_whole(self, numbers: NDArray[np.int64], parts: Parts) -> NDArray[np.int64]:
        """Places of the texts in which a rule may look beyond a part."""
        indices = parts.indices
        marked = np.flatnonzero(self._has_word_mark.values[numbers][indices])
        after = np.flatnonzero(self._ends_with_quote.values[numbers][indices[:-1]]) + 1
        if not len(marked) and not len(after):
            return marked
        followers = np.unique(indices[after]).tolist()
        joinable = [follower for follower in followers if JOINABLE_WORD.match(parts.distinct[follower])]
        # A quote that ends one text and a contraction that begins the next cost a needless exact pass, no error.
        joined = after[np.isin(indices[after], joinable)]
        return np.unique(np.searchsorted(parts.text_ends, np.concatenate((joined, marked)), side="right") - 1)

    def _look_up(self, numbers: NDArray[np.int64], parts: Parts) -> Encoded:
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
        return ids, np.diff(ends[parts.text_ends])

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
