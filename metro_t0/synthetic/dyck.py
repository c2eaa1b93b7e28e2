"""Dyck: sentences of nested head-tail pairs under T5 span corruption.

The law is that of the "nesting dependency language" of Ri and Tsuruoka (2022), the objective that of Wu, Li and
Liang (2022): 128 sentences in a row, cut into chunks of 568 tokens, each a span-corruption example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import Law, valid
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens, exclusive_sum, row_positions
from metro_t0.synthetic.spans import corrupt, raw_length, restore
from metro_t0.synthetic.vocabulary import Vocabulary

SHORTEST_SENTENCE = 6
# Sentence lengths of English Wikipedia, counts of 10,000 for 6, 7, .. tokens (published with the language).
LENGTH_COUNTS = (
    *(303, 303, 342, 308, 275, 310, 337, 356, 340, 309, 321, 358, 319, 331, 343, 310, 310, 350, 284, 284, 307, 252),
    *(246, 255, 209, 207, 177, 168, 165, 128, 149, 133, 109, 123, 102, 99, 81, 81, 73, 60, 61, 44, 43, 43, 52, 39),
    *(26, 30, 29, 24, 34, 18, 8, 17, 15),
)
OPEN_PROBABILITY = 0.4
MOST_PAIRS = 31
POSITION_BITS = 6  # a sentence has at most 62 tokens
SENTENCES_PER_GROUP = 128
GROUPS_PER_DRAW = 45  # a little more than half of 512 examples
INPUT_LENGTH = 512


@dataclass(frozen=True)
class DyckSettings:
    """zipf: pair types with frequencies proportional to floor(V / rank), otherwise uniform.

    whole_sentences: one sentence per example instead of chunks of many.
    """

    zipf: bool = True
    whole_sentences: bool = False


def sentences(draws: Draws, vocabulary: Vocabulary, n: int, zipf: bool = True) -> Ragged:
    """n balanced sentences: pair type i has head universe_low + 2i and tail universe_low + 2i + 1."""
    counts = np.array(LENGTH_COUNTS)
    drawn = np.searchsorted(np.cumsum(counts), draws.below(int(counts.sum()), n), side="right")
    pairs = (drawn + SHORTEST_SENTENCE) // 2 + draws.coins(0.5, n)
    heads = 2 * _pair_types(draws, vocabulary.universe_size // 2, int(pairs.sum()), zipf)
    closes, opening = _walk(draws, pairs)
    tokens = np.empty(len(closes), dtype=np.uint16)
    tokens[np.flatnonzero(closes == 0)] = heads + np.uint16(vocabulary.universe_low)
    return Ragged.contiguous(tokens.take(opening) + closes.view(np.uint8), 2 * pairs)


@lru_cache(maxsize=8)
def _zipf_table(pair_types: int) -> Tokens:
    """Type r as often as floor(V / (r + 1)) says: a uniform draw from the table has the Zipf law."""
    types = np.arange(pair_types)
    return np.repeat(types, pair_types // (types + 1)).astype(np.uint16)


def _pair_types(draws: Draws, pair_types: int, count: int, zipf: bool) -> Tokens:
    if not zipf:
        return draws.tokens(0, pair_types, count)
    table = _zipf_table(pair_types)
    return table.take(draws.below(len(table), count))


def _closings(draws: Draws, pairs: Index) -> NDArray[np.int8]:
    """How many pairs close after each opening, flat over the openings of all sentences.

    Opening with probability 0.4 at every step means that a geometric number of closings is tried before the next
    opening, cut off where nothing is open. So with e = open pairs before an opening, e' = max(e + 1 - tried, 0): a
    random walk reflected at 0, which is the walk less its running minimum. After the last opening everything closes,
    which a fall deeper than any depth says; it also starts the next sentence from 0.
    """
    lanes = draws.lanes(int(pairs.sum()))
    tried = np.zeros(len(lanes), dtype=np.int8)
    for count in range(1, MOST_PAIRS + 1):
        more = lanes < np.uint32(round((1 - OPEN_PROBABILITY) ** count * 2**32))
        if not more.any():
            break
        tried += more
    steps = 1 - tried
    steps[np.cumsum(pairs) - 1] = -2 * MOST_PAIRS
    walk = np.zeros(len(steps) + 1, dtype=np.int32)
    np.cumsum(steps, out=walk[1:])
    depth = walk - np.minimum.accumulate(walk)
    return (depth[:-1] + 1 - depth[1:]).astype(np.int8)


def _walk(draws: Draws, pairs: Index) -> tuple[NDArray[np.int8], Index]:
    """Flat over all sentences: 0 where a pair opens and 1 where it closes, and where the pair of each place opens."""
    closings = _closings(draws, pairs)
    closes = np.ones(2 * len(closings), dtype=np.int8)
    closes[np.arange(len(closings)) + np.cumsum(closings, dtype=np.int64) - closings] = 0
    # A closing stands on the level of the opening it closes: one more than what is open behind it.
    levels = np.cumsum(1 - 2 * closes, dtype=np.int8) + closes
    lengths = 2 * pairs
    return closes, np.repeat(exclusive_sum(lengths), lengths) + _openings(levels.astype("<u2"), lengths)


def _openings(levels: Tokens, lengths: Index) -> Tokens:
    """The position within its sentence at which the pair of each position opens, flat.

    A pair of one level opens and closes before the next of that level opens: in the order of (level, position)
    openings and closings alternate, so neighbors are a pair. The opening's position is then written behind that of
    both, and a second sort brings them back to their places.
    """
    inside = valid(lengths, int(lengths.max()))
    keys: Tokens = np.full(inside.shape, 2**16 - 1, dtype="<u2")
    keys[inside] = levels << np.uint16(POSITION_BITS)
    keys |= np.arange(keys.shape[1], dtype=np.uint16)
    keys.sort(axis=1)
    keys &= np.uint16(2**POSITION_BITS - 1)
    opening = keys.view("<u4") & np.uint32(0xFFFF)  # rows have an even length: the lower half is the opening
    opening |= opening << np.uint32(16)
    keys <<= np.uint16(POSITION_BITS)
    keys |= opening.view("<u2")
    keys[~inside] = 2**16 - 1
    keys.sort(axis=1)
    return keys[inside] & np.uint16(2**POSITION_BITS - 1)


def sample(settings: DyckSettings, draws: Draws, law: Law, n: int) -> Examples:
    """n span-corruption examples."""
    vocabulary = law.vocabulary
    if settings.whole_sentences:
        return corrupt(draws, sentences(draws, vocabulary, n, settings.zipf), vocabulary.extra(0))
    parts, have = list[Examples](), 0
    while have < n:
        parts.append(corrupt(draws, _chunks(draws, vocabulary, settings.zipf), vocabulary.extra(0)))
        have += len(parts[-1])
    return Examples.concatenate(parts).take(np.arange(n))


def _chunks(draws: Draws, vocabulary: Vocabulary, zipf: bool) -> Ragged:
    """Sentences of some groups of 128, every group cut into stretches; its remainder is a short one. Flat."""
    rows = sentences(draws, vocabulary, GROUPS_PER_DRAW * SENTENCES_PER_GROUP, zipf)
    totals = rows.lengths.reshape(GROUPS_PER_DRAW, SENTENCES_PER_GROUP).sum(axis=1)
    size = raw_length(INPUT_LENGTH)[0]
    pieces = -(-totals // size)
    number = row_positions(np.zeros_like(totals), pieces)
    return Ragged.contiguous(rows.values, np.minimum(size, np.repeat(totals, pieces) - number * size))


def is_balanced(tokens: Sequence[int], vocabulary: Vocabulary) -> bool:
    """Whether every tail closes the latest open head and nothing stays open."""
    stack: list[int] = []
    for token in tokens:
        pair, is_tail = divmod(int(token) - vocabulary.universe_low, 2)
        if not is_tail:
            stack.append(pair)
        elif not stack or stack.pop() != pair:
            return False
    return not stack


def defect(settings: DyckSettings, source: Sequence[int], target: Sequence[int], vocabulary: Vocabulary) -> str | None:
    """What is wrong with an example, or None. A chunk may start and end within a sentence."""
    try:
        tokens = restore(source, target, vocabulary.extra(0))
    except ValueError as error:
        return str(error)
    if not all(vocabulary.in_universe(token) for token in tokens):
        return "a token outside the universe"
    if settings.whole_sentences and not is_balanced(tokens, vocabulary):
        return "the restored sentence is not balanced"
    return None if settings.whole_sentences else _crossing(tokens, vocabulary)


def _crossing(tokens: Sequence[int], vocabulary: Vocabulary) -> str | None:
    """Within a stretch: a tail closes the latest open head, or one that opened before the stretch."""
    stack: list[int] = []
    for token in tokens:
        pair, is_tail = divmod(token - vocabulary.universe_low, 2)
        if not is_tail:
            stack.append(pair)
        elif stack and stack.pop() != pair:
            return "a tail that does not close the latest open head"
    return None
