"""The inputs of the simpler tasks, many at once; their targets are those of `metro_t0.synthetic.functions`.

The distributions are those of Wu et al. 2022, appendix G, and of the authors' generator. A sampler returns the sources
of `n` examples: prefix, input. `U{a..b}` in comments is a uniform integer, both ends included.
"""

from __future__ import annotations

import numpy as np

from metro_t0.synthetic.distribution import Distribution, Frame, join
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.functions import search
from metro_t0.synthetic.ragged import Index, Mask, Ragged, Tokens, exclusive_sum, row_positions, valid

LONG_QUERY = 0.01  # share of the absent branch of search and delete in which the query is longer than the sequence


def independent(draws: Draws, distribution: Distribution, n: int) -> Ragged:
    """U{low..high} independent tokens."""
    frame = Frame(distribution, draws.between(distribution.low, distribution.high, n))
    return frame.sources(distribution.tokens(draws, frame.size))


def _groups(draws: Draws, distribution: Distribution, n: int) -> tuple[Index, Index, Tokens]:
    """Of set and deduplicate: ((n,) lengths, (n,) numbers of groups, a token per group, flat).

    authors: t = U{1..l} groups whose tokens may coincide; paper: t = U{1..l-1} distinct tokens.
    """
    lengths = draws.between(distribution.low, distribution.high, n)
    groups = draws.between(1, lengths if distribution.authors else lengths - 1, n)
    if distribution.authors:
        return lengths, groups, distribution.tokens(draws, int(groups.sum()))
    pool = distribution.distinct_tokens(draws, groups)
    return lengths, groups, pool[valid(groups, pool.shape[1])]


def shuffled_groups(draws: Draws, distribution: Distribution, n: int) -> Ragged:
    """Of set: groups of equal tokens, shuffled."""
    lengths, groups, pool = _groups(draws, distribution, n)
    labels = draws.group_labels(lengths, groups)
    return join(distribution, Ragged(pool[np.repeat(exclusive_sum(groups), lengths) + labels], lengths))


def consecutive_groups(draws: Draws, distribution: Distribution, n: int) -> Ragged:
    """Of deduplicate: groups of equal tokens, one after the other."""
    lengths, groups, pool = _groups(draws, distribution, n)
    return join(distribution, Ragged(np.repeat(pool, draws.group_sizes(lengths, groups)), lengths))


def sort(draws: Draws, distribution: Distribution, n: int) -> Ragged:
    """k = U{low/2..(high-1)/2} order entries; U{k..high-1-k} tokens to sort.

    authors: the order is k independent tokens and the k groups of the sequence are drawn from its entries.
    paper: the order is a random order of exactly the tokens of the sequence.
    """
    low, high = distribution.low, distribution.high
    k = draws.between(max(low // 2, 1), (high - 1) // 2, n)
    least = k if distribution.authors else np.minimum(k + 1, high - 1 - k)
    lengths = draws.between(least, high - 1 - k, n)
    entries, rows = draws.group_labels(lengths, k).astype(np.int64), np.repeat(np.arange(n), lengths)
    if distribution.authors:
        order = distribution.tokens(draws, (n, int(k.max())))
        entries = draws.below(k[:, None], order.shape)[rows, entries]
    else:
        order = distribution.distinct_tokens(draws, k)
    return join(distribution, Ragged(order[rows, entries], lengths), Ragged(order[valid(k, order.shape[1])], k))


def replace(draws: Draws, distribution: Distribution, n: int) -> Ragged:
    """The key is uniform over the distinct tokens of the sequence, the value over the universe."""
    lengths = draws.between(max(distribution.low - 3, 1), distribution.high - 3, n)
    frame = Frame(distribution, lengths, np.full(n, 2))
    values = distribution.tokens(draws, frame.size)
    distinct = [[*dict.fromkeys(tokens)] for tokens in Ragged(values[frame.positions(0)], lengths).lists()]
    chosen = draws.below(np.array([len(tokens) for tokens in distinct]), n).tolist()
    values[frame.starts[1]] = [tokens[i] for tokens, i in zip(distinct, chosen, strict=True)]
    values[frame.starts[1] + 1] = distribution.tokens(draws, n)
    return frame.sources(values)


def count(draws: Draws, distribution: Distribution, n: int) -> Ragged:
    """U{0..n} copies of one token among independent ones, in random order.

    That is the distribution of copies planted independently with one uniform probability per example (a beta-binomial
    with uniform prior has uniform counts and exchangeable places), which needs no shuffle.
    """
    lengths = draws.between(max(distribution.low - 2, 1), distribution.high - 2, n)
    frame = Frame(distribution, lengths, np.ones_like(lengths))
    token = distribution.tokens(draws, n)
    planted = draws.lanes(frame.size) < np.repeat(draws.lanes(n), frame.rows)
    values = np.where(planted, np.repeat(token, frame.rows), distribution.tokens(draws, frame.size))
    values[frame.starts[1]] = token
    return frame.sources(values)


def words(draws: Draws, distribution: Distribution, n: int) -> Ragged:
    """U{1..high/2} words of independent tokens with dividers between them."""
    low, high = distribution.low, distribution.high
    counts = draws.between(1, max(high // 2, 1), n)
    letters = draws.between(np.maximum(low - (counts - 1), counts), high - (counts - 1), n)
    sizes = draws.group_sizes(letters, counts)
    frame = Frame(distribution, letters + counts - 1)
    values = distribution.tokens(draws, frame.size)
    # A word and the divider behind it take sizes + 1 places; nothing stands behind the last word.
    ends = np.cumsum(sizes + 1) - 1 + np.repeat(frame.starts[0] - exclusive_sum(letters + counts), counts)
    values[np.delete(ends, np.cumsum(counts) - 1)] = distribution.vocabulary.word_divider
    return frame.sources(values)


def set_pair(draws: Draws, distribution: Distribution, n: int) -> Ragged:
    """Of union, intersection and the differences.

    l = U{low-1..high-1} tokens in all, drawn with replacement from a pool of floor(l/2) distinct ones; the first
    sequence has U{0..l} of them (paper: U{1..l-1}).
    """
    lengths = draws.between(max(distribution.low - 1, 2), distribution.high - 1, n)
    first = draws.between(0, lengths, n) if distribution.authors else draws.between(1, lengths - 1, n)
    pool = distribution.distinct_tokens(draws, lengths // 2)
    labels = draws.below(np.repeat(lengths // 2, lengths), int(lengths.sum()))
    sides = Ragged(pool[np.repeat(np.arange(n), lengths), labels], np.stack((first, lengths - first), axis=1).ravel())
    return join(distribution, sides.take(np.arange(0, 2 * n, 2)), sides.take(np.arange(1, 2 * n, 2)))


def queries(authors: float, paper: float, draws: Draws, distribution: Distribution, n: int) -> Ragged:
    """Of delete and search: a sequence and a query, which is planted with the profile's probability and absent else.

    authors: an example out of bounds is drawn again with its branch, which changes the share of the branches;
    paper: it is drawn again in its branch.
    """
    if distribution.authors:
        present, lengths, sizes = _in_bounds(draws, distribution, n, authors)
    else:
        present = draws.coins(paper, n)
        lengths, sizes = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        for branch in (True, False):
            if len(rows := np.flatnonzero(present == branch)):
                _, lengths[rows], sizes[rows] = _in_bounds(draws, distribution, len(rows), float(branch))
    frame = Frame(distribution, lengths, sizes)
    values = distribution.tokens(draws, frame.size)
    _plant(draws, frame, values, np.flatnonzero(present))

    def found(row: int) -> bool:
        begins = [int(start[row]) for start in frame.starts]
        return search(*(values[b : b + int(part[row])].tolist() for b, part in zip(begins, frame.lengths, strict=True)))

    rows = np.flatnonzero(~present)
    # A query that must be absent is there by chance: both are drawn again.
    while len(rows := rows[[found(row) for row in rows.tolist()]]):
        places = row_positions(exclusive_sum(frame.rows)[rows], frame.rows[rows])
        values[places] = distribution.tokens(draws, len(places))
    return frame.sources(values)


def _in_bounds(draws: Draws, distribution: Distribution, n: int, probability: float) -> tuple[Mask, Index, Index]:
    """The first n of independent proposals (planted?, sequence length, query length) with low <= their sum + 1 <= high.

    That is the distribution of proposing again until the bound holds, the branch's coin included.
    """
    accepted: list[tuple[Mask, Index, Index]] = []
    while (missing := n - sum(len(present) for present, _, _ in accepted)) > 0:
        present = draws.coins(probability, 2 * missing)
        sequence, query = _proposals(draws, distribution, present)
        total = sequence + 1 + query
        rows = np.flatnonzero((total >= distribution.low) & (total <= distribution.high))[:missing]
        accepted.append((present[rows], sequence[rows], query[rows]))
    present, sequence, query = (np.concatenate(column) for column in zip(*accepted, strict=True))
    return present, sequence, query


def _proposals(draws: Draws, distribution: Distribution, present: Mask) -> tuple[Index, Index]:
    """(n,) each: lengths of sequence and query, before the bound on their sum."""
    low, high, n = distribution.low, distribution.high, len(present)
    query = draws.between(1, max((high - 1) // 3, 1), n)
    sequence = draws.between(2 * query, high - 1 - query, n)
    long_query = draws.between(low + 1, high, n)
    long_sequence = draws.below(long_query, n)
    plain_sequence = draws.between(low, high, n)
    plain_query = draws.between(low, plain_sequence, n)
    is_long = draws.coins(LONG_QUERY, n)
    absent = np.where(is_long, long_sequence, plain_sequence), np.where(is_long, long_query, plain_query)
    return np.where(present, sequence, absent[0]), np.where(present, query, absent[1])


def _plant(draws: Draws, frame: Frame, values: Tokens, rows: Index) -> None:
    """Write copies of the query into the sequences of these rows of a frame's buffer.

    authors: U{1..floor(n/q)} copies, the other tokens fall into the gaps around them at random (multinomially);
    paper: one copy at a uniform place.
    """
    lengths, sizes = (part[rows] for part in frame.lengths)
    if frame.distribution.authors:
        copies = draws.between(1, lengths // sizes, len(rows))
        fillers = lengths - copies * sizes
        gaps = draws.below(np.repeat(copies + 1, fillers), int(fillers.sum()))
        gaps += np.repeat(exclusive_sum(copies + 1), fillers)
        pieces = np.bincount(gaps, minlength=int((copies + 1).sum()))
        pieces += np.repeat(sizes, copies + 1)  # a gap and the copy behind it; nothing stands behind the last gap
        ends = np.cumsum(pieces) - np.repeat(exclusive_sum(lengths + sizes), copies + 1)
        starts = np.delete(ends, np.cumsum(copies + 1) - 1) - np.repeat(sizes, copies)
    else:
        copies = np.ones_like(lengths)
        starts = draws.below(lengths - sizes + 1, len(rows))
    copied = np.repeat(sizes, copies)
    places = row_positions(np.repeat(frame.starts[0][rows], copies) + starts, copied)
    values[places] = values[row_positions(np.repeat(frame.starts[1][rows], copies), copied)]
