"""T5 span corruption of rows of tokens, vectorised (Raffel et al. 2020, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import Mask, shuffle, valid
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens


def noise_counts(lengths: Index, density: float = 0.15, mean_span: float = 3.0) -> tuple[Index, Index]:
    """(noise tokens, noise spans) of rows of these lengths (two tokens at least)."""
    noise = np.clip(np.rint(density * lengths).astype(np.int64), 1, lengths - 1)
    spans = np.maximum(1, np.rint(noise / mean_span).astype(np.int64))
    return noise, np.minimum(spans, lengths - noise)


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


def _segment_starts(draws: Draws, totals: Index, parts: Index) -> Mask:
    """(n, longest): True at the first item of each of `parts` non-empty segments of `totals` items.

    All segmentations are equally likely: parts - 1 of the inner boundaries, without replacement.
    """
    width = int(totals.max())
    chosen = (np.arange(width - 1) < (parts - 1)[:, None]) if width > 1 else np.zeros((len(totals), 0), dtype=bool)
    starts = np.zeros((len(totals), width), dtype=bool)
    if width > 1:
        inner = shuffle(draws, chosen.astype(np.uint8), totals - 1).astype(bool)
        starts[:, 1:] = inner & valid(totals - 1, width - 1)
    starts[:, 0] = True
    return starts


def _segment_sizes(draws: Draws, totals: Index, parts: Index) -> Index:
    """(n, most parts): sizes of the segments, zero past a row's own number of parts."""
    starts = _segment_starts(draws, totals, parts)
    inside = valid(totals, starts.shape[1])
    segment = np.cumsum(starts, axis=1) - 1
    width = int(parts.max())
    flat = (np.arange(len(totals)) * width)[:, None] + segment
    return np.bincount(flat[inside], minlength=len(totals) * width).reshape(len(totals), width)


def noise_mask(draws: Draws, lengths: Index) -> Mask:
    """(n, longest): True on noise. Spans alternate and the first is not noise."""
    noise, spans = noise_counts(lengths)
    clean_sizes = _segment_sizes(draws, lengths - noise, spans)
    noise_sizes = _segment_sizes(draws, noise, spans)
    n, width = len(lengths), int(lengths.max())
    sizes = np.stack([clean_sizes, noise_sizes], axis=2).reshape(n, -1)
    kinds = np.tile(np.array([False, True]), n * clean_sizes.shape[1])
    mask = np.zeros((n, width), dtype=bool)
    mask[valid(lengths, width)] = np.repeat(kinds, sizes.ravel())
    return mask


def corrupt(draws: Draws, tokens: Tokens, lengths: Index, first_sentinel: int) -> Examples:
    """Input: every noise span becomes a sentinel. Target: every other span does. Sentinels count down.

    tokens: (n, width), each row at least two tokens long.
    """
    mask = noise_mask(draws, lengths)
    inside = valid(lengths, tokens.shape[1])
    return Examples(_collapse(tokens, mask, inside, first_sentinel), _collapse(tokens, ~mask, inside, first_sentinel))


def _collapse(tokens: Tokens, hidden: Mask, inside: Mask, first_sentinel: int) -> Ragged:
    starts = hidden.copy()
    starts[:, 1:] &= ~hidden[:, :-1]
    sentinels = first_sentinel + 1 - np.cumsum(starts, axis=1, dtype=np.int32)
    out = np.where(starts, sentinels, tokens).astype(np.uint16)
    kept = inside & (starts | ~hidden)
    return Ragged.contiguous(out[kept], kept.sum(axis=1))


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
