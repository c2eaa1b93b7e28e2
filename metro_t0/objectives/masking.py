"""Which tokens are masked, and by what: a whole batch at once, a function of (seed, epoch, example) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metro_t0.errors import UserError
from metro_t0.options import check, option
from metro_t0.randomness import Stream, keyed_generator
from metro_t0.rows import Ids
from metro_t0.spans import Flags, noise_counts, random_spans

Examples = Sequence[int] | Ids
"""Indices of the rows in their data set."""


@dataclass(frozen=True)
class MaskingConfig:
    """The auxiliary's masking (paper section A.2): i.i.d., 15%, every masked token becomes [MASK]."""

    mask_ratio: float = option(0.15, "share of the non-special tokens that is masked", at_least=0.001, at_most=0.999)
    mask_pattern: Literal["iid", "span"] = option("iid", "independent tokens, or contiguous spans as T5's (ablation)")
    mean_span_length: float = option(3.0, "mean length of a masked or corrupted span", at_least=1, at_most=100_000)
    keep_ratio: float = option(0.0, "share of the masked tokens left unchanged (BERT: 0.1)", at_least=0, at_most=1)
    random_ratio: float = option(0.0, "share of them replaced by a random token (BERT: 0.1)", at_least=0, at_most=1)
    fixed_mask_count: bool = option(False, "with iid: mask exactly mask_ratio of each text, for batches of equal shape")

    def __post_init__(self) -> None:
        check(self)
        if self.keep_ratio + self.random_ratio > 1:
            raise UserError("keep_ratio and random_ratio must add up to at most 1")


@dataclass(frozen=True)
class WordIds:
    """The ids that masking needs to know. Special and sentinel ids are never masked and never drawn at random."""

    pad_id: int
    mask_id: int
    first_word: int
    """First id of an ordinary piece; all ids below are special."""
    end_of_words: int
    """One past the last ordinary piece; sentinels follow."""

    def is_word(self, tokens: Ids) -> Flags:
        """(...) ids -> (...) True on ordinary pieces."""
        return (tokens >= self.first_word) & (tokens < self.end_of_words)


def choose_positions(tokens: Ids, examples: Examples, config: MaskingConfig, words: WordIds, stream: Stream) -> Flags:
    """(B, T) tokens -> (B, T) True on the masked positions."""
    maskable = words.is_word(tokens)
    if config.mask_pattern == "iid":
        uniforms = stream.uniforms("mask", examples, tokens.shape[1])
        if config.fixed_mask_count:
            return _smallest(uniforms, maskable, np.rint(config.mask_ratio * (tokens != words.pad_id).sum(1)))
        return maskable & (uniforms < config.mask_ratio)
    chosen = np.zeros_like(maskable)
    lengths = maskable.sum(1)
    counts = noise_counts(np.maximum(lengths, 2), config.mask_ratio, config.mean_span_length)
    for row, (example, length, masked, spans) in enumerate(zip(examples, lengths, *counts, strict=True)):
        if length >= 2:  # one token alone is never masked
            generator = keyed_generator("span", stream.seed, stream.epoch, int(example))
            chosen[row, maskable[row]] = random_spans(length, masked, spans, generator)
    return chosen


def _smallest(uniforms: NDArray[np.float32], among: Flags, counts: NDArray[np.float64]) -> Flags:
    """(B, T) True at the counts[b] smallest numbers of each row that are `among`; at all where there are fewer."""
    order = np.argsort(np.where(among, uniforms, 2.0), axis=1, kind="stable")
    chosen = np.zeros_like(among)
    np.put_along_axis(chosen, order, np.arange(among.shape[1]) < counts[:, None], axis=1)
    return chosen & among


def apply_masks(
    tokens: Ids, chosen: Flags, examples: Examples, config: MaskingConfig, words: WordIds, stream: Stream
) -> Ids:
    """(B, T) text that the auxiliary reads: [MASK] at the chosen positions, but for the kept and the random ones."""
    masked = np.where(chosen, words.mask_id, tokens)
    if config.keep_ratio + config.random_ratio == 0:
        return masked
    fate = stream.uniforms("fate", examples, tokens.shape[1])
    masked = np.where(chosen & (fate < config.keep_ratio), tokens, masked)
    at_random = chosen & (fate >= config.keep_ratio) & (fate < config.keep_ratio + config.random_ratio)
    draws = stream.uniforms("random", examples, tokens.shape[1]).astype(np.float64)
    random_words = words.first_word + (draws * (words.end_of_words - words.first_word)).astype(np.int64)
    return np.where(at_random, random_words, masked)
