"""T5's span corruption (Raffel et al. 2020, section 3.1.4) of many texts at once, for text and for synthetic tasks.

Texts lie flat: the tokens of all one after the other, and their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Flags = NDArray[np.bool_]
Tokens = NDArray[Any]


def noise_counts(lengths: Index, density: float = 0.15, mean_span: float = 3.0) -> tuple[Index, Index]:
    """(n,) lengths, two tokens at least -> (n,) masked tokens, (n,) spans they come in."""
    noise = np.clip(np.rint(density * lengths).astype(np.int64), 1, lengths - 1)
    spans = np.maximum(1, np.rint(noise / mean_span).astype(np.int64))
    return noise, np.minimum(spans, lengths - noise)


def corrupt_spans(
    tokens: Tokens, chosen: Flags, lengths: Index, first_sentinel: int, step: int = 1
) -> tuple[tuple[Tokens, Index], tuple[Tokens, Index]]:
    """Source with a sentinel for every span of chosen tokens; target of the sentinels, each before its span.

    tokens, chosen: (sum of lengths,). Sentinels of a text: first_sentinel, first_sentinel + step, ...
    Both sides as (flat tokens, (n,) lengths).
    """
    starts = np.cumsum(lengths) - lengths
    begins = chosen.copy()
    begins[1:] &= ~chosen[:-1]
    firsts = starts[lengths > 0]
    begins[firsts] = chosen[firsts]
    counts = np.stack([np.concatenate(([0], np.cumsum(flags))) for flags in (begins, chosen)])
    spans, noise = counts[:, starts + lengths] - counts[:, starts]
    number = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans)
    sentinels = (first_sentinel + step * number).astype(tokens.dtype)
    source = tokens.copy()
    source[begins] = sentinels
    target = np.insert(tokens[chosen], counts[1, :-1][begins], sentinels)
    return (source[begins | ~chosen], lengths - noise + spans), (target, noise + spans)


def random_spans(length: int, masked: int, spans: int, generator: np.random.Generator) -> Flags:
    """T5's random spans: (length,) flags of `masked` tokens in `spans` spans (`noise_counts`).

    Masked and unmasked stretches alternate, beginning with an unmasked one; both are uniformly random compositions.
    """
    lengths = np.empty(2 * spans, dtype=np.int64)
    lengths[0::2] = _composition(length - masked, spans, generator)
    lengths[1::2] = _composition(masked, spans, generator)
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _composition(total: int, parts: int, generator: np.random.Generator) -> Index:
    """A uniformly random way to write `total` as `parts` positive numbers, in order."""
    cuts = np.sort(generator.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))


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


def restore(source: Sequence[int], target: Sequence[int], first_sentinel: int, step: int = 1) -> list[int]:
    """The original tokens of a corrupted text. Raises `ValueError` where sentinels do not alternate in order."""

    def stretches(tokens: Sequence[int]) -> list[list[int]]:
        out: list[list[int]] = [[]]
        for token in tokens:
            if token == first_sentinel + step * (len(out) - 1):
                out.append([])
            else:
                out[-1].append(int(token))
        return out

    kept, (before, *noise) = stretches(source), stretches(target)
    if before:
        raise ValueError("the target does not start with the first sentinel")
    if len(kept) != len(noise) + 1:
        raise ValueError("source and target do not have the same sentinels in order")
    # In the source, span k of noise was behind stretch k of what is kept; in the target it is behind sentinel k.
    return [token for pair in zip(kept, [*noise, []], strict=True) for stretch in pair for token in stretch]
