"""Every objective of the config against a slow re-computation: one text at a time, no padding, loops, float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from objective_variants import (
    EOS,
    EXAMPLES,
    METRO_VARIANTS,
    PAD,
    STREAM,
    TINY,
    WORDS,
    Variant,
    batches_of,
    make_model,
    texts,
)  # fmt: skip
from torch import Tensor, nn

from metro_t0.errors import UserError
from metro_t0.modeling import MetroT5
from metro_t0.objectives.batches import (
    MetroBatches,
    MetroTarget,
    SpanCorruptionBatches,
    T5Target,
    check_target,
)
from metro_t0.objectives.losses import LossPart, clm_loss, metro_loss, mlm_loss, pretraining_metrics, rtd_loss
from metro_t0.objectives.masking import MaskingConfig, choose_positions
from metro_t0.rows import pad_rows


def log_softmax(logits: Tensor) -> list[float]:
    values = logits.tolist()
    largest = max(values)
    log_sum = largest + math.log(math.fsum(math.exp(value - largest) for value in values))
    return [value - log_sum for value in values]


def sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))


def layer_norm(x: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    scaled = (x - x.mean()) / math.sqrt(((x - x.mean()) ** 2).mean() + norm.eps)
    return scaled * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def linear(x: np.ndarray, layer: nn.Linear) -> np.ndarray:
    return np.array([math.fsum(w * v for w, v in zip(row, x, strict=True)) for row in layer.weight.tolist()]) + (
        layer.bias.detach().numpy()
    )


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])


def rtd_logit(model: MetroT5, hidden: Tensor) -> float:
    x = hidden.numpy()
    if model.config.rtd_head == "mlp":
        x = layer_norm(np.maximum(linear(x, model.rtd_head.dense), 0), model.rtd_head.norm)
    return float(linear(x, model.rtd_head.out)[0])


def vocabulary_log_p(model: MetroT5, hidden: Tensor) -> list[float]:
    x = hidden.numpy()
    if model.config.clm_head == "projection":
        x = layer_norm(gelu(linear(x, model.clm_projection.dense)), model.clm_projection.norm)
    return log_softmax(model.main.encoder.embeddings.tokens.weight.detach() @ torch.from_numpy(x))


def corrupted(row: np.ndarray, chosen: np.ndarray, example: int, masking: MaskingConfig) -> np.ndarray:
    """The auxiliary's input, decided token by token from the documented random numbers."""
    fate = STREAM.uniforms("fate", [example], len(row))[0]
    draws = STREAM.uniforms("random", [example], len(row))[0]
    masked = row.copy()
    for place in np.flatnonzero(chosen).tolist():
        if fate[place] < masking.keep_ratio:
            continue
        if fate[place] < masking.keep_ratio + masking.random_ratio:
            masked[place] = 4 + math.floor(float(draws[place]) * 56)
        else:
            masked[place] = WORDS.mask_id
    return masked


def sample(log_p: list[float], uniform: float) -> int:
    total = 0.0
    for token, value in enumerate(log_p):
        total += math.exp(value)
        if uniform < total:
            return token
    return len(log_p) - 1


@torch.no_grad()
def slow_losses(model: MetroT5, rows: list[np.ndarray], variant: Variant) -> dict[str, tuple[float, int]]:
    """Sum and number of positions of each loss, from equations 10 to 12."""
    sums = {"mlm": 0.0, "rtd": 0.0, "clm": 0.0}
    counts = dict.fromkeys(sums, 0)
    for row, example in zip(rows, EXAMPLES, strict=True):
        chosen = choose_positions(row[None], [example], variant.masking, WORDS, STREAM)[0]
        masked = corrupted(row, chosen, example, variant.masking)
        uniforms = STREAM.uniforms("sample", [example], len(row))[0]
        hidden = model.auxiliary.stack(torch.from_numpy(masked)[None])[0]
        noised = row.copy()
        for place in np.flatnonzero(chosen).tolist():
            log_p = log_softmax(model.main.encoder.embeddings.tokens.weight @ hidden[place] + model.auxiliary.bias)
            sums["mlm"] -= log_p[row[place]]
            counts["mlm"] += 1
            noised[place] = sample(log_p, float(uniforms[place]))

        target = row[chosen] if variant.target == "masked_only" else row
        decoder_input = np.array([WORDS.mask_id, *target[:-1]])
        decoded, encoded = model.main(torch.from_numpy(noised)[None], torch.from_numpy(decoder_input)[None])
        believed = {}
        if model.config.rtd != "none":
            for place in range(len(row)):
                logit = rtd_logit(model, (encoded if model.config.rtd == "encoder" else decoded)[0, place])
                believed[place] = sigmoid(logit)
                sums["rtd"] -= math.log(sigmoid(logit if noised[place] != row[place] else -logit))
                counts["rtd"] += 1
        for place, token in enumerate(target):
            if variant.target == "masked_loss" and not chosen[place]:
                continue
            p = math.exp(vocabulary_log_p(model, decoded[0, place])[token])
            if model.config.clm_head == "copy":
                copy = sigmoid(float(linear(decoded[0, place].numpy(), model.copy_gate.out)[0]))
                p = (1 - copy) * p + (copy if noised[place] == token else 0.0)
            sums["clm"] -= (believed[place] if variant.weighted else 1.0) * math.log(p)
            counts["clm"] += 1
    return {name: (sums[name], counts[name]) for name in sums}


def assert_part(part: LossPart, expected: tuple[float, int], name: str) -> None:
    assert float(part.count) == expected[1], name
    assert float(part.total) == pytest.approx(expected[0], rel=2e-5), name


@pytest.mark.parametrize("name", METRO_VARIANTS)
def test_metro_variant_equals_the_slow_definition(name: str) -> None:
    variant = METRO_VARIANTS[name]
    model, rows = make_model(variant), texts()
    batch = batches_of(variant)(pad_rows(rows, PAD), EXAMPLES, STREAM)
    with torch.no_grad():
        output = model(batch)
    expected = slow_losses(model, rows, variant)
    assert expected["clm"][1] > 0
    assert_part(mlm_loss(output), expected["mlm"], "mlm")
    assert_part(clm_loss(batch, output, variant.weighted), expected["clm"], "clm")
    if model.config.rtd != "none":
        assert bool(output.noise is not None and output.replaced.any())
        assert_part(rtd_loss(output), expected["rtd"], "rtd")


@pytest.mark.parametrize("name", ["metro", "copy", "rtd_on_decoder_projection", "weighted"])
def test_probing_unmasked_positions_for_metrics_leaves_the_loss_alone(name: str) -> None:
    variant = METRO_VARIANTS[name]
    model, rows = make_model(variant), texts()
    plain, probed = (batches_of(variant, probe)(pad_rows(rows, PAD), EXAMPLES, STREAM) for probe in (False, True))
    assert len(probed.clm_targets) > len(plain.clm_targets)
    with torch.no_grad():
        losses = [clm_loss(batch, model(batch), variant.weighted) for batch in (plain, probed)]
    assert float(losses[0].count) == float(losses[1].count)
    assert float(losses[0].total) == pytest.approx(float(losses[1].total), rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("target", ["spans", "all_tokens"])
def test_span_corruption_equals_the_slow_definition(target: T5Target) -> None:
    variant = Variant({"auxiliary_layers": 0, "rtd": "none"}, masking=MaskingConfig(0.3, "span", 2.0))
    model, rows = make_model(variant), texts()
    batch = SpanCorruptionBatches(variant.masking, WORDS, WORDS.mask_id, EOS, target)(
        pad_rows(rows, PAD), EXAMPLES, STREAM
    )
    loss = clm_loss(batch, model(batch))
    total, count = 0.0, 0
    for row, example in zip(rows, EXAMPLES, strict=True):
        chosen = choose_positions(row[None], [example], variant.masking, WORDS, STREAM)[0]
        source: list[int] = []
        spans: list[int] = []
        sentinel = WORDS.mask_id - 1
        for place, token in enumerate(row.tolist()):
            if not chosen[place]:
                source.append(token)
                continue
            if not chosen[place - 1]:
                sentinel += 1
                source.append(sentinel)
                spans.append(sentinel)
            spans.append(token)
        wanted = [*spans, EOS] if target == "spans" else row.tolist()
        decoded, _ = model.main(torch.tensor([source]), torch.tensor([[WORDS.mask_id, *wanted[:-1]]]))
        for place, token in enumerate(wanted):
            total -= vocabulary_log_p(model, decoded[0, place])[token]
            count += 1
    assert_part(loss, (total, count), target)


def test_total_is_the_weighted_sum_of_the_three_means() -> None:
    parts = {"mlm": (6.0, 3), "rtd": (1.0, 4), "clm": (10.0, 5)}
    means = {name: LossPart(torch.tensor(total), torch.tensor(count)).mean for name, (total, count) in parts.items()}
    assert float(metro_loss(means)) == pytest.approx(1 * 6 / 3 + 50 * 1 / 4 + 1 * 10 / 5)
    weights = {"mlm": 2.0, "rtd": 3.0, "clm": 4.0}
    assert float(metro_loss(means, weights)) == pytest.approx(2 * 6 / 3 + 3 * 1 / 4 + 4 * 10 / 5)


def gradients(model: MetroT5, loss: Tensor) -> dict[str, float]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in model.named_parameters()}


def test_no_gradient_passes_through_the_sampling() -> None:
    model = make_model(METRO_VARIANTS["shared_tokens_only"])
    batch = batches_of(METRO_VARIANTS["metro"])(pad_rows(texts(), PAD), EXAMPLES, STREAM)
    output = model(batch)
    found = gradients(model, rtd_loss(output).mean + clm_loss(batch, output).mean)
    auxiliary = {name: size for name, size in found.items() if name.startswith("auxiliary.")}
    assert auxiliary
    assert set(auxiliary.values()) == {0.0}
    assert found["main.encoder.layers.0.feed_forward.wi.weight"] > 0


def test_the_weight_of_the_weighted_clm_loss_carries_no_gradient() -> None:
    variant = METRO_VARIANTS["weighted"]
    model = make_model(variant)
    batch = batches_of(variant)(pad_rows(texts(), PAD), EXAMPLES, STREAM)
    found = gradients(model, clm_loss(batch, model(batch), weighted_by_rtd=True).mean)
    assert {size for name, size in found.items() if name.startswith("rtd_head.")} == {0.0}


@pytest.mark.parametrize("name", [*METRO_VARIANTS, "t5_spans", "t5_all_tokens"])
def test_variant_trains_and_every_loss_falls(name: str) -> None:
    variant = METRO_VARIANTS.get(name, Variant({"auxiliary_layers": 0, "rtd": "none"}))
    torch.manual_seed(0)
    model = MetroT5(TINY.replace(**variant.model, d_model=32, ffn_dim=64), PAD)
    make: MetroBatches | SpanCorruptionBatches = batches_of(variant)
    if name.startswith("t5"):
        target: T5Target = "spans" if name == "t5_spans" else "all_tokens"
        make = SpanCorruptionBatches(variant.masking, WORDS, WORDS.mask_id, EOS, target)
    # One text over and over, masked anew each time: what the model can learn is the text.
    tokens = np.tile(texts((20,))[0], (8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history: list[dict[str, float]] = []
    for step in range(60):
        batch = make(tokens, range(8 * step, 8 * step + 8), STREAM)
        output = model(batch)
        parts = {"clm": clm_loss(batch, output, variant.weighted)}
        if output.noise is not None:
            parts["mlm"] = mlm_loss(output)
        total = parts["clm"].mean + (parts["mlm"].mean if "mlm" in parts else 0.0)
        if "rtd_head" in output.heads:
            parts["rtd"] = rtd_loss(output)
            total = total + 5 * parts["rtd"].mean
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append({key: float(part.mean.detach()) for key, part in parts.items()})
    for key in ("clm", "mlm"):
        if key in history[0]:
            first, last = (np.mean([step[key] for step in part]) for part in (history[:5], history[-5:]))
            assert last < 0.7 * first, (key, first, last)
    if "rtd" in history[0]:  # the task becomes harder as the auxiliary learns, so only the beginning is sure
        assert history[10]["rtd"] < history[0]["rtd"]


@pytest.mark.parametrize("name", ["metro", "copy", "masked_only", "all_tokens", "rtd_on_decoder"])
def test_metrics_count_what_they_say(name: str) -> None:
    variant = METRO_VARIANTS[name]
    model, rows = make_model(variant), texts((25, 18, 22))
    batch = batches_of(variant, probe=True)(pad_rows(rows, PAD), EXAMPLES, STREAM)
    with torch.no_grad():
        output = model(batch)
    assert output.noise is not None
    assert output.noise is not None
    found = {key: (int(hits), int(among)) for key, (hits, among) in pretraining_metrics(batch, output).items()}
    source, noised = batch.source_tokens.flatten().tolist(), output.noise.tokens.flatten().tolist()
    masked = set(batch.masked_positions.tolist()) if batch.masked_positions is not None else set()
    real = [place for place, token in enumerate(source) if token != PAD]
    replaced = {place for place in real if noised[place] != source[place]}
    assert found["replacement_rate"] == (len(replaced), len(masked))
    best = dict(zip(sorted(masked), output.noise.logits.argmax(-1).tolist(), strict=True))
    assert found["mlm_accuracy"] == (sum(best[place] == source[place] for place in masked), len(masked))
    assert "rtd_head" in output.heads
    alarm = [value > 0 for value in output.heads["rtd_head"].flatten().tolist()]
    assert found["rtd_recall"] == (sum(alarm[place] for place in replaced), len(replaced))
    intact = set(real) - replaced
    assert found["rtd_specificity"] == (sum(not alarm[place] for place in intact), len(intact))

    right = {}
    for row, (place, token) in enumerate(zip(batch.clm_positions.tolist(), batch.clm_targets.tolist(), strict=True)):
        p = [math.exp(value) for value in log_softmax(output.clm_logits[row])]
        if "copy_gate" in output.heads:
            copy = sigmoid(float(output.heads["copy_gate"][row]))
            p = [(1 - copy) * value for value in p]
            p[noised[place]] += copy
        right[place] = p.index(max(p)) == token
    if name == "masked_only":
        assert found["clm_accuracy_masked"] == (sum(right.values()), len(masked))
        return
    for key, among in (
        ("masked", masked),
        ("replaced", replaced),
        ("unmasked", set(right) - masked),
    ):
        assert found[f"clm_accuracy_{key}"] == (sum(right[place] for place in among), len(among)), key


def test_a_batch_without_masks_has_zero_losses_and_gradients_of_zero() -> None:
    """Very short texts can end up without a mask; the criterion must survive it."""
    variant = Variant(masking=MaskingConfig(mask_ratio=0.001))
    model = make_model(variant)
    batch = batches_of(variant)(pad_rows(texts((3, 2, 1)), PAD), EXAMPLES, STREAM)
    output = model(batch)
    assert mlm_loss(output).mean.item() == 0.0
    assert clm_loss(batch, output).mean.item() == 0.0
    assert rtd_loss(output).mean.item() > 0.0
    assert all(math.isfinite(size) for size in gradients(model, rtd_loss(output).mean).values())


@pytest.mark.parametrize(
    ("changes", "target", "weighted", "reason"),
    [
        ({"clm_head": "copy"}, "masked_only", False, "clm_head=copy"),
        ({"rtd": "decoder"}, "masked_only", False, "rtd=decoder"),
        ({}, "masked_only", True, "weighted_clm"),
        ({"rtd": "none"}, "masked_loss", True, "weighted_clm needs the RTD head"),
    ],
)
def test_combinations_without_sense_are_refused(
    changes: dict[str, Any], target: MetroTarget, weighted: bool, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        check_target(TINY.replace(**changes), target, weighted)


def test_model_combinations_without_sense_are_refused() -> None:
    for changes, reason in (
        ({"auxiliary_layers": 0}, "without an auxiliary no token is replaced"),
        ({"auxiliary_layers": 0, "rtd": "none", "clm_head": "copy"}, "no noised token to copy"),
        ({"tied_head": False}, "tied to the embeddings"),
    ):
        with pytest.raises(UserError, match=reason):
            TINY.replace(**changes)
