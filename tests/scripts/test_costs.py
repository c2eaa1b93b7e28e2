"""The arithmetic of the costs against torch's own counter of floating-point operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from metro_t0.modeling import T5, MetroT5, ModelConfig, preset
from metro_t0.modeling.flops import forward_flops, seq2seq_training_flops, training_flops
from scripts.benchmarks.costs import parameters
from scripts.benchmarks.steps import metro_batch, metro_loss_of

LENGTH, BATCH, MASKED = 40, 3, 6 / 40
SMALL = preset("demo", vocab_size=600, attention_backend="eager")


@pytest.mark.parametrize(
    "changes", [{}, {"auxiliary_layers": 2, "decoder_layers": 1}, {"rtd_head": "linear"}, {"gated_ffn": True}]
)
def test_flops_equal_those_torch_counts(changes: dict[str, Any]) -> None:
    config = SMALL.replace(**changes)
    torch.manual_seed(0)
    model = MetroT5(config, 1)
    batch = metro_batch(config, BATCH, LENGTH, "cpu")
    batch.most_clm_in_row = batch.most_masked_in_row = round(MASKED * LENGTH)  # without rounding up
    with FlopCounterMode(display=False) as forward:
        loss = metro_loss_of(model, batch)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    expected = forward_flops(config, LENGTH, MASKED)
    # The counter sees a causal attention's whole score matrix, and the RTD head's last layer to a single logit.
    causal_halves = 4.0 * LENGTH * config.inner_dim * (config.decoder_layers - (1 - MASKED)) / 2
    per_token = sum(expected.values()) + causal_halves + 2 * config.d_model
    assert forward.get_total_flops() / (BATCH * LENGTH) == pytest.approx(per_token, rel=1e-9)
    assert backward.get_total_flops() / (BATCH * LENGTH) == pytest.approx(2 * per_token, rel=1e-9)


def test_the_base_preset_costs_what_the_field_reckons() -> None:
    """1.566 GFLOP per token with causal attention counted half, and 226M + 28M parameters; less by the last layers."""
    config: ModelConfig = preset("base", vocab_size=33_280)
    assert training_flops(config, 512, 0.15, last_layers=1) == pytest.approx(1.566e9, rel=0.005)
    assert 0.93 < training_flops(config, 512, 0.15) / training_flops(config, 512, 0.15, last_layers=1) < 0.96
    assert parameters(config) == pytest.approx(254.6e6, rel=0.001)


def test_flops_of_pairs_equal_those_torch_counts() -> None:
    config = SMALL.replace(activation_dropout=0.0).without_pretraining()
    model = T5(config)
    source, target = torch.randint(4, 600, (BATCH, LENGTH)), torch.randint(4, 600, (BATCH, 7))
    with FlopCounterMode(display=False) as counter:
        model.logits(model(source, target)[0]).sum().backward()
    causal_halves = 3 * 4.0 * config.inner_dim * config.decoder_layers * BATCH * 7 * 7 / 2
    expected = seq2seq_training_flops(config, BATCH, BATCH * LENGTH, BATCH * 7) + causal_halves
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-9)
