"""Dyck: sentences of nested head-tail pairs under T5 span corruption.

The distribution is that of the "nesting dependency language" of Ri and Tsuruoka (2022), the objective that of Wu, Li
and Liang (2022): 128 sentences in a row, cut into chunks of 568 tokens, each a span-corruption example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from metro_t0.spans import corrupt_spans, noise_counts, raw_length, restore
from metro_t0.synthetic.distribution import Distribution
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens, exclusive_sum, row_positions, valid
from metro_t0.synthetic.vocabulary import SyntheticVocabulary

SHORTEST_SENTENCE = 6
# Sentence lengths of English Wikipedia, counts of 10,000 for 6, 7, .. tokens (published with the language).
LENGTH_COUNTS = (
    *(303, 303, 342, 308, 275, 310, 337, 356, 340, 309, 321, 358, 319, 331, 343, 310, 310, 350, 284, 284, 307, 252),
    *(246, 255, 209, 207, 177, 168, 165, 128, 149, 133, 109, 123, 102, 99, 81, 81, 73, 60, 61, 44, 43, 43, 52, 39),
    *(26, 30, 29, 24, 34, 18, 8, 17, 15),
)
OPEN_PROBABILITY = 0.4
MOST_PAIRS = 31
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


SETTINGS = {
    "dyck": DyckSettings(),
    "dyck_uniform": DyckSettings(zipf=False),
    "dyck_sentences": DyckSettings(whole_sentences=True),
}


def sentences(draws: Draws, vocabulary: SyntheticVocabulary, n: int, zipf: bool = True) -> Ragged:
    """n balanced sentences: pair type i has head universe_low + 2i and tail universe_low + 2i + 1."""
    counts = np.array(LENGTH_COUNTS)
    drawn = np.searchsorted(np.cumsum(counts), draws.below(int(counts.sum()), n), side="right")
    pairs = (drawn + SHORTEST_SENTENCE) // 2 + draws.coins(0.5, n)
    types = _zipf_table(vocabulary.universe_size // 2) if zipf else np.arange(vocabulary.universe_size // 2)
    heads = vocabulary.universe_low + 2 * types[draws.below(len(types), int(pairs.sum()))]
    return Ragged(_walk(draws, heads, pairs), 2 * pairs)


@lru_cache(maxsize=8)
def _zipf_table(pair_types: int) -> Index:
    """Type r as often as floor(V / (r + 1)) says: a uniform draw from the table has Zipf's distribution."""
    types = np.arange(pair_types)
    return np.repeat(types, pair_types // (types + 1))


def _walk(draws: Draws, heads: Index, pairs: Index) -> Tokens:
    """Sentences with the tails of these heads put in, flat. heads: flat; pairs: (n,) heads of each sentence.

    Opening with probability 0.4 at every step means that a geometric number of closings is tried before the next
    opening, cut off where nothing is open. So with e = open pairs before an opening, e' = max(e + 1 - tried, 0): a
    random walk reflected at 0, which is the walk less its running minimum. After the last opening everything closes.
    """
    lanes = draws.lanes(len(heads))
    bounds = np.array([round((1 - OPEN_PROBABILITY) ** k * 2**32) for k in range(MOST_PAIRS, 0, -1)])
    tried = MOST_PAIRS - np.searchsorted(bounds, lanes, side="right")  # k or more with probability 0.6 ** k
    tried[np.cumsum(pairs) - 1] = 2 * MOST_PAIRS  # more than are open
    walk = np.cumsum(np.append(0, 1 - tried))
    depth = walk - np.minimum.accumulate(walk)
    openings = np.arange(len(heads)) + exclusive_sum(depth[:-1] + 1 - depth[1:])
    steps = np.full(2 * len(heads), -1)
    steps[openings] = 1
    # A pair of one level opens and closes before the next of that level opens: by level they are neighbors.
    levels = np.cumsum(steps) + (steps < 0)
    order = np.argsort(levels.astype(np.int8), kind="stable")
    tokens = np.empty(len(steps), dtype=np.uint16)
    tokens[openings] = heads
    tokens[order[1::2]] = tokens[order[::2]] + 1
    return tokens


def sample(settings: DyckSettings, draws: Draws, distribution: Distribution, n: int) -> Examples:
    """n span-corruption examples."""
    vocabulary = distribution.vocabulary
    if settings.whole_sentences:
        return corrupt(draws, sentences(draws, vocabulary, n, settings.zipf), vocabulary.extra(0))
    parts = list[Examples]()
    while sum(map(len, parts)) < n:
        parts.append(corrupt(draws, _chunks(draws, vocabulary, settings.zipf), vocabulary.extra(0)))
    return Examples.concatenate(parts).take(np.arange(n))


def _chunks(draws: Draws, vocabulary: SyntheticVocabulary, zipf: bool) -> Ragged:
    """Sentences of some groups of 128, every group cut into stretches; its remainder is a short one. Flat."""
    rows = sentences(draws, vocabulary, GROUPS_PER_DRAW * SENTENCES_PER_GROUP, zipf)
    totals = rows.lengths.reshape(GROUPS_PER_DRAW, SENTENCES_PER_GROUP).sum(axis=1)
    size = raw_length(INPUT_LENGTH)[0]
    pieces = -(-totals // size)
    number = row_positions(np.zeros_like(totals), pieces)
    return Ragged(rows.values, np.minimum(size, np.repeat(totals, pieces) - number * size))


def _segment_sizes(draws: Draws, totals: Index, parts: Index) -> Index:
    """Sizes of `parts[i]` non-empty segments of `totals[i]` items, flat.

    All segmentations are equally likely: parts - 1 of the inner boundaries, without replacement.
    """
    begins = np.ones(int(totals.sum()), dtype=bool)
    if len(inner := np.delete(np.arange(len(begins)), exclusive_sum(totals))):
        begins[inner] = draws.shuffled(valid(parts - 1, int(totals.max()) - 1), totals - 1)
    return np.diff(np.flatnonzero(begins), append=len(begins))


def corrupt(draws: Draws, rows: Ragged, first_sentinel: int) -> Examples:
    """Input: every noise span becomes a sentinel. Target: every other span does. Sentinels count down.

    Spans alternate and the first is not noise. rows: each at least two tokens long.
    """
    noise, spans = noise_counts(rows.lengths)
    clean_sizes = _segment_sizes(draws, rows.lengths - noise, spans)
    noise_sizes = _segment_sizes(draws, noise, spans)
    chosen = np.repeat(np.tile([False, True], len(clean_sizes)), np.stack([clean_sizes, noise_sizes], axis=1).ravel())
    source, target = corrupt_spans(rows.values, chosen, rows.lengths, first_sentinel, step=-1)
    return Examples(Ragged(*source), Ragged(*target))


def nesting_defect(tokens: Sequence[int], vocabulary: SyntheticVocabulary, whole: bool) -> str | None:
    """What is wrong with a sentence, or with a stretch that may start and end within sentences."""
    stack: list[int] = []
    for token in tokens:
        pair, is_tail = divmod(int(token) - vocabulary.universe_low, 2)
        if not is_tail:
            stack.append(pair)
        elif (stack or whole) and (not stack or stack.pop() != pair):
            return "a tail that does not close the latest open head"
    return "a head that is not closed" if whole and stack else None


def defect(
    settings: DyckSettings, source: Sequence[int], target: Sequence[int], vocabulary: SyntheticVocabulary
) -> str | None:
    """What is wrong with an example, or None."""
    try:
        tokens = restore(source, target, vocabulary.extra(0), step=-1)
    except ValueError as error:
        return str(error)
    if not all(vocabulary.in_universe(token) for token in tokens):
        return "a token outside the universe"
    return nesting_defect(tokens, vocabulary, settings.whole_sentences)
