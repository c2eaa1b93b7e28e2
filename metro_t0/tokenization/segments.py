"""Stretches of words that are encoded together, because a rule of the tokenizer looks from one word into the next.

These are few: a contraction that is joined to a single quote at the end of the word before it ("the dogs' s"); words
that hold the word mark, which may be stripped with what follows; and words that begin with a character which belongs
to the one before it (combining marks, joiners) or end with one that takes the next to it (Unicode's grapheme clusters,
of which the character map of an sp.model is a function).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from metro_t0.tokenization.arrow_strings import matches, select, to_list
from metro_t0.tokenization.normalization import CONTRACTIONS, SINGLE_QUOTES, WORD_MARK
from metro_t0.tokenization.parts import Parts

# What may make a part of a word concern the next part or the one before: bits of a flag, and the patterns that tell.
# They find more than there is, which costs time, no error.
ENDS_WITH_QUOTE, IS_JOINABLE, HAS_WORD_MARK, BELONGS_TO_LAST, TAKES_NEXT = 1, 2, 4, 8, 16
PATTERNS = {
    ENDS_WITH_QUOTE: f"[{SINGLE_QUOTES}]$",
    IS_JOINABLE: rf"^(?:{CONTRACTIONS})(?:\W|$)",
    HAS_WORD_MARK: WORD_MARK,
    BELONGS_TO_LAST: r"^[\p{M}\p{Cf}\x{FF9E}\x{FF9F}\x{1F3FB}-\x{1F3FF}\x{0E33}\x{0EB3}]",
    TAKES_NEXT: (
        r"[\p{Cf}\x{0D4E}\x{111C2}\x{111C3}\x{1193F}\x{11941}\x{11A3A}\x{11A84}-\x{11A89}\x{11D46}\x{11F02}]$"
    ),
}
VISIBLE = "[0-9A-Za-z]"
"""No normalization makes nothing of it."""


def flags_of(parts: pa.LargeStringArray) -> NDArray[np.uint8]:
    """The flags of each part, added up: (parts,)."""
    flags = np.zeros(len(parts), np.uint8)
    flagged = np.flatnonzero(matches(parts, "|".join(PATTERNS.values())))
    few = select(parts, flagged)
    for flag, pattern in PATTERNS.items():
        flags[flagged[matches(few, pattern)]] += flag
    return flags


def segments_of(parts: Parts, flags: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(segments, 2) first part and one past the last of every stretch of whole words that is encoded together.

    flags: (distinct,), the flags of the distinct parts.
    """
    flagged = np.flatnonzero((flags > 0)[parts.indices])
    found = flags[parts.indices[flagged]]
    quoted, joinable, marked, back, ahead = (flagged[found & flag > 0] for flag in PATTERNS)
    # A quote that ends one text and a contraction that begins the next make a needless segment, no error.
    joined = np.intersect1d(quoted + 1, joinable, assume_unique=True)
    if not (len(joined) or len(back) or len(ahead) or len(marked)):
        return np.zeros((0, 2), np.int64)
    word_starts = np.flatnonzero(parts.begins_word)
    words = len(word_starts)
    word_of = np.cumsum(parts.begins_word) - 1
    # linked[w]: word w is encoded with the one before it. alone[w]: at least by itself.
    linked, alone = np.zeros(words + 1, np.bool_), np.zeros(words, np.bool_)
    alone[word_of[joined]] = alone[word_of[marked]] = True
    linked[word_of[joined[parts.begins_word[joined]]]] = True
    linked[word_of[back]] = True
    linked[word_of[ahead] + 1] = True
    if len(marked):
        visible = np.unique(word_of[matches(parts.distinct, VISIBLE)[parts.indices]])
        after = word_of[marked] + 1
        ends = np.append(visible, words - 1)[np.searchsorted(visible, after)] + 1
        depth = np.zeros(words + 2, np.int64)
        np.add.at(depth, after, 1)
        np.add.at(depth, np.maximum(ends, after), -1)
        linked |= np.cumsum(depth)[: words + 1] > 0
    first_words = word_of[parts.text_ends[:-1][np.diff(parts.text_ends) > 0]]
    linked[first_words] = linked[words] = False
    inside = alone | linked[:-1] | linked[1:]
    begins, ends = np.flatnonzero(inside & ~linked[:-1]), np.flatnonzero(inside & ~linked[1:]) + 1
    bounds = np.append(word_starts, len(parts.indices))
    return np.stack([bounds[begins], bounds[ends]], axis=1)


def texts_of(parts: Parts, segments: NDArray[np.int64]) -> list[str]:
    """segments: (segments, 2). The text of every one, one space between words."""
    texts = []
    for start, end in segments.tolist():
        pieces = to_list(select(parts.distinct, parts.indices[start:end]))
        spaced = (
            f" {piece}" if begins else piece for piece, begins in zip(pieces, parts.begins_word[start:end], strict=True)
        )
        texts.append("".join(spaced).strip(" "))
    return texts
