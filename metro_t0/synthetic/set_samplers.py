"""Union, intersection and the two differences: one input law, four outputs (Wu et al. 2022, appendix G)."""

from __future__ import annotations

import numpy as np

from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import Law, Mask, distinct_tokens, first_occurrence, join, pick, select, valid
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens


def _two_sequences(draws: Draws, law: Law, n: int) -> tuple[Tokens, Tokens, Index, Index]:
    """(labels, tokens, length of both sequences, length of the first), the matrices (n, width).

    l = U{low-1..high-1} tokens in all, drawn with replacement from a pool of floor(l/2) distinct ones; the first
    sequence has U{0..l} of them (paper: U{1..l-1}).
    """
    lengths = draws.between(max(law.low - 1, 2), law.high - 1, n)
    first = draws.between(0, lengths, n) if law.authors else draws.between(1, lengths - 1, n)
    pool_sizes = np.maximum(lengths // 2, 1)
    width = int(lengths.max())
    pool = distinct_tokens(draws, law, pool_sizes, int(pool_sizes.max()))
    labels = draws.below(pool_sizes[:, None], (n, width)).astype(np.uint16)
    return labels, pick(pool, labels), lengths, first


def _members(labels: Tokens, present: Mask) -> Mask:
    """(n, width): whether the label at each position occurs anywhere in its row where `present` is True."""
    n, width = labels.shape
    flat = np.add(labels, (np.arange(n) * width)[:, None], dtype=np.int64)
    table = np.zeros(n * width, dtype=bool)
    table[flat[present]] = True
    return table.take(flat)


def _source(law: Law, tokens: Tokens, lengths: Index, first: Index) -> Ragged:
    width = tokens.shape[1]
    values, rows = tokens.ravel(), np.arange(len(lengths)) * width
    return join(law, [Ragged(values, rows, first), Ragged(values, rows + first, lengths - first)])


def union(draws: Draws, law: Law, n: int) -> Examples:
    _, tokens, lengths, first = _two_sequences(draws, law, n)
    return Examples(_source(law, tokens, lengths, first), select(tokens, first_occurrence(tokens, lengths)))


def intersect(draws: Draws, law: Law, n: int) -> Examples:
    labels, tokens, lengths, first = _two_sequences(draws, law, n)
    in_first = valid(first, labels.shape[1])
    in_second = valid(lengths, labels.shape[1]) & ~in_first
    kept = first_occurrence(tokens, first) & _members(labels, in_second)
    return Examples(_source(law, tokens, lengths, first), select(tokens, kept))


def set1_minus_set2(draws: Draws, law: Law, n: int) -> Examples:
    labels, tokens, lengths, first = _two_sequences(draws, law, n)
    in_first = valid(first, labels.shape[1])
    in_second = valid(lengths, labels.shape[1]) & ~in_first
    kept = first_occurrence(tokens, first) & ~_members(labels, in_second)
    return Examples(_source(law, tokens, lengths, first), select(tokens, kept))


def set2_minus_set1(draws: Draws, law: Law, n: int) -> Examples:
    # First occurrences over both sequences that do not lie in the first are those of the second alone.
    _, tokens, lengths, first = _two_sequences(draws, law, n)
    kept = first_occurrence(tokens, lengths) & ~valid(first, tokens.shape[1])
    return Examples(_source(law, tokens, lengths, first), select(tokens, kept))
