"""Encoding with the Rust library: whole texts, and many plain words at a time without the normalization."""

from __future__ import annotations

import string
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

from metro_t0.tokenization.arrow_strings import (
    LINE_END,
    codes_of,
    content_of,
    ends_of,
    from_content,
    from_list,
    lines_of,
    select,
    to_list,
)
from metro_t0.tokenization.normalization import WORD_MARK
from metro_t0.tokenization.parts import ALPHANUMERIC, BYTE_CLASSES, OTHER

WORDS_PER_TEXT = 128
ID_BYTES = 4
ASCII_VISIBLE = string.digits + string.ascii_letters + string.punctuation
DOUBLED = np.frombuffer(b"'`", np.uint8)

Encoded = tuple[NDArray[np.int32], NDArray[np.int64]]


class RustEncoder:
    """The exact tokenizer; it knows no special tokens, so that none is read in a text."""

    def __init__(self, rust: RustTokenizer) -> None:
        self._rust = RustTokenizer(rust.model)
        self._rust.normalizer = rust.normalizer
        self._rust.pre_tokenizer = rust.pre_tokenizer
        self._bare = RustTokenizer(rust.model)
        vocabulary = rust.get_vocab()
        if any(WORD_MARK in token[1:] for token in vocabulary):  # else the model itself never crosses a word mark
            self._bare.pre_tokenizer = rust.pre_tokenizer
        self._lowercase = rust.normalizer.normalize_str("A") == f"{WORD_MARK}a"
        self._plain_known = self._keeps_ascii()
        self._begins_word = np.zeros(rust.get_vocab_size(), np.bool_)
        self._begins_word[[i for token, i in vocabulary.items() if token.startswith(WORD_MARK)]] = True

    def _keeps_ascii(self) -> bool:
        """Whether the normalization leaves ASCII as it is but for case, so that it can be left out.

        Word rules apart it maps character by character, so that every character in turn tells.
        """
        words = [f"a{character}a" for character in ASCII_VISIBLE]
        expected = to_list(self.plain_forms(from_list(words)))
        return all(
            self._rust.normalizer.normalize_str(word) == WORD_MARK + form
            for word, form in zip(words, expected, strict=True)
        )

    def plain_forms(self, words: pa.LargeStringArray) -> pa.LargeStringArray:
        """The normalized forms of plain words, without the word mark."""
        return pc.ascii_lower(words) if self._lowercase else words

    def are_plain(self, words: pa.LargeStringArray) -> NDArray[np.bool_]:
        """Whether each word is normalized by `plain_forms` alone: (words,).

        No rule applies to ASCII between two letters or digits, nor to ASCII symbols alone, but for doubled quotes.
        Words must not be empty nor hold white space.
        """
        if not self._plain_known or not len(words):
            return np.zeros(len(words), np.bool_)
        joined = lines_of(words)
        content = np.frombuffer(joined, np.uint8)
        classes = np.frombuffer(joined.translate(BYTE_CLASSES), np.uint8)
        ends = np.flatnonzero(content == ord(LINE_END))
        starts = np.concatenate((np.zeros(1, np.int64), ends[:-1] + 1))
        symbols = ~np.logical_or.reduceat(classes == ALPHANUMERIC, starts)
        plain: NDArray[np.bool_] = symbols | ((classes[starts] == ALPHANUMERIC) & (classes[ends - 1] == ALPHANUMERIC))
        doubled = np.flatnonzero((content[1:] == content[:-1]) & np.isin(content[1:], DOUBLED))
        exceptions = np.concatenate((np.flatnonzero(classes == OTHER), doubled))
        plain[np.searchsorted(ends, exceptions)] = False
        return plain

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text."""
        return [encoding.ids for encoding in self._rust.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_words(self, words: pa.LargeStringArray) -> pa.LargeBinaryArray:
        """The ids of each word, as bytes: (words,). Words must not be empty nor hold white space."""
        plain = self.are_plain(words)
        forms, others = self.plain_forms(select(words, plain)), select(words, ~plain)
        # Sorted words are encoded a quarter faster: the model finds in the processor's cache what it needs.
        order = np.frombuffer(pc.array_sort_indices(forms).buffers()[1], np.uint64, len(forms))
        coded = select(forms, order).dictionary_encode()
        rows = pa.concat_arrays(
            [_rows(*self.encode_plain_forms(coded.dictionary)), _rows(*flatten(self.encode_texts(to_list(others))))]
        )
        places = np.empty(len(words), np.int64)
        places[np.flatnonzero(plain)[order]] = codes_of(coded)
        places[~plain] = np.arange(len(coded.dictionary), len(rows))
        return select(rows, places)

    def encode_plain_forms(self, forms: pa.LargeStringArray) -> Encoded:
        """Ids of all words back to back, and the number of ids of each; `forms` are plain forms of plain words.

        What a word is cut into does not depend on the words before it, not even in a tie: a model's scores are float32,
        whose sums over so few pieces are exact in the float64 that they are added in.
        """
        ids, _ = flatten(self._encode_normalized(self._marked(forms, WORDS_PER_TEXT)))
        # The mark is the first character of a word and no other, so as many marked pieces as words begin one each.
        starts = np.flatnonzero(self._begins_word[ids])
        if len(starts) != len(forms):  # the mark itself is an unknown character somewhere
            return flatten(self._encode_normalized(self._marked(forms, 1)))
        return ids, np.diff(starts, append=len(ids))

    def _marked(self, forms: pa.LargeStringArray, at_once: int) -> list[str]:
        """Texts of so many words with the mark before each."""
        content, offsets = content_of(forms)
        separators = np.full(len(forms), ord(" "), np.uint8)
        separators[::at_once] = ord(LINE_END)
        texts = np.insert(content, offsets[:-1], separators).tobytes().decode()
        return texts.replace(" ", WORD_MARK).replace(LINE_END, LINE_END + WORD_MARK).split(LINE_END)[1:]

    def _encode_normalized(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._bare.encode_batch_fast(texts, add_special_tokens=False)]


def _rows(ids: NDArray[np.int32], lengths: NDArray[np.int64]) -> pa.LargeBinaryArray:
    return from_content(ids, ID_BYTES * ends_of(lengths), pa.large_binary())


def ids_of(rows: pa.LargeBinaryArray) -> Encoded:
    """Ids of all rows back to back, and where each begins and the last ends: (rows + 1,)."""
    content, ends = content_of(rows)
    return content.view(np.int32), ends // ID_BYTES


def flatten(rows: list[list[int]]) -> Encoded:
    """Rows of ids back to back, and their lengths."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths
