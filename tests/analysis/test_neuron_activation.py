"""Neuron counts against counting by hand, one text and one neuron at a time."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metro_t0.analysis.activation import activation_rows, count_activations, plot_activations
from metro_t0.analysis.checkpoints import AnalyzedModel, analyse_t5
from metro_t0.analysis.mixtures import Seq2SeqBatch, batches, sample_mixture
from metro_t0.errors import UserError
from metro_t0.modeling import T5
from metro_t0.modeling.encoder_decoder import Stack


def by_hand(stack: Stack, tokens: Tensor, memory: Tensor | None) -> tuple[list[list[int]], Tensor]:
    """Per layer and neuron, on how many tokens of one unpadded text ReLU is above zero; and the stack's output."""
    counts = []
    x = stack.embeddings(tokens[None])
    biases = [table(table.buckets_between(len(tokens), len(tokens))) for table in stack.relative_biases]
    for number, layer in enumerate(stack.layers):
        bias = biases[number] if biases else None
        x = layer.self_attention_norm(x + layer.self_attention(x, bias=bias, causal=stack.is_decoder))
        if memory is not None:
            x = layer.cross_attention_norm(x + layer.cross_attention(x, memory))
        wi, wo = layer.feed_forward.wi, layer.feed_forward.wo
        inner = torch.relu(x[0] @ wi.weight.T + wi.bias)
        counts.append([sum(1 for value in inner[:, neuron].tolist() if value > 0) for neuron in range(inner.size(1))])
        x = layer.feed_forward_norm(x + (inner @ wo.weight.T + wo.bias)[None])
    return counts, x


@torch.no_grad()
def test_counts_equal_counting_by_hand(small_t5: T5, mixture: Path) -> None:
    pairs = sample_mixture(mixture, "train", 15, seed=0)
    found = count_activations(analyse_t5(small_t5, 1, 2), batches(pairs, 60, 1, 2))
    expected = {key: [0] * 12 for key in found}
    tokens = {"encoder": 0, "decoder": 0}
    for source, target in pairs:
        counts, memory = by_hand(small_t5.encoder, torch.tensor(source.tolist()), None)
        inputs = torch.tensor([2, *target.tolist()[:-1]])
        more, _ = by_hand(small_t5.decoder, inputs, memory)
        for stack, layers in (("encoder", counts), ("decoder", more)):
            for layer, neurons in enumerate(layers):
                expected[stack, layer] = [a + b for a, b in zip(expected[stack, layer], neurons, strict=True)]
        tokens["encoder"] += len(source)
        tokens["decoder"] += len(target)
    assert list(found) == [("encoder", 0), ("encoder", 1), ("decoder", 0), ("decoder", 1)]
    for key, count in found.items():
        assert count.active.tolist() == expected[key]
        assert count.tokens == tokens[key[0]]


def test_counts_do_not_depend_on_batches(small_t5: T5, mixture: Path) -> None:
    pairs = sample_mixture(mixture, "train", 30, seed=1)
    model = analyse_t5(small_t5, 1, 2)
    one, other = (count_activations(model, batches(pairs, size, 1, 2)) for size in (1, 10_000))
    for key, count in one.items():
        assert count.active.tolist() == other[key].active.tolist()
        assert count.tokens == other[key].tokens


def test_a_silenced_neuron_is_under_activated_and_a_forced_one_is_not(small_t5: T5, mixture: Path) -> None:
    with torch.no_grad():
        small_t5.encoder.layers[1].feed_forward.wi.bias[3] = -1e6
        small_t5.decoder.layers[0].feed_forward.wi.bias[5] = 1e6
    pairs = sample_mixture(mixture, "train", 30, seed=1)
    found = count_activations(analyse_t5(small_t5, 1, 2), batches(pairs, 100, 1, 2))
    assert found["encoder", 1].active[3] == 0
    assert found["encoder", 1].under_activated()[3]
    assert found["decoder", 0].active[5] == found["decoder", 0].tokens
    rows = activation_rows("x", found)
    assert rows[1]["never_active"] == 1
    assert rows[1]["under_activated"] >= 1


def test_a_model_of_nan_has_no_counts(small_t5: T5, mixture: Path) -> None:
    with torch.no_grad():
        small_t5.decoder.layers[0].feed_forward.wi.bias[5] = float("nan")
    pairs = sample_mixture(mixture, "train", 5, seed=1)
    with pytest.raises(UserError, match="logits are NaN or infinite"):
        count_activations(analyse_t5(small_t5, 1, 2), batches(pairs, 100, 1, 2))


def test_the_threshold_counts_tokens_exactly() -> None:
    from metro_t0.analysis.activation import Activations

    counts = Activations(torch.tensor([0, 4, 5, 6, 1000]), tokens=1000)
    assert counts.under_activated().tolist() == [True, True, True, False, False]


def test_hugging_face_t5_is_counted_alike(mixture: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for gated in (False, True):
        config = transformers.T5Config(
            vocab_size=40, d_model=16, d_ff=12, d_kv=8, num_heads=2, num_layers=2, num_decoder_layers=2,
            feed_forward_proj="gated-gelu" if gated else "relu",
        )  # fmt: skip
        torch.manual_seed(0)
        module = transformers.T5ForConditionalGeneration(config).eval()
        seen: list[Tensor] = []
        layer = module.encoder.block[1].layer[1].DenseReluDense
        layer.act.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output))

        def forward(batch: Seq2SeqBatch, module: torch.nn.Module = module) -> Tensor:
            return module(
                input_ids=batch.source, attention_mask=batch.source_valid.long(), decoder_input_ids=batch.decoder_input
            ).logits

        pairs = sample_mixture(mixture, "train", 8, seed=0)
        given = list(batches(pairs, 50, 1, 2))
        found = count_activations(AnalyzedModel(module, forward, 1, 2), given)
        expected = sum(
            ((output > 0) & batch.source_valid[..., None]).sum((0, 1))
            for output, batch in zip(seen, given, strict=True)
        )
        assert found["encoder", 1].active.tolist() == expected.tolist()


def test_a_model_of_another_kind_is_refused() -> None:
    model = AnalyzedModel(torch.nn.Linear(2, 2), lambda batch: batch.source, 1, 2)
    with pytest.raises(UserError, match="no feed-forward layers"):
        count_activations(model, [])


def test_figure_and_numbers(small_t5: T5, mixture: Path, tmp_path: Path) -> None:
    found = count_activations(
        analyse_t5(small_t5, 1, 2), batches(sample_mixture(mixture, "train", 9, seed=0), 99, 1, 2)
    )
    rows = [*activation_rows("one", found), *activation_rows("two", found)]
    png, svg, data = plot_activations(rows, tmp_path / "neurons")
    assert png.stat().st_size > 5000
    for text in ("one", "two", "Encoder", "Decoder", "under-activated neurons"):
        assert text in svg.read_text()
    with open(data, newline="") as stream:
        assert [row["under_activated"] for row in csv.DictReader(stream)] == [str(r["under_activated"]) for r in rows]


def test_sample_follows_rates_caps_and_seed(mixture: Path) -> None:
    assert len(sample_mixture(mixture, "train", 1000, seed=0)) == 20 + 10 + 6
    some = sample_mixture(mixture, "train", 18, seed=0)
    assert len(some) == 18
    assert len({tuple(source.tolist()) for source, _ in some}) >= 17
    again = sample_mixture(mixture, "train", 18, seed=0)
    assert [source.tolist() for source, _ in again] == [source.tolist() for source, _ in some]
    other = sample_mixture(mixture, "train", 18, seed=1)
    assert [source.tolist() for source, _ in other] != [source.tolist() for source, _ in some]
    short = sample_mixture(mixture, "train", 1000, seed=0, max_source=4, max_target=2)
    assert max(len(source) for source, _ in short) == 4
    assert max(len(target) for _, target in short) == 2
    assert all(source[0] == 0 and source[-1] == 2 and target[-1] == 2 for source, target in short)


def test_batches_respect_the_budget_and_shift_the_target(mixture: Path) -> None:
    pairs = sample_mixture(mixture, "train", 36, seed=0)
    made = list(batches(pairs, 64, 1, 2))
    assert sum(len(batch.source) for batch in made) == 36
    for batch in made:
        assert len(batch.source) == 1 or max(batch.source.numel(), batch.target.numel()) <= 64
        assert (batch.decoder_input[:, 0] == 2).all()
        assert torch.equal(batch.decoder_input[:, 1:], batch.target[:, :-1])
        assert torch.equal(batch.source != 1, batch.source_valid)


def test_missing_mixtures_are_named(mixture: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="valid"):
        sample_mixture(mixture, "valid", 5, seed=0)
    with pytest.raises(UserError, match=r"mixture\.json"):
        sample_mixture(tmp_path, "train", 5, seed=0)
