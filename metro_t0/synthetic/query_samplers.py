"""Delete and search: a sequence and a query that occurs in it or does not (Wu et al. 2022, appendix G)."""

from __future__ import annotations

import numpy as np

from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import Frame, Law, Mask, answers, stretches
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens, exclusive_sum, row_positions

LONG_QUERY = 0.01  # share of the absent branch in which the query is longer than the sequence


def _proposals(draws: Draws, law: Law, present: Mask) -> tuple[Index, Index]:
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


def _in_bounds(draws: Draws, law: Law, n: int, probability: float) -> tuple[Mask, Index, Index]:
    """The first n of independent proposals (planted?, sequence length, query length) with low <= their sum + 1 <= high.

    That is the law of proposing again until the bound holds, the branch's coin included.
    """
    accepted: list[tuple[Mask, Index, Index]] = []
    missing = n
    while missing > 0:
        present = draws.coins(probability, 2 * missing)
        sequence, query = _proposals(draws, law, present)
        total = sequence + 1 + query
        rows = np.flatnonzero((total >= law.low) & (total <= law.high))[:missing]
        accepted.append((present[rows], sequence[rows], query[rows]))
        missing -= len(rows)
    present, sequence, query = (np.concatenate(column) for column in zip(*accepted, strict=True))
    return present, sequence, query


def _shapes(draws: Draws, law: Law, n: int, probability: float) -> tuple[Mask, Index, Index]:
    """Branch and lengths within bounds.

    authors: an example out of bounds is drawn again with its branch, which changes the share of the branches;
    paper: it is drawn again in its branch.
    """
    if law.authors:
        return _in_bounds(draws, law, n, probability)
    present = draws.coins(probability, n)
    lengths, query_lengths = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for branch in (True, False):
        rows = np.flatnonzero(present == branch)
        if len(rows):
            _, lengths[rows], query_lengths[rows] = _in_bounds(draws, law, len(rows), float(branch))
    return present, lengths, query_lengths


def _plant(draws: Draws, frame: Frame, values: Tokens, present: Mask) -> Index:
    """Write copies of the query into the sequences of the present branch; gives where the first one lies.

    authors: U{1..floor(n/q)} copies, the other tokens fall into the gaps around them at random (multinomially);
    paper: one copy at a uniform place. Positions are within the sequence; of other rows it is their length.
    """
    rows = np.flatnonzero(present)
    lengths, sizes = (part[rows] for part in frame.parts)
    if frame.law.authors:
        copies = draws.between(1, lengths // sizes, len(rows))
        fillers = lengths - copies * sizes
        gap_starts = exclusive_sum(copies + 1)
        gaps = draws.below(np.repeat(copies + 1, fillers), int(fillers.sum())) + np.repeat(gap_starts, fillers)
        pieces = np.bincount(gaps, minlength=int((copies + 1).sum()))
        first = pieces[gap_starts]
        pieces += np.repeat(sizes, copies + 1)  # a gap and the copy behind it; nothing stands behind the last gap
        ends = np.cumsum(pieces) - np.repeat(exclusive_sum(lengths + sizes), copies + 1)
        last = np.zeros(len(pieces), dtype=bool)
        last[gap_starts + copies] = True
        starts = ends[~last] - np.repeat(sizes, copies)
    else:
        copies = np.ones(len(rows), dtype=np.int64)
        starts = first = draws.below(lengths - sizes + 1, len(rows))
    copy_sizes = np.repeat(sizes, copies)
    target = row_positions(np.repeat(frame.start(0)[rows], copies) + starts, copy_sizes)
    values[target] = values[row_positions(np.repeat(frame.start(1)[rows], copies), copy_sizes)]
    at = frame.parts[0].copy()
    at[rows] = first
    return at


def leftmost(values: Tokens, frame: Frame, known: Index) -> Index:
    """Where the query first occurs in its sequence, its length where nowhere: (n,).

    values: the buffer of the frame, of which part 0 is the sequence and part 1 the query. known: an occurrence, or
    the length of the sequence. Only places to the left of it where the first token agrees are compared whole.
    """
    lengths, sizes = frame.parts
    begins, queries = frame.start(0), frame.start(1)
    limit = np.minimum(known, np.maximum(lengths - sizes + 1, 0))
    before = begins - frame.starts
    inside = stretches((False, True, False), before, limit, frame.rows - before - limit)
    inside &= values == frame.spread(values[queries])
    places = np.flatnonzero(inside)
    rows = np.searchsorted(frame.starts, places, side="right") - 1
    compared = sizes[rows]
    same = values[row_positions(places, compared)] == values[row_positions(queries[rows], compared)]
    whole = np.logical_and.reduceat(same, exclusive_sum(compared)) if len(places) else np.zeros(0, dtype=bool)
    found = known.copy()
    np.minimum.at(found, rows[whole], (places - begins[rows])[whole])
    return found


def _pairs(draws: Draws, law: Law, n: int, probability: float) -> tuple[Tokens, Frame, Index]:
    """(tokens in a frame of sequence and query, the frame, where each query first occurs or the sequence's length)."""
    present, lengths, query_lengths = _shapes(draws, law, n, probability)
    frame = Frame(law, (lengths, query_lengths))
    values = law.tokens(draws, frame.size)
    at = leftmost(values, frame, _plant(draws, frame, values, present))
    while len(rows := np.flatnonzero(~present & (at < lengths))):  # a query that must be absent is there by chance
        places = row_positions(frame.starts[rows], frame.rows[rows])
        part = Frame(law, (lengths[rows], query_lengths[rows]))
        values[places] = fresh = law.tokens(draws, len(places))
        at[rows] = leftmost(fresh, part, lengths[rows])
    return values, frame, at


def delete(draws: Draws, law: Law, n: int) -> Examples:
    values, frame, at = _pairs(draws, law, n, probability=0.75)
    lengths, sizes = frame.parts
    removed = np.where(at < lengths, sizes, 0)
    before, behind = frame.start(0) - frame.starts, lengths - at - removed
    rest = frame.rows - before - lengths
    kept = stretches((False, True, False, True, False), before, at, removed, behind, rest)
    return Examples(frame.sources(values), Ragged.contiguous(values[kept], lengths - removed))


def search(draws: Draws, law: Law, n: int) -> Examples:
    values, frame, at = _pairs(draws, law, n, probability=0.5 if law.authors else 0.75)
    return Examples(frame.sources(values), answers(law, at < frame.parts[0]))
