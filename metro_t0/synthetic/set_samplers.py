"""Union, intersection and the two differences: one input law, four outputs (Wu et al. 2022, appendix G)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import Frame, Law, distinct_tokens, valid
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens


def _sample(
    draws: Draws, law: Law, n: int, *, only_first: bool = False, both: bool = False, only_second: bool = False
) -> Examples:
    """n examples whose output has the tokens of the first sequence only, of both, of the second only.

    l = U{low-1..high-1} tokens in all, drawn with replacement from a pool of floor(l/2) distinct ones; the first
    sequence has U{0..l} of them (paper: U{1..l-1}).
    """
    lengths = draws.between(max(law.low - 1, 2), law.high - 1, n)
    first = draws.between(0, lengths, n) if law.authors else draws.between(1, lengths - 1, n)
    pool_sizes = lengths // 2
    pool = distinct_tokens(draws, law, pool_sizes, int(pool_sizes.max()))
    labels = draws.below(np.repeat(pool_sizes, lengths), int(lengths.sum())).astype(np.uint16)
    frame = Frame(law, (first, lengths - first))
    values = np.empty(frame.size, dtype=np.uint16)
    values[frame.mask(0) | frame.mask(1)] = pool.ravel().take(np.repeat(np.arange(n) * pool.shape[1], lengths) + labels)
    source = frame.sources(values)
    counts, columns = _first_occurrences(labels, lengths, first, (only_first, both, only_second))
    kept = np.zeros(frame.size, dtype=bool)
    kept[np.repeat(frame.start(0), counts) + columns] = True
    return Examples(source, Ragged.contiguous(values.take(np.flatnonzero(kept)), counts))


def _first_occurrences(
    labels: Tokens, lengths: Index, first: Index, wanted: tuple[bool, bool, bool]
) -> tuple[Index, NDArray[np.int16]]:
    """(how many per example, at which place of `first sequence, separator, second sequence`) wanted labels first occur.

    labels: flat. wanted: those of the first sequence only, of both, of the second only.
    One sort of every row brings equal labels together: those of the first sequence from its end to its beginning,
    then those of the second from its beginning. First occurrences, and whether the other sequence has the label,
    then show in the neighbors.
    """
    n, width = len(lengths), int(lengths.max())
    bits = width.bit_length()
    kind: Any = np.uint16 if 2 * bits <= 16 else np.uint32
    middle = first.astype(np.int16)[:, None]
    columns = np.arange(width, dtype=np.int16)
    keys = np.full((n, width), np.iinfo(kind).max, dtype=kind)
    keys[valid(lengths, width)] = labels.astype(kind) << kind(bits)
    keys |= np.where(columns < middle, middle - np.int16(1) - columns, columns).astype(kind)
    keys.sort(axis=1)
    places = (keys & kind((1 << bits) - 1)).astype(np.int16)
    inside = valid(lengths, width)
    one = inside & (places < middle)
    two = inside & (places >= middle)
    same = (keys[:, 1:] >> kind(bits)) == (keys[:, :-1] >> kind(bits))
    only_first, both, only_second = wanted
    kept = np.zeros((n, width), dtype=bool)
    if only_first:
        kept[:, :-1] |= one[:, :-1] & ~same
        kept[:, -1] |= one[:, -1]
    if both:
        kept[:, :-1] |= one[:, :-1] & same & two[:, 1:]
    if only_second:
        kept[:, 1:] |= two[:, 1:] & ~same
        kept[:, 0] |= two[:, 0]
    counts = kept.sum(axis=1, dtype=np.uint16).astype(np.int64)
    chosen, border = places.ravel().take(np.flatnonzero(kept)), np.repeat(middle.ravel(), counts)
    return counts, np.where(chosen < border, border - np.int16(1) - chosen, chosen + np.int16(1))


union = partial(_sample, only_first=True, both=True, only_second=True)
intersect = partial(_sample, both=True)
set1_minus_set2 = partial(_sample, only_first=True)
set2_minus_set1 = partial(_sample, only_second=True)
