"""METRO-T5 in pretraining: equations 10 to 13 recomputed slowly, the initial losses, golden losses, precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from metro_t0.kernels import chunks
from metro_t0.kernels.sampling import sample_tokens
from metro_t0.modeling import MetroT5, PretrainingBatch, preset
from metro_t0.modeling.attention import symmetric_buckets
from metro_t0.modeling.layers import Layer
from metro_t0.objectives.batches import MetroBatches
from metro_t0.objectives.losses import clm_loss, loss_parts, metro_loss, mlm_loss, pretraining_metrics, rtd_loss
from metro_t0.objectives.masking import MaskingConfig, WordIds
from metro_t0.randomness import Stream

PAD, WORDS, SENTINELS = 1, 60, 12
SMALL = preset(
    "demo", vocab_size=WORDS + SENTINELS, d_model=16, ffn_dim=24, num_heads=2, head_dim=8, encoder_layers=2,
    decoder_layers=2, auxiliary_layers=1, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


def make_batch(ratio: float = 0.3, length: int = 12) -> PretrainingBatch:
    tokens = np.random.default_rng(3).integers(4, WORDS, (3, length))
    tokens[:, 0] = 0
    tokens[1, -4:] = PAD
    words = WordIds(pad_id=PAD, mask_id=WORDS, first_word=4, end_of_words=WORDS)
    return MetroBatches(MaskingConfig(mask_ratio=ratio), words, WORDS)(tokens, [5, 6, 7], Stream(seed=1, epoch=1))


def make_model(**changes: object) -> MetroT5:
    torch.manual_seed(0)
    model = MetroT5(SMALL.replace(**changes), PAD)
    for parameter in model.parameters():  # leave no zero: every path of the gradient is then tested
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def slow_layer(layer: Layer, x: Tensor, bias_table: Tensor | None, memory: Tensor | None) -> Tensor:
    """One Post-LN layer for one unpadded text x (T, D), written as in the paper, head by head."""

    def attention(module: torch.nn.Module, queries: Tensor, keys: Tensor, causal: bool) -> Tensor:
        heads = []
        for head in range(2):
            part = slice(head * 8, head * 8 + 8)
            q, k, v = module.q(queries)[:, part], module.k(keys)[:, part], module.v(keys)[:, part]
            scores = q @ k.t() / math.sqrt(8)
            for i in range(len(queries)):
                for j in range(len(keys)):
                    if bias_table is not None and not causal:
                        bucket = symmetric_buckets(torch.tensor(j - i), 32, 128)
                        scores[i, j] = scores[i, j] + bias_table[bucket, head]
                    if causal and j > i:
                        scores[i, j] = -math.inf
            heads.append(scores.softmax(-1) @ v)
        return module.o(torch.cat(heads, -1))

    x = layer.self_attention_norm(x + attention(layer.self_attention, x, x, memory is not None))
    if memory is not None:
        bias_table = None
        x = layer.cross_attention_norm(x + attention(layer.cross_attention, x, memory, False))
    hidden = torch.relu(layer.feed_forward.wi(x))
    return layer.feed_forward_norm(x + layer.feed_forward.wo(hidden))


def slow_stack(stack: torch.nn.Module, tokens: Tensor, memory: Tensor | None = None) -> Tensor:
    embeddings = stack.embeddings
    x = embeddings.norm(embeddings.tokens(tokens) + embeddings.positions.weight[: len(tokens)])
    for number, layer in enumerate(stack.layers):
        table = stack.relative_biases[number].table.weight if len(stack.relative_biases) else None
        x = slow_layer(layer, x, table, memory)
    return x


def slow_loss(model: MetroT5, batch: PretrainingBatch) -> Tensor:
    """Equations 10 to 13, one example and one position at a time, each text without its padding."""
    assert batch.masked_tokens is not None
    assert batch.masked_positions is not None
    assert batch.sample_uniforms is not None
    embedding = model.main.encoder.embeddings.tokens.weight
    width = batch.source_tokens.size(1)
    uniforms = dict(zip(batch.masked_positions.tolist(), batch.sample_uniforms.tolist(), strict=True))
    mlm, rtd, clm = [], [], []
    for row, original in enumerate(batch.source_tokens):
        original = original[original != PAD]
        length = len(original)
        masked_here = [p for p in range(length) if row * width + p in uniforms]
        hidden = slow_stack(model.auxiliary.stack, batch.masked_tokens[row, :length])
        noised = original.clone()
        for p in masked_here:
            probabilities = (hidden[p] @ embedding.t() + model.auxiliary.bias).softmax(-1)
            mlm.append(-probabilities[original[p]].log())
            total, threshold = 0.0, uniforms[row * width + p]
            for token, probability in enumerate(probabilities.detach().float().tolist()):
                total += probability
                if total > threshold:
                    noised[p] = token
                    break
        encoded = slow_stack(model.main.encoder, noised)
        head = model.rtd_head
        for p in range(length):
            logit = head.out(head.norm(torch.relu(head.dense(encoded[p]))))[0]
            p_replaced = torch.sigmoid(logit)
            rtd.append(-(p_replaced if noised[p] != original[p] else 1 - p_replaced).log())
        shifted = torch.cat((torch.tensor([WORDS]), original[:-1]))
        decoded = slow_stack(model.main.decoder, shifted, encoded)
        for p in masked_here:
            clm.append(-(decoded[p] @ embedding.t()).softmax(-1)[original[p]].log())
    return torch.stack(mlm).mean() + 50 * torch.stack(rtd).mean() + torch.stack(clm).mean()


def fast_loss(model: MetroT5, batch: PretrainingBatch) -> Tensor:
    output = model(batch)
    return metro_loss({name: part.mean for name, part in loss_parts(batch, output).items()})


@contextmanager
def losses_in_double() -> Iterator[None]:
    """The library computes losses in fp32; let `.float()` keep float64 so that the comparison is not about rounding."""
    plain = Tensor.float
    Tensor.float = lambda self: self if self.dtype == torch.float64 else plain(self)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Tensor.float = plain  # type: ignore[method-assign]


def test_loss_and_gradients_equal_equations_10_to_13_in_float64() -> None:
    batch = make_batch()
    slow, fast = make_model().double(), make_model().double()
    expected = slow_loss(slow, batch)
    expected.backward()
    with losses_in_double():
        loss = fast_loss(fast, batch)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    reference = dict(slow.named_parameters())
    for name, parameter in fast.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, reference[name].grad, rtol=1e-6, atol=1e-9, msg=lambda m: name + m)  # noqa: B023


@pytest.mark.parametrize("name", ["demo", "tiny"])
def test_initial_cross_entropies_are_those_of_a_uniform_guess(name: str) -> None:
    torch.manual_seed(0)
    model = MetroT5(preset(name, vocab_size=4000 + 128), PAD)
    tokens = np.random.default_rng(0).integers(4, 4000, (8, 64))
    words = WordIds(PAD, 4000, 4, 4000)
    batch = MetroBatches(MaskingConfig(), words, 4000)(tokens, range(8), Stream(1, 1))
    output = model(batch)
    uniform = math.log(4128)
    assert mlm_loss(output).mean.item() == pytest.approx(uniform, rel=0.05)
    assert clm_loss(batch, output).mean.item() == pytest.approx(uniform, rel=0.05)
    assert rtd_loss(output).mean.item() == pytest.approx(math.log(2), rel=0.05)


GOLDEN = [43.241, 42.023, 38.971, 36.219, 33.355, 31.085, 27.893, 25.46]


def test_golden_losses_of_a_fixed_tiny_run() -> None:
    """Refactoring must not move these numbers (CPU, fp32, seed 0; tolerance for other BLAS libraries)."""
    torch.manual_seed(0)
    model = MetroT5(SMALL.replace(dropout=0.1, attention_dropout=0.1), PAD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-6, betas=(0.9, 0.98))
    batch = make_batch()
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = fast_loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(round(loss.item(), 3))
    assert losses == pytest.approx(GOLDEN, abs=2e-3)


def test_every_parameter_is_trained_and_the_loss_falls() -> None:
    model, batch = make_model(), make_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = last = None
    for _ in range(30):
        optimizer.zero_grad()
        last = fast_loss(model, batch)
        last.backward()
        optimizer.step()
        first = first if first is not None else last.item()
    assert last is not None
    assert last.item() < 0.6 * first
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_samples_follow_the_softmax() -> None:
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -30.0]).repeat(40_000, 1)
    uniforms = torch.from_numpy(Stream(1, 1).uniforms("sample", range(400), 100)).flatten()
    counts = torch.bincount(sample_tokens(logits, uniforms), minlength=5)
    expected = 40_000 * logits[0].softmax(-1)
    chi_square = ((counts - expected)[:4].square() / expected[:4]).sum()
    assert chi_square < 16.3  # 99.9% quantile with 3 degrees of freedom
    assert counts[4] == 0


def test_sampling_never_leaves_the_vocabulary() -> None:
    logits = torch.randn(50, 33)
    assert int(sample_tokens(logits, torch.ones(50) - 2**-24).max()) <= 32
    assert torch.equal(sample_tokens(torch.eye(33)[:5] * 1e4, torch.full((5,), 0.5)), torch.arange(5))


@settings(max_examples=40, deadline=None)
@given(vocabulary=st.integers(1, 700), rows=st.integers(0, 5), seed=st.integers(0, 999))
def test_sampling_inverts_the_cumulative_distribution(vocabulary: int, rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, vocabulary, generator=generator)
    uniforms = torch.rand(rows, generator=generator)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    for token, row, number in zip(sample_tokens(logits, uniforms).tolist(), cumulative, uniforms, strict=True):
        below = row[token - 1].item() if token else 0.0
        assert below - 1e-6 <= number.item() <= row[token].item() + 1e-6


def test_compiled_layers_are_not_left_uncompiled_after_eight_graphs() -> None:
    from torch._dynamo import config as dynamo

    with dynamo.patch(recompile_limit=8, optimize_ddp=True):
        MetroT5(preset("demo", vocab_size=300, compile_layers=True), PAD)
        assert dynamo.recompile_limit >= 64
        assert not dynamo.optimize_ddp


def test_sampling_never_leaves_the_vocabulary_where_logits_are_not_numbers() -> None:
    """Else a GPU dies of it, where fairseq would say what happened."""
    logits = torch.full((2, 1_000), torch.nan)
    assert sample_tokens(logits, torch.tensor([0.0, 0.9])).max() < 1_000


def test_sampling_does_not_depend_on_the_rows_beside() -> None:
    logits, uniforms = torch.randn(40, 300), torch.rand(40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CPU_ELEMENTS", 900)
        few = sample_tokens(logits, uniforms)
    assert torch.equal(few, sample_tokens(logits, uniforms))


def test_activation_checkpointing_changes_no_gradient() -> None:
    batch, gradients = make_batch(), []
    for flag in (False, True):
        model = make_model(activation_checkpointing=flag)
        fast_loss(model, batch).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_compiled_layers_change_no_gradient() -> None:
    batch, gradients = make_batch(), []
    counters = torch._dynamo.utils.counters
    counters.clear()
    for flag in (False, True):
        encoder = make_model(compile_layers=flag).main.encoder
        encoder(batch.source_tokens, batch.source_tokens != PAD).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    for plain, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, compiled, rtol=1e-4, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1, "both layers share one graph"
    assert not counters["graph_break"]


def test_layers_are_compiled_twice_for_any_number_of_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    encoder = make_model(compile_layers=True).main.encoder
    for length in (12, 9, 7, 11, 10):
        tokens = make_batch(length=length).source_tokens
        encoder(tokens, tokens != PAD)
    assert counter.frame_count == 2


def test_a_batch_without_padding_may_skip_the_masking() -> None:
    model, batch = make_model(), make_batch()
    batch.source_tokens[1, -4:] = 9  # what is masked stays as it was
    assert batch.has_padding
    slow = fast_loss(model, batch)
    batch.has_padding = False
    torch.testing.assert_close(fast_loss(model, batch), slow)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_and_finite(dtype: torch.dtype) -> None:
    batch = make_batch()
    reference = fast_loss(make_model(), batch)
    loss = fast_loss(make_model().to(dtype), batch)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference, rtol=0.05, atol=0.0)


def test_padding_changes_nothing() -> None:
    model = make_model()
    batch = make_batch()
    wider = make_batch()
    columns = batch.source_tokens.size(1)

    def widen(tokens: Tensor) -> Tensor:
        return torch.cat((tokens, torch.full((3, 5), PAD)), 1)

    def move(positions: Tensor) -> Tensor:
        return positions // columns * (columns + 5) + positions % columns

    assert wider.masked_tokens is not None
    assert wider.masked_positions is not None
    wider.source_tokens, wider.masked_tokens = widen(wider.source_tokens), widen(wider.masked_tokens)
    wider.decoder_input = widen(wider.decoder_input)
    wider.masked_positions, wider.clm_positions = move(wider.masked_positions), move(wider.clm_positions)
    torch.testing.assert_close(fast_loss(model, batch), fast_loss(model, wider))


@pytest.mark.parametrize("backend", ["sdpa", "eager", "flex"])
@torch.no_grad()
def test_documents_in_one_row_are_as_if_each_stood_alone(backend: str) -> None:
    model = make_model(attention_backend=backend)
    lengths, width = [5, 1, 4], 12
    row = torch.randint(4, WORDS, (1, width))
    documents = torch.tensor([[1] * 5 + [2] + [3] * 4 + [0] * 2])
    shifted = torch.randint(4, WORDS, (1, width))
    decoded, encoded = model.main(row, shifted, documents)
    hidden = model.auxiliary.stack(row, documents)
    begin = 0
    for length in lengths:
        here = slice(begin, begin + length)
        alone_decoded, alone_encoded = model.main(row[:, here], shifted[:, here])
        torch.testing.assert_close(decoded[:, here], alone_decoded, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoded[:, here], alone_encoded, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(hidden[:, here], model.auxiliary.stack(row[:, here]), atol=1e-5, rtol=1e-5)
        begin += length


def test_documents_end_at_the_second_end_token() -> None:
    words = WordIds(pad_id=PAD, mask_id=WORDS, first_word=4, end_of_words=WORDS)
    make = MetroBatches(MaskingConfig(), words, WORDS, document_end=2)
    tokens = np.array([[0, 5, 2, 6, 2, 2, 7, 2, 2, 8], [0, 5, 2, 2, 2, 6, PAD, PAD, PAD, PAD]])
    batch = make(tokens, [0, 1], Stream(1, 1))
    assert batch.documents is not None
    assert batch.documents.tolist() == [[1, 1, 1, 1, 1, 1, 2, 2, 2, 3], [1, 1, 1, 1, 2, 3, 0, 0, 0, 0]]
    loss = fast_loss(make_model(), batch)
    loss.backward()
    assert math.isfinite(loss.item())


def test_metrics_count_by_hand() -> None:
    batch = make_batch()
    output = make_model()(batch)
    metrics = {name: (int(hits), int(n)) for name, (hits, n) in pretraining_metrics(batch, output).items()}
    assert output.noise is not None
    assert "rtd_head" in output.heads
    assert batch.masked_positions is not None
    replaced = {p for p in range(36) if bool(output.replaced.flatten()[p])}
    assert replaced <= set(batch.masked_positions.tolist())
    detected = {p for p in range(36) if output.heads["rtd_head"].flatten()[p].item() > 0}
    real = {p for p in range(36) if int(batch.source_tokens.flatten()[p]) != PAD}
    assert metrics["replacement_rate"] == (len(replaced), len(batch.masked_positions))
    assert metrics["rtd_recall"] == (len(detected & replaced), len(replaced))
    assert metrics["rtd_specificity"] == (len(real - replaced - detected), len(real - replaced))
