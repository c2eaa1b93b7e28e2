"""Encoding with the Rust library: whole texts, and many plain words at a time without the normalisation."""

from __future__ import annotations

import re
import string
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

from metro_t0.tokenization.normalization import WORD_MARK

WORDS_PER_TEXT = 32
ASCII_VISIBLE = string.digits + string.ascii_letters + string.punctuation
# No word rule applies inside or at the ends of these, but for the doubled quotes.
PLAIN_WORD = re.compile(r"[0-9A-Za-z](?:[!-~]*[0-9A-Za-z])?|[!-/:-@\[-`{-~]+")
DOUBLED_QUOTES = ("''", "``")

Encoded = tuple[NDArray[np.int32], NDArray[np.int64]]


class RustEncoder:
    """The exact tokenizer; it knows no special tokens, so that none is read in a text."""

    def __init__(self, rust: RustTokenizer) -> None:
        self._rust = RustTokenizer(rust.model)
        self._rust.normalizer = rust.normalizer
        self._rust.pre_tokenizer = rust.pre_tokenizer
        self._bare = RustTokenizer(rust.model)
        self._bare.pre_tokenizer = rust.pre_tokenizer
        self._lowercase = rust.normalizer.normalize_str("A") == f"{WORD_MARK}a"
        self._plain_known = self._keeps_ascii()
        self._begins_word = np.zeros(rust.get_vocab_size(), np.bool_)
        self._begins_word[[i for token, i in rust.get_vocab().items() if token.startswith(WORD_MARK)]] = True

    def _keeps_ascii(self) -> bool:
        """Whether the normalisation leaves ASCII as it is but for case, so that it can be left out.

        Word rules apart it maps character by character, so that every character in turn tells.
        """
        words = [f"a{character}a" for character in ASCII_VISIBLE]
        return all(self._rust.normalizer.normalize_str(word) == WORD_MARK + self.plain_form(word) for word in words)

    def plain_form(self, word: str) -> str:
        """The normalised form of a plain word, without the word mark."""
        return word.lower() if self._lowercase else word

    def encode_texts(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text."""
        return [encoding.ids for encoding in self._rust.encode_batch_fast(texts, add_special_tokens=False)]

    def is_plain(self, word: str) -> bool:
        """Whether a word is normalised by `plain_form` alone."""
        if not self._plain_known or not PLAIN_WORD.fullmatch(word):
            return False
        return DOUBLED_QUOTES[0] not in word and DOUBLED_QUOTES[1] not in word

    def encode_plain_forms(self, forms: list[str]) -> Encoded:
        """Ids of all words back to back, and the number of ids of each; `forms` are plain forms of plain words."""
        rows = [forms[start : start + WORDS_PER_TEXT] for start in range(0, len(forms), WORDS_PER_TEXT)]
        ids, _ = flatten(self._encode_normalised([WORD_MARK + WORD_MARK.join(row) for row in rows]))
        # The mark is the first character of a word and no other, so as many marked pieces as words begin one each.
        starts = np.flatnonzero(self._begins_word[ids])
        if len(starts) != len(forms):  # the mark itself is an unknown character somewhere
            return flatten(self._encode_normalised([WORD_MARK + form for form in forms]))
        return ids, np.diff(starts, append=len(ids))

    def _encode_normalised(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._bare.encode_batch_fast(texts, add_special_tokens=False)]


def flatten(rows: list[list[int]]) -> Encoded:
    """Rows of ids back to back, and their lengths."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths
