"""Initial weights of vanilla T5: T5X's distributions, which differ from Hugging Face's in three kinds of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from metro_t0.modeling import MetroT5, preset
from metro_t0.transfer.roles import roles_of

D_MODEL, FFN, HEADS, HEAD_DIM, BUCKETS = 256, 512, 8, 32, 32
# Standard deviation of every kind of tensor, from fan-in and head size.
DEVIATIONS = {
    "embedding": 1.0,
    "head": D_MODEL**-0.5,
    "q": (D_MODEL * HEAD_DIM) ** -0.5,
    "k": D_MODEL**-0.5,
    "v": D_MODEL**-0.5,
    "o": (HEADS * HEAD_DIM) ** -0.5,
    "mlp_in": D_MODEL**-0.5,
    "mlp_gate": D_MODEL**-0.5,
    "mlp_out": FFN**-0.5,
}


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """All weights of each kind of a gated T5 with an untied head, flattened together."""
    torch.manual_seed(0)
    config = preset(
        "t5_small", vocab_size=600, d_model=D_MODEL, ffn_dim=FFN, num_heads=HEADS, head_dim=HEAD_DIM,
        relative_buckets=BUCKETS, gated_ffn=True, tied_head=False,
    )  # fmt: skip
    tensors = MetroT5(config, pad_id=1).state_dict()
    kinds: dict[str, list[np.ndarray]] = {}
    for name, role in roles_of(tensors).items():
        kinds.setdefault(role.kind, []).append(tensors[name].double().flatten().numpy())
    return {kind: np.concatenate(parts) for kind, parts in kinds.items()}


@pytest.mark.parametrize("kind", DEVIATIONS)
def test_deviation_of_every_kind(weights, kind):
    values, wanted = weights[kind], DEVIATIONS[kind]
    assert values.std() == pytest.approx(wanted, rel=5 / np.sqrt(len(values)))
    assert abs(values.mean()) < 5 * wanted / np.sqrt(len(values))


@pytest.mark.parametrize("kind", ["head", "mlp_in", "mlp_gate", "mlp_out"])
def test_feed_forward_weights_are_a_cut_normal(weights, kind):
    cut = stats.truncnorm(-2, 2)
    standardized = weights[kind][:20_000] / DEVIATIONS[kind] * cut.std()
    assert abs(standardized).max() < 2.0001
    assert stats.kstest(standardized, cut.cdf).pvalue > 1e-4


@pytest.mark.parametrize("kind", ["q", "k", "v", "o", "embedding"])
def test_attention_and_embeddings_are_not_cut(weights, kind):
    assert stats.kstest(weights[kind][:20_000] / DEVIATIONS[kind], "norm").pvalue > 1e-4


def test_relative_biases_are_uniform(weights):
    bound = np.sqrt(3 * 2 / (HEADS + BUCKETS))
    assert bound == pytest.approx(0.387, abs=5e-4)
    assert stats.kstest(weights["relative_bias"], stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-4


def test_norms_start_at_one(weights):
    for kind in ("attention_norm", "mlp_norm", "final_norm"):
        assert (weights[kind] == 1).all()


def test_the_released_initialization_is_that_of_its_code() -> None:
    """Linear weights by their rows, token embeddings as the output layer they are tied to, positions by their width."""
    torch.manual_seed(0)
    config = preset("tiny", vocab_size=33_024, initialization="released")
    model = MetroT5(config, pad_id=1)
    tokens = model.main.encoder.embeddings.tokens.weight
    positions = model.main.encoder.embeddings.positions.weight
    assert tokens.std().item() == pytest.approx(0.00389, rel=0.01)
    assert tokens.abs().max().item() > 4 * 0.00389  # normal
    assert positions.std().item() == pytest.approx(0.0442, rel=0.02)  # 1 / sqrt(2 d_model); there are 512 of them
    assert positions.abs().max().item() == pytest.approx(3**0.5 * 0.0442, rel=0.01)  # uniform
    assert model.main.encoder.layers[0].feed_forward.wi.weight.std().item() == pytest.approx(2048**-0.5, rel=0.01)
    assert model.main.encoder.layers[0].feed_forward.wo.weight.std().item() == pytest.approx(512**-0.5, rel=0.01)
    tables = {name: p for name, p in model.named_parameters() if name.endswith("table.weight")}
    assert {name.startswith("auxiliary") for name in tables} == {True, False}
    for name, table in tables.items():
        assert table.std().item() == pytest.approx(0.02 if name.startswith("auxiliary") else 0.0, rel=0.3)
