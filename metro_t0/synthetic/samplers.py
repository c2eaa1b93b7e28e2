"""Vectorized samplers of the simpler tasks.

The laws of the inputs are those of Wu et al. 2022, appendix G, and of the authors' generator.

A sampler draws `n` examples at once and computes their targets from the arrays it has; that these targets are
those of `metro_t0.synthetic.functions` is what the tests and `metro-t0-synthetic verify` check.
`U{a..b}` in comments is a uniform integer, both ends included.
"""

from __future__ import annotations

import numpy as np

from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import (
    Frame,
    Law,
    distinct_tokens,
    first_occurrence,
    flat,
    group_labels,
    group_sizes,
    join,
    numbers,
    pick,
    rows_of,
    select,
    shuffle,
    sorted_labels,
    valid,
)
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens, exclusive_sum


def independent(draws: Draws, law: Law, n: int) -> tuple[Ragged, Index, Index]:
    """Sources of U{low..high} independent tokens: (sources, where the inputs start, their lengths)."""
    lengths = draws.between(law.low, law.high, n)
    frame = Frame(law, (lengths,))
    return frame.sources(law.tokens(draws, frame.size)), frame.start(0), lengths


def identity(draws: Draws, law: Law, n: int) -> Examples:
    source, starts, lengths = independent(draws, law, n)
    return Examples(source, Ragged(source.values, starts, lengths))


def reverse(draws: Draws, law: Law, n: int) -> Examples:
    source, starts, lengths = independent(draws, law, n)
    mirrored = len(source.values) - starts - lengths
    return Examples(source, Ragged(source.values[::-1], mirrored, lengths))


def duplicate(draws: Draws, law: Law, n: int) -> Examples:
    source, starts, lengths = independent(draws, law, n)
    return Examples(source, Ragged(np.repeat(source.values, 2), 2 * starts, 2 * lengths))


def first_token(draws: Draws, law: Law, n: int) -> Examples:
    source, starts, lengths = independent(draws, law, n)
    return Examples(source, Ragged(source.values, starts, np.ones_like(lengths)))


def last_token(draws: Draws, law: Law, n: int) -> Examples:
    source, starts, lengths = independent(draws, law, n)
    return Examples(source, Ragged(source.values, starts + lengths - 1, np.ones_like(lengths)))


def length(draws: Draws, law: Law, n: int) -> Examples:
    source, _, lengths = independent(draws, law, n)
    return Examples(source, numbers(law, lengths))


def _groups(draws: Draws, law: Law, n: int) -> tuple[Index, Index, Tokens]:
    """Of set and deduplicate: (lengths, number of groups, a token per group, flat).

    authors: t = U{1..l} groups whose tokens may coincide; paper: t = U{1..l-1} distinct tokens.
    """
    lengths = draws.between(law.low, law.high, n)
    groups = draws.between(1, lengths if law.authors else lengths - 1, n)
    if law.authors:
        return lengths, groups, law.tokens(draws, int(groups.sum()))
    width = int(groups.max())
    return lengths, groups, flat(distinct_tokens(draws, law, groups, width), groups).values


def unique(draws: Draws, law: Law, n: int) -> Examples:
    lengths, groups, pool = _groups(draws, law, n)
    labels = flat(shuffle(draws, group_labels(draws, lengths, groups, int(lengths.max())), lengths), lengths).values
    tokens = pool.take(np.repeat(exclusive_sum(groups), lengths) + labels)
    matrix = _rows(tokens, lengths)
    return Examples(join(law, [Ragged.contiguous(tokens, lengths)]), select(matrix, first_occurrence(matrix, lengths)))


def deduplicate(draws: Draws, law: Law, n: int) -> Examples:
    lengths, groups, pool = _groups(draws, law, n)
    tokens = np.repeat(pool, group_sizes(draws, lengths, groups))
    firsts = exclusive_sum(groups)
    kept = np.ones(len(pool), dtype=bool)
    np.not_equal(pool[1:], pool[:-1], out=kept[1:])
    kept[firsts] = True
    target = Ragged.contiguous(pool[kept], np.add.reduceat(kept, firsts, dtype=np.int64))
    return Examples(join(law, [Ragged.contiguous(tokens, lengths)]), target)


def sort(draws: Draws, law: Law, n: int) -> Examples:
    """k = U{low/2..(high-1)/2} order entries; U{k..high-1-k} tokens to sort.

    authors: the order is k independent tokens and the k groups of the sequence are drawn from its entries.
    paper: the order is a random order of exactly the tokens of the sequence.
    """
    k = draws.between(max(law.low // 2, 1), (law.high - 1) // 2, n)
    least = k if law.authors else np.minimum(k + 1, law.high - 1 - k)
    lengths = draws.between(least, law.high - 1 - k, n)
    width, order_width = int(lengths.max()), int(k.max())
    labels = shuffle(draws, group_labels(draws, lengths, k, width), lengths)
    if law.authors:
        order = law.tokens(draws, (n, order_width))
        entries = draws.below(k[:, None], (n, order_width))
    else:
        order = distinct_tokens(draws, law, k, order_width)
        entries = np.broadcast_to(np.arange(order_width), (n, order_width))
    positions = pick(entries, labels)
    ranks = sorted_labels(pick(_last_positions(order, k), positions), lengths)
    sequence = flat(pick(order, positions), lengths)
    return Examples(join(law, [sequence, flat(order, k)]), rows_of(pick(order, ranks), lengths))


def _last_positions(tokens: Tokens, lengths: Index) -> Index:
    """(n, width): the last position in its row of the token that stands there."""
    n, width = tokens.shape
    keys = (tokens.astype(np.uint32) << np.uint32(16)) | np.arange(width, dtype=np.uint32)
    keys[~valid(lengths, width)] = np.uint32(2**32 - 1)
    keys.sort(axis=1)
    positions = (keys & np.uint32(0xFFFF)).astype(np.int64)
    run_ends = np.ones((n, width), dtype=bool)
    run_ends[:, :-1] = (keys[:, 1:] >> np.uint32(16)) != (keys[:, :-1] >> np.uint32(16))
    columns = np.where(run_ends, np.arange(width), width - 1)
    end_of_run = np.minimum.accumulate(columns[:, ::-1], axis=1)[:, ::-1]
    last = np.take_along_axis(positions, end_of_run, axis=1)
    out = np.zeros((n, width), dtype=np.int64)
    np.put_along_axis(out, np.minimum(positions, width - 1), last, axis=1)
    return out


def replace(draws: Draws, law: Law, n: int) -> Examples:
    """The key is uniform over the distinct tokens of the sequence, the value over the universe."""
    lengths = draws.between(max(law.low - 3, 1), law.high - 3, n)
    frame = Frame(law, (lengths, np.full(n, 2)))
    values = law.tokens(draws, frame.size)
    tokens = values[frame.mask(0)]
    matrix = _rows(tokens, lengths)
    first = first_occurrence(matrix, lengths)
    distinct = first.sum(axis=1, dtype=np.uint16).astype(np.int64)
    chosen = np.flatnonzero(first)[exclusive_sum(distinct) + draws.below(distinct, n)]
    key, value = matrix.ravel()[chosen], law.tokens(draws, n)
    values[frame.start(1)], values[frame.start(1) + 1] = key, value
    changed = np.where(tokens == np.repeat(key, lengths), np.repeat(value, lengths), tokens)
    return Examples(frame.sources(values), Ragged.contiguous(changed, lengths))


def _rows(tokens: Tokens, lengths: Index) -> Tokens:
    """Flat tokens as a matrix (n, longest), zero behind the rows."""
    matrix = np.zeros((len(lengths), int(lengths.max())), dtype=np.uint16)
    matrix[valid(lengths, matrix.shape[1])] = tokens
    return matrix


def count(draws: Draws, law: Law, n: int) -> Examples:
    """U{0..n} copies of one token among independent ones, in random order.

    That is the law of copies planted independently with one uniform probability per example (a beta-binomial with
    uniform prior has uniform counts and exchangeable places), which needs no shuffle.
    """
    lengths = draws.between(max(law.low - 2, 1), law.high - 2, n)
    frame = Frame(law, (lengths, np.ones_like(lengths)))
    token = law.tokens(draws, n)
    planted = draws.lanes(frame.size) < frame.spread(draws.lanes(n))
    everywhere = frame.spread(token)
    values = np.where(planted, everywhere, law.tokens(draws, frame.size))
    values[frame.start(1)] = token
    source = frame.sources(values)
    equal = np.add.reduceat(values == everywhere, frame.starts, dtype=np.int64)
    outside = 1 + sum((token == name).astype(np.int64) for name in law.prefix)  # the query, and the prefix by chance
    return Examples(source, numbers(law, equal - outside))


def _words(draws: Draws, law: Law, n: int) -> tuple[Ragged, Index, Index]:
    """Sources of words and dividers: (sources, where each longest word starts, its length)."""
    words = draws.between(1, max(law.high // 2, 1), n)
    letters = draws.between(np.maximum(law.low - (words - 1), words), law.high - (words - 1), n)
    sizes = group_sizes(draws, letters, words)
    frame = Frame(law, (letters + words - 1,))
    values = law.tokens(draws, frame.size)
    firsts = exclusive_sum(words)
    # Words follow each other with one place between two; the prefix of the next row takes the place of a divider.
    starts = exclusive_sum(sizes + 1) + np.repeat((len(law.prefix) - 1) * np.arange(n) + len(law.prefix), words)
    inner = np.ones(len(sizes), dtype=bool)
    inner[firsts] = False
    values[starts[inner] - 1] = law.vocabulary.word_divider
    longest = np.maximum.reduceat(sizes, firsts)
    candidates = np.flatnonzero(sizes == np.repeat(longest, words))
    best = candidates[np.searchsorted(candidates, firsts)]  # the first of the longest
    return frame.sources(values), starts[best], longest


def longest_word(draws: Draws, law: Law, n: int) -> Examples:
    source, starts, lengths = _words(draws, law, n)
    return Examples(source, Ragged(source.values, starts, lengths))


def longest_word_length(draws: Draws, law: Law, n: int) -> Examples:
    source, _, lengths = _words(draws, law, n)
    return Examples(source, numbers(law, lengths))
