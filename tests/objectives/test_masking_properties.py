"""Masks: rates, span lengths, invertibility, and dependence on (seed, epoch, example) alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metro_t0.errors import UserError
from metro_t0.objectives.batches import MetroBatches, SpanCorruptionBatches
from metro_t0.objectives.masking import MaskingConfig, WordIds, apply_masks, choose_positions
from metro_t0.randomness import Stream
from metro_t0.rows import pad_rows, shift_right
from metro_t0.spans import corrupt_spans, noise_counts, random_spans

PAD, EOS = 1, 2
WORDS = WordIds(pad_id=PAD, mask_id=1000, first_word=4, end_of_words=1000)
patterns = st.sampled_from(["iid", "span"])
seeds = st.integers(0, 2**31)
texts = st.lists(st.integers(0, 999).filter(lambda token: token != PAD), min_size=1, max_size=60)


def flags_to_spans(flags: np.ndarray) -> list[int]:
    """Lengths of the runs of True, counted one by one."""
    lengths: list[int] = []
    previous = False
    for flag in flags:
        if flag and previous:
            lengths[-1] += 1
        elif flag:
            lengths.append(1)
        previous = bool(flag)
    return lengths


def restored(source: list[int], target: list[int], first_sentinel: int) -> list[int]:
    """Undo span corruption by reading it as a person would."""
    spans: dict[int, list[int]] = {}
    for token in target:
        if token >= first_sentinel:
            spans[token] = []
            newest = token
        else:
            spans[newest].append(token)
    whole: list[int] = []
    for token in source:
        whole.extend(spans[token] if token >= first_sentinel else [token])
    return whole


@given(texts, seeds, st.floats(0.05, 0.9), st.floats(1.0, 6.0))
@settings(max_examples=150, deadline=None)
def test_span_corruption_is_invertible(text: list[int], seed: int, ratio: float, mean: float) -> None:
    tokens = np.array(text)
    flags = choose_positions(tokens[None], [5], MaskingConfig(ratio, "span", mean), WORDS, Stream(seed, 0))[0]
    (source, _), (target, _) = corrupt_spans(tokens, flags, np.array([len(tokens)]), WORDS.mask_id)
    assert restored(source.tolist(), target.tolist(), WORDS.mask_id) == text
    sentinels = [token for token in source if token >= WORDS.mask_id]
    assert sentinels == [token for token in target if token >= WORDS.mask_id]
    assert sentinels == list(range(WORDS.mask_id, WORDS.mask_id + len(flags_to_spans(flags))))
    assert len(source) + len(target) == len(text) + 2 * len(sentinels)


@given(st.lists(texts, min_size=1, max_size=5), seeds, st.floats(0.05, 0.95))
@settings(max_examples=100, deadline=None)
def test_a_fixed_count_masks_exactly_that_many_tokens(rows: list[list[int]], seed: int, ratio: float) -> None:
    tokens = pad_rows([np.array(row) for row in rows], PAD)
    config = MaskingConfig(ratio, fixed_mask_count=True)
    flags = choose_positions(tokens, range(len(rows)), config, WORDS, Stream(seed, 1))
    for row, text, chosen in zip(tokens, rows, flags, strict=True):
        words = int(WORDS.is_word(row).sum())
        assert chosen.sum() == min(round(ratio * len(text)), words)
        assert WORDS.is_word(row[chosen]).all()
    alone = choose_positions(tokens[-1:], [len(rows) - 1], config, WORDS, Stream(seed, 1))
    assert (alone[0] == flags[-1]).all()


@pytest.mark.parametrize("config", [
    MaskingConfig(0.9), MaskingConfig(0.9, fixed_mask_count=True), MaskingConfig(0.9, "span"),
    MaskingConfig(0.9, keep_ratio=0.3, random_ratio=0.7),
])  # fmt: skip
def test_sentinels_and_special_ids_are_never_masked_and_never_drawn(config: MaskingConfig) -> None:
    words = WordIds(pad_id=PAD, mask_id=10, first_word=4, end_of_words=10)
    tokens = np.tile(np.arange(14), (200, 1))  # 0 to 3 special, 4 to 9 words, 10 to 13 sentinels
    assert words.is_word(tokens[0]).nonzero()[0].tolist() == [4, 5, 6, 7, 8, 9]
    flags = choose_positions(tokens, range(200), config, words, Stream(3, 1))
    assert set(np.unique(tokens[flags])) | {4} == {4, 5, 6, 7, 8, 9}  # spans never begin with the first word
    masked = apply_masks(tokens, flags, range(200), config, words, Stream(3, 1))
    assert (masked[~flags] == tokens[~flags]).all()
    drawn = set(np.unique(masked[flags]))
    assert drawn == ({4, 5, 6, 7, 8, 9} if config.random_ratio else {10})


def test_a_fixed_count_masks_every_position_equally_often() -> None:
    tokens = np.full((4000, 20), 7)
    tokens[:, 0] = 0  # <s>
    config = MaskingConfig(0.15, fixed_mask_count=True)
    counts = choose_positions(tokens, range(4000), config, WORDS, Stream(1, 1)).sum(0)
    assert counts[0] == 0
    expected = 4000 * 3 / 19
    assert ((counts[1:] - expected) ** 2 / (expected * 16 / 19)).sum() < 42.3  # 99.9% quantile, 18 degrees of freedom


def span_mask(length: int, ratio: float, mean: float, seed: int) -> np.ndarray:
    """The flags of one text."""
    masked, spans = (int(count[0]) for count in noise_counts(np.array([length]), ratio, mean))
    return random_spans(length, masked, spans, np.random.default_rng(seed))


@given(st.integers(2, 700), st.floats(0.01, 0.99), st.floats(1.0, 10.0), seeds)
@settings(max_examples=200, deadline=None)
def test_span_mask_has_exactly_the_wanted_number_of_tokens_and_spans(
    length: int, ratio: float, mean: float, seed: int
) -> None:
    flags = span_mask(length, ratio, mean, seed)
    lengths = flags_to_spans(flags)
    masked = min(max(round(length * ratio), 1), length - 1)
    assert sum(lengths) == masked
    assert len(lengths) == min(max(round(masked / mean), 1), masked, length - masked)
    assert not flags[0]
    assert flags[-1]


def test_span_lengths_have_the_mean_asked_for_and_every_composition_is_as_likely() -> None:
    lengths = [flags_to_spans(span_mask(512, 0.15, 3.0, seed)) for seed in range(400)]
    everything = np.concatenate(lengths)
    assert everything.mean() == pytest.approx(77 / 26)
    assert everything.max() > 8
    # Compositions of 77 into 26 parts: the chance of a part of length 1 is (26 - 1) / (77 - 1).
    assert (everything == 1).mean() == pytest.approx(25 / 76, abs=0.02)


def test_iid_rate_and_independence() -> None:
    tokens = np.full((400, 500), 7)
    flags = choose_positions(tokens, range(400), MaskingConfig(), WORDS, Stream(0, 0))
    deviation = np.sqrt(0.15 * 0.85 / flags.size)
    assert abs(flags.mean() - 0.15) < 4 * deviation
    neighbors = (flags[:, 1:] & flags[:, :-1]).mean()
    assert abs(neighbors - 0.15**2) < 4 * np.sqrt(0.15**2 * (1 - 0.15**2) / flags.size)
    examples = (flags[1:] & flags[:-1]).mean()
    assert abs(examples - 0.15**2) < 4 * np.sqrt(0.15**2 * (1 - 0.15**2) / flags.size)


@given(texts, patterns, seeds, st.floats(0.05, 0.95))
@settings(max_examples=150, deadline=None)
def test_specials_and_padding_are_never_masked(text: list[int], pattern: str, seed: int, ratio: float) -> None:
    tokens = np.array([*text, PAD, PAD])[None]
    config = MaskingConfig(ratio, pattern, keep_ratio=0.2, random_ratio=0.5)  # type: ignore[arg-type]
    chosen = choose_positions(tokens, [3], config, WORDS, Stream(seed, 1))
    masked = apply_masks(tokens, chosen, [3], config, WORDS, Stream(seed, 1))
    special = (tokens < 4) | (tokens >= 1000)
    assert not (chosen & special).any()
    assert (masked[~chosen] == tokens[~chosen]).all()
    # What replaces a token is [MASK] or a word, never another special or sentinel id.
    replacements = masked[chosen & (masked != tokens)]
    assert ((replacements == WORDS.mask_id) | ((replacements >= 4) & (replacements < 1000))).all()


@given(st.lists(texts, min_size=2, max_size=5), patterns, seeds, st.integers(0, 20), st.data())
@settings(max_examples=100, deadline=None)
def test_a_text_is_masked_alike_in_every_batch(
    rows: list[list[int]], pattern: str, seed: int, epoch: int, data: st.DataObject
) -> None:
    """Alone, in another order, beside longer texts: the same masks, fates and samples."""
    config = MaskingConfig(0.4, pattern, keep_ratio=0.2, random_ratio=0.2)  # type: ignore[arg-type]
    make = MetroBatches(config, WORDS, WORDS.mask_id)
    order = data.draw(st.permutations(range(len(rows))))
    arrays = [np.array(row) for row in rows]
    together = make(pad_rows([arrays[i] for i in order], PAD), [100 + i for i in order], Stream(seed, epoch))
    assert together.masked_tokens is not None
    assert together.masked_positions is not None
    assert together.sample_uniforms is not None
    width = together.source_tokens.shape[1]
    for row, i in enumerate(order):
        alone = make(arrays[i][None], [100 + i], Stream(seed, epoch))
        assert alone.masked_tokens is not None
        assert alone.masked_positions is not None
        assert alone.sample_uniforms is not None
        length = len(arrays[i])
        assert together.masked_tokens[row, :length].tolist() == alone.masked_tokens[0].tolist()
        here = (together.masked_positions // width) == row
        assert (together.masked_positions[here] % width).tolist() == alone.masked_positions.tolist()
        assert together.sample_uniforms[here].tolist() == alone.sample_uniforms.tolist()


def test_seed_epoch_and_example_each_change_the_masks() -> None:
    tokens = np.full((1, 200), 7)

    for pattern in ("iid", "span"):
        config = MaskingConfig(0.15, pattern)  # type: ignore[arg-type]
        base = choose_positions(tokens, [1], config, WORDS, Stream(1, 1))
        for example, stream in ((2, Stream(1, 1)), (1, Stream(2, 1)), (1, Stream(1, 2))):
            assert (choose_positions(tokens, [example], config, WORDS, stream) != base).any()


def test_keep_and_random_shares() -> None:
    tokens = np.full((200, 500), 7)
    config = MaskingConfig(0.5, keep_ratio=0.1, random_ratio=0.1)
    stream = Stream(0, 0)
    chosen = choose_positions(tokens, range(200), config, WORDS, stream)
    masked = apply_masks(tokens, chosen, range(200), config, WORDS, stream)[chosen]
    deviation = 4 * np.sqrt(0.1 * 0.9 / masked.size)
    assert abs((masked == WORDS.mask_id).mean() - 0.8) < 2 * deviation
    assert abs((masked == 7).mean() - 0.1) < deviation + 0.001  # the random word is itself now and then
    drawn = masked[(masked != WORDS.mask_id) & (masked != 7)]
    assert drawn.min() >= 4
    assert drawn.max() < 1000
    counts = np.bincount(drawn, minlength=1000)[4:1000]
    expected = drawn.size / 996
    assert ((counts - expected) ** 2 / expected).sum() < 996 + 6 * np.sqrt(2 * 996)  # chi-squared, uniform over words


@given(st.lists(texts, min_size=1, max_size=4), seeds)
@settings(max_examples=60, deadline=None)
def test_t5_batches_pad_nothing_but_the_right(rows: list[list[int]], seed: int) -> None:
    make = SpanCorruptionBatches(MaskingConfig(0.15, "span"), WORDS, WORDS.mask_id, EOS)
    batch = make(pad_rows([np.array(row) for row in rows], PAD), range(len(rows)), Stream(seed, 0))
    source, decoder_input = batch.source_tokens.numpy(), batch.decoder_input.numpy()
    target = np.full(decoder_input.shape, PAD)
    target.flat[batch.clm_positions.numpy()] = batch.clm_targets.numpy()
    for place, row in enumerate(rows):
        kept = source[place][source[place] != PAD].tolist()
        wanted = target[place][target[place] != PAD].tolist()
        assert kept == source[place][: len(kept)].tolist()
        assert wanted[-1] == EOS
        assert restored(kept, wanted[:-1], WORDS.mask_id) == row
        assert decoder_input[place, 0] == WORDS.mask_id
    assert (shift_right(torch.from_numpy(target), WORDS.mask_id).numpy() == decoder_input).all()


@pytest.mark.parametrize(
    "settings_",
    [
        {"mask_ratio": 0.0},
        {"mask_ratio": 1.0},
        {"mean_span_length": 0.5},
        {"keep_ratio": -0.1},
        {"keep_ratio": 0.6, "random_ratio": 0.5},
    ],
)
def test_impossible_settings_are_refused(settings_: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"|".join(settings_)):
        MaskingConfig(**settings_)
