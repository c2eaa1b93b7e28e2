"""Sensitivities against the change of the loss when one parameter is set to zero."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from metro_t0.analysis.checkpoints import analyse_t5
from metro_t0.analysis.mixtures import Example, batches, sample_mixture
from metro_t0.analysis.sensitivity import (
    LogHistogram,
    ParameterGroup,
    accumulate_gradients,
    group_of,
    merged,
    sensitivity_histograms,
)
from metro_t0.analysis.sensitivity_figure import plot_sensitivities
from metro_t0.errors import UserError
from metro_t0.modeling import T5


@torch.no_grad()
def mean_loss(model: T5, pairs: list[Example]) -> float:
    """Mean cross-entropy per target token, one example at a time."""
    total, tokens = 0.0, 0
    for source, target in pairs:
        inputs = torch.tensor([[2, *target.tolist()[:-1]]])
        decoded, _ = model(torch.tensor([source.tolist()]), inputs)
        total += float(F.cross_entropy(model.logits(decoded)[0], torch.tensor(target.tolist()), reduction="sum"))
        tokens += len(target)
    return total / tokens


def test_loss_and_sensitivity_equal_zeroing_a_parameter(small_t5: T5, mixture: Path) -> None:
    """For small parameters the first order is the whole truth."""
    pairs = sample_mixture(mixture, "train", 12, seed=0)
    chosen = {
        "encoder.layers.0.self_attention.v.weight": (3, 5),
        "encoder.layers.1.feed_forward.wi.weight": (2, 7),
        "decoder.layers.0.cross_attention.o.weight": (1, 1),
        "decoder.layers.1.feed_forward.wo.bias": (4,),
        "encoder.embeddings.tokens.weight": (int(pairs[0][0][0]), 2),
        "encoder.relative_biases.1.table.weight": (16, 1),
    }
    parameters = dict(small_t5.named_parameters())
    with torch.no_grad():
        for name, place in chosen.items():
            parameters[name][place] = 1e-6
    model = analyse_t5(small_t5, 1, 2)
    loss = accumulate_gradients(model, batches(pairs, 60, 1, 2))
    assert loss == pytest.approx(mean_loss(small_t5, pairs), rel=1e-6)
    for name, place in chosen.items():
        gradient = parameters[name].grad
        assert gradient is not None
        sensitivity = abs((parameters[name][place] * gradient[place]).item())
        before = mean_loss(small_t5, pairs)
        with torch.no_grad():
            parameters[name][place] = 0.0
        change = abs(mean_loss(small_t5, pairs) - before)
        with torch.no_grad():
            parameters[name][place] = 1e-6
        assert sensitivity > 0
        assert sensitivity == pytest.approx(change, rel=1e-3), name


def test_histograms_hold_every_parameter_where_it_belongs(small_t5: T5, mixture: Path) -> None:
    pairs = sample_mixture(mixture, "train", 12, seed=0)
    with torch.no_grad():
        small_t5.encoder.layers[0].feed_forward.wi.weight[3] = 0.0
    accumulate_gradients(analyse_t5(small_t5, 1, 2), batches(pairs, 60, 1, 2))
    found = sensitivity_histograms(small_t5)
    assert sum(h.number for h in found.values()) == sum(p.numel() for p in small_t5.parameters())
    weight = small_t5.encoder.layers[0].feed_forward.wi.weight
    assert weight.grad is not None
    values = (weight * weight.grad).abs().detach().flatten().numpy()
    ours = found[ParameterGroup("encoder", 1, "feed-forward in")]
    expected, _ = np.histogram(np.log10(values[values > 0]), bins=24 * 20, range=(-20, 4))
    assert ours.zeros == (values == 0).sum() >= 16
    assert ours.counts.tolist() == expected.tolist()
    assert ours.total == pytest.approx(values.sum())
    assert merged(found, stack="decoder", kind="cross-attention").number == 2 * 4 * 16 * 16
    assert {group.kind for group in found} == {
        "bias", "norm", "relative bias", "positions", "embeddings", "cross-attention", "self-attention",
        "feed-forward in", "feed-forward out",
    }  # fmt: skip


def test_gradients_do_not_depend_on_batches(small_t5: T5, mixture: Path) -> None:
    pairs = sample_mixture(mixture, "train", 20, seed=3)
    model = analyse_t5(small_t5, 1, 2)
    gradients = []
    for size in (1, 1000):
        accumulate_gradients(model, batches(pairs, size, 1, 2))
        gradients.append([p.grad.clone() for p in small_t5.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


@given(st.lists(st.floats(1e-18, 1e3), min_size=1, max_size=300), st.integers(0, 20), st.floats(0.01, 0.99))
@settings(max_examples=80, deadline=None)
def test_quantiles_are_right_to_the_width_of_a_bin(values: list[float], zeros: int, q: float) -> None:
    histogram = LogHistogram()
    histogram.add(torch.tensor([*values, *[0.0] * zeros], dtype=torch.float64))
    ordered = np.sort(np.array([*values, *[0.0] * zeros]))
    exact = ordered[min(int(q * len(ordered)), len(ordered) - 1)]
    found = histogram.quantile(q)
    if exact == 0:
        assert found == -np.inf
    else:
        assert abs(found - np.log10(exact)) < 1 / 20 + 1e-6
    assert histogram.number == len(ordered)


def test_adding_slices_equals_adding_all() -> None:
    values = torch.rand(1000, dtype=torch.float64) ** 8
    whole, parts = LogHistogram(), LogHistogram()
    whole.add(values)
    for piece in values.split(77):
        parts.add(piece)
    assert whole.counts.tolist() == parts.counts.tolist()
    assert whole.total == pytest.approx(parts.total)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("main.encoder.layers.3.self_attention.q.weight", ParameterGroup("encoder", 4, "self-attention")),
        ("decoder.block.0.layer.1.EncDecAttention.k.weight", ParameterGroup("decoder", 1, "cross-attention")),
        ("decoder.block.2.layer.2.DenseReluDense.wi_1.weight", ParameterGroup("decoder", 3, "feed-forward in")),
        ("encoder.block.0.layer.0.layer_norm.weight", ParameterGroup("encoder", 1, "norm")),
        (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            ParameterGroup("encoder", 1, "relative bias"),
        ),
        ("main.encoder.relative_biases.2.table.weight", ParameterGroup("encoder", 3, "relative bias")),
        ("shared.weight", ParameterGroup("shared", 0, "embeddings")),
        ("lm_head.weight", ParameterGroup("shared", 0, "head")),
    ],
)
def test_names_of_both_kinds_of_models_are_understood(name: str, group: ParameterGroup) -> None:
    assert group_of(name) == group


def test_a_loss_that_is_not_finite_is_an_error(small_t5: T5, mixture: Path) -> None:
    with torch.no_grad():
        small_t5.encoder.embeddings.tokens.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="loss is nan"):
        accumulate_gradients(analyse_t5(small_t5, 1, 2), batches(sample_mixture(mixture, "train", 3, seed=0), 60, 1, 2))


def test_figure_and_numbers(small_t5: T5, mixture: Path, tmp_path: Path) -> None:
    pairs = sample_mixture(mixture, "train", 12, seed=0)
    accumulate_gradients(analyse_t5(small_t5, 1, 2), batches(pairs, 60, 1, 2))
    found = sensitivity_histograms(small_t5)
    paths = plot_sensitivities({"one": found, "two": found}, tmp_path / "figure")
    assert [path.name for path in paths] == ["figure.png", "figure.svg", "figure.csv", "figure.summary.csv"]
    with open(paths[2], newline="") as stream:
        rows = list(csv.DictReader(stream))
    parameters = sum(p.numel() for p in small_t5.parameters())
    assert sum(int(row["parameters"]) for row in rows if row["checkpoint"] == "one") == parameters
    with open(paths[3], newline="") as stream:
        assert sum(int(row["parameters"]) for row in csv.DictReader(stream)) == 2 * parameters
