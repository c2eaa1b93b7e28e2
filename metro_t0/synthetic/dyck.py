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
from metro_t0.synthetic.law import Law, Mask, valid
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
POSITION_BITS, NUMBER_BITS = 6, 5  # a sentence has at most 62 tokens in 31 pairs
SENTENCES_PER_GROUP = 128
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
    types = _pair_types(draws, vocabulary.universe_size // 2, int(pairs.sum()), zipf)
    opens, pair = _walk(draws, pairs)
    heads = (vocabulary.universe_low + 2 * types).astype(np.uint16)
    # The j-th opening of a sentence takes its j-th type; a closing takes that of the opening it closes.
    return Ragged.contiguous(heads[pair] + (~opens).astype(np.uint16), 2 * pairs)


@lru_cache(maxsize=8)
def _zipf_table(pair_types: int) -> NDArray[np.int64]:
    return np.cumsum(pair_types // np.arange(1, pair_types + 1))


def _pair_types(draws: Draws, pair_types: int, count: int, zipf: bool) -> Index:
    if not zipf:
        return draws.below(pair_types, count)
    table = _zipf_table(pair_types)
    return np.searchsorted(table, draws.below(int(table[-1]), count), side="right")


def _walk(draws: Draws, pairs: Index) -> tuple[Mask, Index]:
    """Flat over all sentences: whether a pair opens or closes here, and which pair (over all sentences) it is.

    All sentences take a step at a time: open with probability 0.4 or where nothing is open, as long as pairs are
    left; otherwise close.
    """
    # Long sentences first: those still running are then a prefix of every array.
    order = np.argsort(-pairs, kind="stable")
    left = pairs[order].astype(np.int8)
    lengths = 2 * pairs[order]
    depth = np.zeros(len(pairs), dtype=np.int8)
    opens = np.zeros((int(lengths[0]), len(pairs)), dtype=bool)
    levels = np.zeros_like(opens, dtype=np.uint16)
    for step in range(len(opens)):
        running = int(np.searchsorted(-lengths, -step, side="left"))
        here, remaining = depth[:running], left[:running]
        opening = (draws.coins(OPEN_PROBABILITY, running) | (here == 0)) & (remaining > 0)
        opens[step, :running] = opening
        here += opening
        levels[step, :running] = here
        here -= ~opening
        remaining -= opening
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    opens = np.ascontiguousarray(opens.T)[place]
    levels = np.ascontiguousarray(levels.T)[place]
    inside = valid(2 * pairs, opens.shape[1])
    within = _match(opens, levels, inside)[inside]
    return opens[inside], np.repeat(exclusive_sum(pairs), 2 * pairs) + within


def _match(opens: Mask, levels: Tokens, inside: Mask) -> Tokens:
    """(n, width): the number of the pair, within its sentence, that opens or closes at each position.

    A pair of one level opens and closes before the next of that level opens: in the order of (level, position)
    openings and closings alternate. The keys hold 5 bits of level, 6 of position and 5 of the pair's number.
    """
    number = np.cumsum(opens, axis=1, dtype=np.uint16) - np.uint16(1)
    keys = levels << np.uint16(POSITION_BITS + NUMBER_BITS)
    keys |= np.arange(opens.shape[1], dtype=np.uint16) << np.uint16(NUMBER_BITS)
    keys |= number
    keys[~inside] = 2**16 - 1
    keys.sort(axis=1)
    number_bits = np.uint16(2**NUMBER_BITS - 1)
    keys[:, 1::2] = (keys[:, 1::2] & ~number_bits) | (keys[:, ::2] & number_bits)
    keys &= np.uint16(2 ** (POSITION_BITS + NUMBER_BITS) - 1)
    keys.sort(axis=1)
    return keys & number_bits


def sample(settings: DyckSettings, draws: Draws, law: Law, n: int) -> Examples:
    """n span-corruption examples."""
    vocabulary = law.vocabulary
    if settings.whole_sentences:
        rows = sentences(draws, vocabulary, n, settings.zipf)
        return _corrupt(draws, rows, vocabulary)
    parts, have = [], 0
    while have < n:
        chunks = _chunks(draws, vocabulary, (n - have) * 2 // 11 + 2, settings.zipf)
        parts.append(chunks)
        have += len(chunks)
    chunks = Ragged.concatenate(parts).take(np.arange(n))
    return _corrupt(draws, chunks, vocabulary)


def _chunks(draws: Draws, vocabulary: Vocabulary, groups: int, zipf: bool) -> Ragged:
    """Sentences of `groups` groups of 128, every group cut into stretches; its remainder is a short one."""
    rows = sentences(draws, vocabulary, groups * SENTENCES_PER_GROUP, zipf)
    totals = rows.lengths.reshape(groups, SENTENCES_PER_GROUP).sum(axis=1)
    size = raw_length(INPUT_LENGTH)[0]
    pieces = -(-totals // size)
    number = row_positions(np.zeros(groups, dtype=np.int64), pieces)
    starts = np.repeat(exclusive_sum(totals), pieces) + number * size
    return Ragged(rows.values, starts, np.minimum(size, np.repeat(totals, pieces) - number * size))


def _corrupt(draws: Draws, rows: Ragged, vocabulary: Vocabulary) -> Examples:
    width = int(rows.lengths.max())
    tokens = np.zeros((len(rows), width), dtype=np.uint16)
    tokens.ravel()[row_positions(np.arange(len(rows)) * width, rows.lengths)] = rows.compact().values
    return corrupt(draws, tokens, rows.lengths, vocabulary.extra(0))


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
