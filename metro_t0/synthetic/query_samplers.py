"""Delete and search: a sequence and a query that occurs in it or does not (Wu et al. 2022, appendix G)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import Law, Mask, answers, join, rows_of, select, valid
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens, exclusive_sum, row_positions

LONG_QUERY = 0.01  # share of the absent branch in which the query is longer than the sequence


@dataclass
class Pairs:
    """tokens (n, width) of length `lengths`; query (n, width) of length `query_lengths`; whether it is planted."""

    present: Mask
    tokens: Tokens
    lengths: Index
    query: Tokens
    query_lengths: Index


def _shape(draws: Draws, law: Law, present: Mask) -> tuple[Index, Index]:
    """Lengths of sequence and query, before the bound on their sum."""
    n = len(present)
    query = draws.between(1, max((law.high - 1) // 3, 1), n)
    sequence = draws.between(2 * query, law.high - 1 - query, n)
    long_query = draws.between(law.low + 1, law.high, n)
    long_sequence = draws.below(long_query, n)
    plain_sequence = draws.between(law.low, law.high, n)
    plain_query = draws.between(law.low, plain_sequence, n)
    is_long = draws.coins(LONG_QUERY, n)
    absent_sequence = np.where(is_long, long_sequence, plain_sequence)
    absent_query = np.where(is_long, long_query, plain_query)
    return np.where(present, sequence, absent_sequence), np.where(present, query, absent_query)


def _bounded_shapes(draws: Draws, law: Law, n: int, probability: float) -> tuple[Mask, Index, Index]:
    """Branch and lengths with low <= n + 1 + q <= high.

    authors: an example out of bounds is drawn again with its branch, which changes the share of the branches;
    paper: it is drawn again in its branch.
    """
    present = draws.coins(probability, n)
    sequence, query = _shape(draws, law, present)
    while True:
        total = sequence + 1 + query
        rows = np.flatnonzero((total < law.low) | (total > law.high))
        if not len(rows):
            return present, sequence, query
        if law.authors:
            present[rows] = draws.coins(probability, len(rows))
        sequence[rows], query[rows] = _shape(draws, law, present[rows])


def _plant(draws: Draws, law: Law, pairs: Pairs) -> None:
    """Write copies of the query into the sequences of the present branch.

    authors: U{1..floor(n/q)} copies, the other tokens fall into the gaps around them at random (multinomially);
    paper: one copy at a uniform place.
    """
    rows = np.flatnonzero(pairs.present)
    lengths, sizes = pairs.lengths[rows], pairs.query_lengths[rows]
    if law.authors:
        copies = draws.between(1, lengths // sizes, len(rows))
        fillers = lengths - copies * sizes
        gaps = draws.below(np.repeat(copies + 1, fillers), int(fillers.sum()))
        width = int(copies.max(initial=1)) + 1
        filler_rows = np.repeat(np.arange(len(rows)), fillers)
        gap_sizes = np.bincount(filler_rows * width + gaps, minlength=len(rows) * width).reshape(len(rows), width)
        before = np.cumsum(gap_sizes, axis=1) + np.arange(width) * sizes[:, None]
        starts = before[valid(copies, width)]
    else:
        copies = np.ones(len(rows), dtype=np.int64)
        starts = draws.below(lengths - sizes + 1, len(rows))
    copy_rows, copy_sizes = np.repeat(rows, copies), np.repeat(sizes, copies)
    target = row_positions(copy_rows * pairs.tokens.shape[1] + starts, copy_sizes)
    origin = row_positions(copy_rows * pairs.query.shape[1], copy_sizes)
    pairs.tokens.ravel()[target] = pairs.query.ravel()[origin]


def leftmost(tokens: Tokens, lengths: Index, query: Tokens, query_lengths: Index) -> Index:
    """Where the query first occurs in its sequence, or -1: (n,)."""
    width = tokens.shape[1]
    room = np.maximum(lengths - query_lengths + 1, 0)
    rows, at = np.nonzero((tokens == query[:, :1]) & valid(room, width))
    two = query_lengths[rows] > 1
    two[two] = tokens[rows[two], at[two] + 1] != query[rows[two], 1]
    rows, at = rows[~two], at[~two]
    sizes = query_lengths[rows]
    same = (
        tokens.ravel()[row_positions(rows * width + at, sizes)]
        == query.ravel()[row_positions(rows * query.shape[1], sizes)]
    )
    whole = np.logical_and.reduceat(same, exclusive_sum(sizes)) if len(sizes) else np.zeros(0, dtype=bool)
    found = np.full(len(lengths), width, dtype=np.int64)
    np.minimum.at(found, rows[whole], at[whole])
    return np.where(found == width, -1, found)


def _pairs(draws: Draws, law: Law, n: int, probability: float) -> tuple[Pairs, Index]:
    """Sequences and queries, and where each query first occurs (-1: nowhere)."""
    present, lengths, query_lengths = _bounded_shapes(draws, law, n, probability)
    tokens = law.tokens(draws, (n, int(lengths.max())))
    query = law.tokens(draws, (n, int(query_lengths.max())))
    pairs = Pairs(present, tokens, lengths, query, query_lengths)
    _plant(draws, law, pairs)
    at = leftmost(tokens, lengths, query, query_lengths)
    while len(rows := np.flatnonzero(~present & (at >= 0))):
        tokens[rows] = law.tokens(draws, (len(rows), tokens.shape[1]))
        query[rows] = law.tokens(draws, (len(rows), query.shape[1]))
        at[rows] = leftmost(tokens[rows], lengths[rows], query[rows], query_lengths[rows])
    return pairs, at


def delete(draws: Draws, law: Law, n: int) -> Examples:
    pairs, at = _pairs(draws, law, n, probability=0.75)
    width = pairs.tokens.shape[1]
    end = np.where(at < 0, 0, at + pairs.query_lengths)
    columns = np.arange(width)
    kept = valid(pairs.lengths, width) & ((columns < at[:, None]) | (columns >= end[:, None]))
    return Examples(_source(law, pairs), select(pairs.tokens, kept))


def search(draws: Draws, law: Law, n: int) -> Examples:
    pairs, at = _pairs(draws, law, n, probability=0.5 if law.authors else 0.75)
    return Examples(_source(law, pairs), answers(law, at >= 0))


def _source(law: Law, pairs: Pairs) -> Ragged:
    return join(law, [rows_of(pairs.tokens, pairs.lengths), rows_of(pairs.query, pairs.query_lengths)])
