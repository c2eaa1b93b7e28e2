"""SpacTor-T5: span corruption and RTD on one encoder-decoder, then span corruption alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metro_t0.modeling import MetroT5, PretrainingBatch, PretrainingOutput
from metro_t0.objectives.batches import SpanCorruptionBatches
from metro_t0.objectives.masking import MaskingConfig, WordIds
from metro_t0.randomness import Stream

Train = Callable[..., list[dict[str, Any]]]
OPTIONS = "--replaced-ratio 0.3 --mlm-until 3 --rtd-until 3 --dropout 0 --attention-dropout 0"
WORDS = WordIds(pad_id=1, mask_id=500, first_word=4, end_of_words=500)
LAST_SENTINEL = 1011


def batches(replaced_ratio: float) -> SpanCorruptionBatches:
    return SpanCorruptionBatches(
        MaskingConfig(), WORDS, WORDS.mask_id, 2, replaced_ratio=replaced_ratio, auxiliary_mask_id=LAST_SENTINEL
    )


def test_the_auxiliary_fills_words_outside_of_the_spans_and_the_decoder_is_that_of_t5() -> None:
    random = np.random.default_rng(0)
    tokens = np.concatenate([np.zeros((32, 1), int), random.integers(4, 500, (32, 255))], axis=1)
    plain, both = (batches(ratio)(tokens, range(32), Stream(1, 1)) for ratio in (0.0, 0.15))
    for name in ("source_tokens", "decoder_input", "clm_positions", "clm_targets"):
        assert torch.equal(getattr(plain, name), getattr(both, name))
    assert plain.masked_tokens is None
    assert both.masked_tokens is not None
    assert both.masked_positions is not None
    source, masked = both.source_tokens.flatten(), both.masked_tokens.flatten()
    changed = (source != masked).nonzero().flatten()
    assert torch.equal(changed, both.masked_positions)
    assert WORDS.is_word(source[changed].numpy()).all()
    assert (masked[changed] == LAST_SENTINEL).all()
    assert (source != LAST_SENTINEL).all()
    # What the criterion scales the sums by is the ratio of these counts.
    counts = {"masked": len(changed), "source": int((source != WORDS.pad_id).sum())}
    expected = batches(0.15).expected_counts()
    for name, count in counts.items():
        scale = expected["predicted"] / expected[name]
        assert len(both.clm_targets) / count == pytest.approx(scale, rel=0.06), name


def test_mlm_and_rtd_end_at_their_update_and_cost_nothing_afterwards(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = MetroT5.forward
    seen: list[bool] = []

    def record(self: MetroT5, batch: PretrainingBatch) -> PretrainingOutput:
        output = forward(self, batch)
        seen.append(output.noise is not None and "rtd_head" in output.heads)
        return output

    monkeypatch.setattr(MetroT5, "forward", record)
    whole = train(f"--save-dir {tmp_path / 'whole'} --max-update 6 {OPTIONS}", task="t5_pretraining")
    assert seen == [True] * 3 + [False] * 3
    for name in ("mlm_loss", "rtd_loss"):
        assert [r.get(name) is not None for r in whole] == seen
    assert all("clm_accuracy" in r for r in whole)
    train(f"--save-dir {tmp_path / 'halted'} --max-update 4 {OPTIONS}", task="t5_pretraining")
    resumed = train(f"--save-dir {tmp_path / 'halted'} --max-update 6 {OPTIONS}", task="t5_pretraining")
    assert [r["loss"] for r in resumed] == [r["loss"] for r in whole[4:]]
    assert seen[-2:] == [False, False]


def test_a_share_of_the_updates_is_one_of_max_update(train: Train, tmp_path: Path) -> None:
    records = train(f"--save-dir {tmp_path} --max-update 4 --no-save --rtd-until 0.5")
    # METRO goes on corrupting: the loss is logged, but counts no longer.
    counts = [float(r["loss"]) > float(r["mlm_loss"]) + float(r["clm_loss"]) + 1 for r in records]
    assert counts == [True, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--replaced-ratio 0.15 --auxiliary-layers 0 --rtd none", "replaced-ratio needs an auxiliary"),
        ("--replaced-ratio 0.15 --rtd decoder", "does not go with rtd=decoder"),
        ("--replaced-ratio 1.5", "replaced-ratio is 1.5"),
        ("--mlm-until -1", "mlm-until is -1"),
    ],
)
def test_refusals(train: Train, options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train(f"--save-dir {tmp_path} --max-update 1 {options}", task="t5_pretraining")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
