"""Encoding words once: text repeats its words, and no rule of the tokenizer looks beyond a word but one.

Texts are cut into words, and words from the punctuation around them (`parts`). A distinct part is encoded once; a
text is then a row of table look-ups, done for all texts of a batch in numpy. This is exact because normalization and
pieces stay inside parts. The exceptions are found by flags on the parts, and such texts are encoded whole: a
contraction that is joined to a single quote at the end of the word before it ("the dogs' s"), and words that contain
the word mark itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metro_t0.tokenization.arrow_strings import codes_of, content_of, matches, select, to_list
from metro_t0.tokenization.encoder import Encoded, RustEncoder, flatten
from metro_t0.tokenization.normalization import JOINABLE_WORD, SINGLE_QUOTES, WORD_MARK
from metro_t0.tokenization.part_table import Growing, PartTable, alphabetical_order
from metro_t0.tokenization.parts import Parts, batches, cut_into_parts

# Bounds of the memory that the table takes (about 150 MB at these), whatever the amount of text.
MAX_PARTS = 1 << 19
MAX_CHARACTERS = 1 << 23
# Bounds the memory that a batch needs.
CHARACTERS_AT_ONCE = 1 << 24
# Arrays of so many parts fit into a processor's cache.
PARTS_AT_ONCE = 1 << 16


class WordCache:
    """Encode batches of texts through a table of their parts."""

    def __init__(self, encoder: RustEncoder) -> None:
        self._encoder = encoder
        self._clear()

    def _clear(self) -> None:
        self._table = PartTable()
        self._characters = 0
        # Part p has the number n = table.find(p) and the ids ids[starts[n]:starts[n] + lengths[n]]; plain parts that
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
        if len(self._table) > MAX_PARTS or self._characters > MAX_CHARACTERS:
            self._clear()
        parts = cut_into_parts(texts)
        numbers = self._number(parts.distinct)
        whole = self._texts_to_encode_whole(numbers, parts)
        ids, sizes = self._look_up(numbers, parts)
        return self._replace(texts, whole, ids, sizes) if whole.size else (ids, sizes)

    def _number(self, parts: pa.LargeStringArray) -> NDArray[np.int64]:
        """Numbers of distinct parts, once the table holds them all."""
        numbers = self._table.find(parts)
        if (unknown := np.flatnonzero(numbers < 0)).size:
            numbers[unknown] = self._learn(select(parts, unknown))
        return numbers

    def _learn(self, new: pa.LargeStringArray) -> NDArray[np.int64]:
        numbers = np.empty(len(new), np.int64)
        plain = self._encoder.are_plain(new)
        others = select(new, ~plain)
        numbers[~plain] = self._add(others, flatten(self._encoder.encode_texts(to_list(others))))
        numbers[plain] = self._learn_plain(self._encoder.plain_forms(select(new, plain)))
        unknown = np.flatnonzero(self._table.find(new) < 0)
        self._table.insert(select(new, unknown), numbers[unknown])
        self._characters += len(content_of(new)[0])
        return numbers

    def _learn_plain(self, forms: pa.LargeStringArray) -> NDArray[np.int64]:
        """Numbers of plain forms, among which may be equal ones and known ones."""
        coded = forms.dictionary_encode()
        numbers = self._table.find(coded.dictionary)
        fresh = np.flatnonzero(numbers < 0)
        fresh = fresh[alphabetical_order(select(coded.dictionary, fresh))]
        new = select(coded.dictionary, fresh)
        numbers[fresh] = self._add(new, self._encoder.encode_plain_forms(new))
        return numbers[codes_of(coded)]

    def _add(self, parts: pa.LargeStringArray, encoded: Encoded) -> NDArray[np.int64]:
        """Give new numbers to new distinct parts."""
        ids, lengths = encoded
        numbers = np.arange(len(self._starts), len(self._starts) + len(lengths))
        self._table.insert(parts, numbers)
        self._starts.extend(len(self._ids) + np.cumsum(lengths) - lengths)
        self._lengths.extend(lengths)
        self._ids.extend(ids)
        self._ends_with_quote.extend(matches(parts, f"[{SINGLE_QUOTES}]$"))
        self._has_word_mark.extend(matches(parts, WORD_MARK))
        return numbers

    def _texts_to_encode_whole(self, numbers: NDArray[np.int64], parts: Parts) -> NDArray[np.int64]:
        """Places of the texts in which a rule may look beyond a part."""
        indices = parts.indices
        marked = np.flatnonzero(self._has_word_mark.values[numbers][indices])
        after = np.flatnonzero(self._ends_with_quote.values[numbers][indices[:-1]]) + 1
        if not len(marked) and not len(after):
            return marked
        followers = np.unique(indices[after])
        words = zip(followers.tolist(), to_list(select(parts.distinct, followers)), strict=True)
        joinable = [follower for follower, word in words if JOINABLE_WORD.match(word)]
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
