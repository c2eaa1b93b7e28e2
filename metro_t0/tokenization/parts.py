"""Cutting many texts at once, in numpy, into parts that the tokenizer encodes independently of each other.

A text is cut at white space as str.split() does, and where the word rules would insert a space anyway: between the
ASCII punctuation that begins a word and the ASCII letter or digit after it, and between an ASCII letter or digit and
the ASCII punctuation that ends the word. Not cut is after a single quote and before a letter that begins a contraction,
which may have to be joined again, and next to other characters, of which the bytes do not tell whether they are
punctuation.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metro_t0.tokenization.arrow_strings import codes_of, from_content

# Texts are cut in portions whose arrays fit into a processor's cache.
CHARACTERS_AT_ONCE = 1 << 20
# What str.split() splits at, of ASCII.
ASCII_SPACE = b"\t\n\v\f\r\x1c\x1d\x1e\x1f "
SPACE, ALPHANUMERIC, PUNCTUATION, OTHER = range(4)
QUOTE = ord("'")
BEGINS_CONTRACTION = np.isin(np.arange(256), np.frombuffer(b"smdtlrvSMDTLRV", np.uint8))


def _class_of(byte: int) -> int:
    if byte in ASCII_SPACE:
        return SPACE
    character = chr(byte)
    if character in string.punctuation:
        return PUNCTUATION
    return ALPHANUMERIC if character in string.ascii_letters + string.digits else OTHER


BYTE_CLASSES = bytes(map(_class_of, range(256)))


@dataclass(frozen=True)
class Parts:
    """The parts of a batch of texts.

    distinct: the different parts. indices: (parts,) the parts of all texts in order, as places in `distinct`.
    text_ends: (texts + 1,); text t has the parts text_ends[t]:text_ends[t + 1].
    begins_word: (parts,), whether a part is the first of its word.
    """

    distinct: pa.LargeStringArray
    indices: NDArray[np.int32]
    text_ends: NDArray[np.int64]
    begins_word: NDArray[np.bool_]


def cut_into_parts(texts: Sequence[str]) -> Parts:
    """Cut texts into parts. Raises `UnicodeEncodeError` for a lone surrogate."""
    portions = [_number(portion) for portion in batches(texts, CHARACTERS_AT_ONCE)]
    chunks = [portion[0] for portion in portions]
    if len(chunks) > 1:
        chunks = pa.chunked_array(chunks).unify_dictionaries().chunks
    sizes = np.concatenate([portion[1] for portion in portions])
    text_ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
    begins_word = np.concatenate([portion[2] for portion in portions])
    return Parts(chunks[0].dictionary, np.concatenate([codes_of(chunk) for chunk in chunks]), text_ends, begins_word)


def batches(texts: Sequence[str], characters_at_once: int) -> Iterator[Sequence[str]]:
    """Cut a sequence of texts into runs of about so many characters; no texts are one empty run."""
    if len(texts) < 2:
        yield texts
        return
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    edges = np.flatnonzero(np.diff(ends // characters_at_once)) + 1
    for start, end in pairwise([0, *edges.tolist(), len(texts)]):
        yield texts[start:end]


def _number(texts: Sequence[str]) -> tuple[pa.DictionaryArray, NDArray[np.int64], NDArray[np.bool_]]:
    """(parts,) strings, each distinct one once; (texts,) parts that each has; (parts,) whether one begins a word."""
    # Texts with other characters may hold other white space as well; it becomes a plain space here.
    encoded = [text.encode() if text.isascii() else " ".join(text.split()).encode() for text in texts]
    joined = b"\n".join([b"", *encoded, b""])
    starts, offsets, begins_word = _cuts(joined)
    content = joined.translate(None, ASCII_SPACE)
    coded = from_content(content, np.append(offsets, len(content))).dictionary_encode()
    text_starts = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)) + 1)
    return coded, np.diff(np.searchsorted(starts, text_starts), prepend=0), begins_word


def _cuts(joined: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Where each part starts in the bytes, where once the white space is taken out, and whether it begins a word.

    All three are (parts,). The bytes begin and end with white space.
    """
    classes = np.frombuffer(joined.translate(BYTE_CLASSES), np.uint8)
    # A run is a row of bytes of one class; the first run, white space, is left out.
    runs = np.flatnonzero(classes[1:] != classes[:-1]) + 1
    here = classes[runs]
    before = np.concatenate((np.zeros(1, np.uint8), here[:-1]))
    two_before = np.concatenate((np.zeros(1, np.uint8), before[:-1]))
    after = np.concatenate((here[1:], np.zeros(1, np.uint8)))[: len(here)]
    after_leading = (here == ALPHANUMERIC) & (before == PUNCTUATION) & (two_before == SPACE)
    leading = np.flatnonzero(after_leading)
    content = np.frombuffer(joined, np.uint8)
    places = runs[leading]
    after_leading[leading] = (content[places - 1] != QUOTE) | ~BEGINS_CONTRACTION[content[places]]
    trailing = (here == PUNCTUATION) & (before == ALPHANUMERIC) & (after == SPACE)
    begins_word = (here != SPACE) & (before == SPACE)
    cuts = np.flatnonzero(begins_word | after_leading | trailing)
    starts = runs[cuts]
    white_space = (starts - runs[cuts - 1]) * begins_word[cuts]
    white_space[:1] = starts[:1]  # there is no run before the first
    return starts, starts - np.cumsum(white_space), begins_word[cuts]
