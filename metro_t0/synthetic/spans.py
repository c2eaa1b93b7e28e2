"""T5 span corruption of rows of tokens, vectorized (Raffel et al. 2020, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from metro_t0.spans import corrupt_spans, noise_counts
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import shuffle, valid
from metro_t0.synthetic.ragged import Examples, Index, Ragged


@lru_cache(maxsize=16)
def raw_length(inputs: int, density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """The longest raw length whose corrupted input fits in `inputs` tokens, and its target length.

    Both lengths count the end-of-sequence token: (512) -> (568, 114), (256) -> (284, 58).
    """
    raw, target = 2, 0
    while True:
        noise, spans = noise_counts(np.array([raw + 1]), density, mean_span)
        if raw + 1 - int(noise[0]) + int(spans[0]) + 1 > inputs:
            return raw, target
        raw, target = raw + 1, int(noise[0]) + int(spans[0]) + 1


def _segment_sizes(draws: Draws, totals: Index, parts: Index) -> Index:
    """Sizes of `parts[i]` non-empty segments of `totals[i]` items, flat.

    All segmentations are equally likely: parts - 1 of the inner boundaries, without replacement.
    """
    n, width = len(totals), int(totals.max())
    firsts = np.zeros((n, width), dtype=bool)
    if width > 1:
        chosen = valid(parts - 1, width - 1).view(np.uint8)
        firsts[:, 1:] = shuffle(draws, chosen, totals - 1) & valid(totals - 1, width - 1)
    firsts[:, 0] = True
    places = np.flatnonzero(firsts)
    ends = np.empty_like(places)
    ends[:-1] = places[1:]
    ends[np.cumsum(parts) - 1] = np.arange(n) * width + totals
    return ends - places


def corrupt(draws: Draws, rows: Ragged, first_sentinel: int) -> Examples:
    """Input: every noise span becomes a sentinel. Target: every other span does. Sentinels count down.

    Spans alternate and the first is not noise. rows: each at least two tokens long, flat.
    """
    noise, spans = noise_counts(rows.lengths)
    clean_sizes = _segment_sizes(draws, rows.lengths - noise, spans)
    noise_sizes = _segment_sizes(draws, noise, spans)
    chosen = np.repeat(np.tile([False, True], len(clean_sizes)), np.stack([clean_sizes, noise_sizes], axis=1).ravel())
    source, target = corrupt_spans(rows.values, chosen, rows.lengths, first_sentinel, step=-1)
    return Examples(Ragged.contiguous(*source), Ragged.contiguous(*target))


def restore(source: Sequence[int], target: Sequence[int], first_sentinel: int) -> list[int]:
    """The original tokens of a corrupted example. Raises `ValueError` where sentinels do not alternate in order."""

    def spans(tokens: Sequence[int]) -> dict[int, list[int]]:
        current, out = -1, {-1: list[int]()}
        for token in tokens:
            if first_sentinel - current - 1 == token:
                current += 1
                out[current] = []
            else:
                out[current].append(int(token))
        return out

    clean, noise = spans(source), spans(target)
    if noise[-1]:
        raise ValueError("the target does not start with the first sentinel")
    # Clean span k is followed by noise span k; in the target, noise span k follows sentinel k.
    if clean.keys() != noise.keys():
        raise ValueError("source and target do not have the same sentinels in order")
    original = list[int]()
    for k in range(len(clean) - 1):
        original += clean[k - 1] + noise[k]
    original += clean[len(clean) - 2]
    return original
