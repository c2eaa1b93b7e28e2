"""The optimizer of the T5 recipe against its definition (Shazeer and Stern 2018, with T5's settings)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fairseq")


def test_steps_follow_the_definition_for_every_parameter():
    """Each parameter moves by lr * max(1e-3, its RMS) * clipped update, whatever parameters come before it."""
    from fairseq_plugins.optim.t5_adafactor import T5Adafactor, T5AdafactorConfig

    torch.manual_seed(0)
    scales = [0.01, 3.0, 1.0]
    parameters = [torch.nn.Parameter(torch.randn(6) * scale) for scale in scales]
    wanted = [p.detach().clone() for p in parameters]
    moments = [torch.zeros(6) for _ in scales]
    optimizer = T5Adafactor(T5AdafactorConfig(lr=[0.01]), parameters).optimizer
    for step in range(1, 5):
        decay = 1 - step**-0.8
        for p, value, moment in zip(parameters, wanted, moments, strict=True):
            p.grad = torch.randn(6)
            moment.mul_(decay).add_(p.grad**2 + 1e-30, alpha=1 - decay)
            update = p.grad / moment.sqrt()
            update /= max(1.0, float(update.square().mean().sqrt()))
            value -= 0.01 * max(1e-3, float(value.square().mean().sqrt())) * update
        optimizer.step()
        for p, value in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(p.data, value)
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_it_trains_weights_of_16_bits(train: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    """With moments in 32 bits: a run of one piece and one that goes on log the same."""
    options = "--optimizer t5_adafactor --memory-efficient-bf16 --update-freq 1,2 --max-update"
    whole = train(f"--save-dir {tmp_path / 'whole'} {options} 4")
    train(f"--save-dir {tmp_path / 'parts'} {options} 2")
    rest = train(f"--save-dir {tmp_path / 'parts'} {options} 4")
    assert [record["loss"] for record in rest] == [record["loss"] for record in whole[-len(rest) :]]
    assert rest
