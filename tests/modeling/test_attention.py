"""Attention and relative positions against their definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention

from metro_t0.errors import UserError
from metro_t0.kernels.attend import BACKENDS, attend, bias_matrix
from metro_t0.modeling import preset
from metro_t0.modeling.attention import RelativeBias, symmetric_buckets, t5_buckets
from metro_t0.modeling.config import AttentionBackend


def attention_by_loops(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, valid: Tensor | None, causal: bool, scale: float
) -> Tensor:
    """One query of one head of one example at a time."""
    out = torch.zeros_like(q)
    queries, keys = q.size(2), k.size(2)
    for b in range(q.size(0)):
        for h in range(q.size(1)):
            for i in range(queries):
                seen = [
                    j
                    for j in range(keys)
                    if (valid is None or bool(valid[b, j])) and (not causal or j <= i + keys - queries)
                ]
                added = [0.0 if bias is None else bias[h, j - i + queries - 1] for j in seen]
                scores = torch.stack([scale * q[b, h, i] @ k[b, h, j] + a for j, a in zip(seen, added, strict=True)])
                out[b, h, i] = sum(p * v[b, h, j] for p, j in zip(scores.softmax(0), seen, strict=True))
    return out


@pytest.mark.parametrize("backend", ["sdpa", "flex", "eager"])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_padding", [False, True])
@pytest.mark.parametrize(("causal", "queries"), [(False, 5), (True, 5), (True, 2), (True, 1)])
def test_attention_equals_the_definition(
    backend: str, has_bias: bool, has_padding: bool, causal: bool, queries: int
) -> None:
    torch.manual_seed(0)
    keys = 5 if causal else 6
    q = torch.randn(2, 3, queries, 4, dtype=torch.float64)
    k, v = torch.randn(2, 2, 3, keys, 4, dtype=torch.float64).unbind(0)
    bias = torch.randn(3, queries + keys - 1, dtype=torch.float64) if has_bias else None
    valid = torch.ones(2, keys, dtype=torch.bool)
    valid[1, -2:] = False
    mask = valid if has_padding else None
    ours = attend(q, k, v, bias=bias, valid=mask, causal=causal, scale=0.5, backend=backend)  # type: ignore[arg-type]
    torch.testing.assert_close(
        ours.double(), attention_by_loops(q, k, v, bias, mask, causal, 0.5), atol=1e-5, rtol=1e-5
    )


def test_every_backend_that_a_model_may_name_is_there() -> None:
    assert BACKENDS.keys() == set(get_args(AttentionBackend))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["full", "padded", "documents"])
@pytest.mark.parametrize("keys", [16, 40])
def test_masks_suit_the_fused_attention_of_cuda(
    causal: bool, kind: str, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose mask must have neighboring keys side by side, rows at multiples of 8, and be as wide as the keys."""
    config = preset("tiny", relative_buckets=8, relative_max_distance=16)
    table = RelativeBias(config, bidirectional=not causal).to(torch.bfloat16)
    q, k, v = torch.randn(3, 2, config.num_heads, keys, config.head_dim, dtype=torch.bfloat16)
    valid = {"full": None, "padded": torch.arange(keys) < torch.tensor([[keys], [9]])}.get(
        kind, torch.ones(2, keys, dtype=torch.long)
    )
    masks = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(*tensors: Tensor, attn_mask: Tensor, **settings: Any) -> Tensor:
        masks.append(attn_mask)
        return real(*tensors, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    attend(q, k, v, bias=table(table.buckets_between(keys, keys)), valid=valid, causal=causal, scale=0.5)
    [mask] = masks
    assert mask.shape[-2:] == (keys, keys)
    assert mask.dtype == q.dtype
    assert mask.stride(-1) == 1
    assert all(stride % 8 == 0 for stride in mask.stride()[:-1])


def test_gradient_of_the_bias_is_not_added_up_in_half_precision() -> None:
    gradient = torch.rand(1, 4, 512, 512, generator=torch.Generator().manual_seed(0))
    found = []
    for dtype in (torch.float64, torch.bfloat16):
        by_distance = torch.zeros(4, 1_023, dtype=dtype, requires_grad=True)
        bias_matrix(by_distance, 512, 512).backward(gradient.to(torch.bfloat16).to(dtype))
        assert by_distance.grad is not None
        found.append(by_distance.grad.double())
    torch.testing.assert_close(found[1], found[0], rtol=5e-3, atol=0)  # one rounding


def test_gradient_of_the_bias_is_the_same_for_both_backends() -> None:
    shapes = [(2, 3, 7, 4)] * 3 + [(3, 13)]
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[0, 5:] = False
    gradients = []
    for backend in ("eager", "sdpa"):
        torch.manual_seed(1)
        q, k, v, bias = (torch.randn(s, requires_grad=True) for s in shapes)
        out = attend(q, k, v, bias=bias, valid=valid, causal=False, scale=0.5, backend=backend)  # type: ignore[arg-type]
        out.square().sum().backward()
        gradients.append([t.grad for t in (q, k, v, bias)])
    for reference, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-4)


def test_flex_attention_refuses_what_it_cannot_do() -> None:
    q = torch.randn(1, 1, 2, 4, requires_grad=True)
    with pytest.raises(UserError, match="trains on CUDA only"):
        attend(q, q, q, bias=None, valid=None, causal=False, scale=1.0, backend="flex")
    with pytest.raises(UserError, match="has no dropout"):
        preset("tiny", attention_backend="flex")


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (64, 128), (128, 256)])
def test_symmetric_buckets_match_the_released_tables(buckets: int, distance: int, spec_dir: Path) -> None:
    table = np.load(spec_dir / f"relative_buckets_{buckets}_{distance}.npy")
    ours = symmetric_buckets(torch.arange(-1023, 1024), buckets, distance)
    np.testing.assert_array_equal(ours.numpy(), table)


@given(distance=st.integers(0, 5000), buckets=st.sampled_from([8, 32, 64]))
def test_symmetric_buckets_mirror_by_sign_and_grow_with_distance(distance: int, buckets: int) -> None:
    here, there, further = symmetric_buckets(torch.tensor([distance, -distance, distance + 1]), buckets, 128).tolist()
    center = buckets // 2 - 1
    assert here - center == center - there
    assert here <= further <= buckets - 2
    if distance <= buckets // 4:
        assert here - center == distance


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_buckets_equal_hugging_face(bidirectional: bool) -> None:
    distances = torch.arange(-600, 601)
    expected = T5Attention._relative_position_bucket(distances, bidirectional, 32, 128)
    assert torch.equal(t5_buckets(distances, bidirectional, 32, 128), expected)


@settings(max_examples=25, deadline=None)
@given(keys=st.integers(1, 40), back=st.integers(0, 39))
def test_relative_bias_is_the_table_at_the_bucket_of_each_distance(keys: int, back: int) -> None:
    queries = max(1, keys - back)  # the queries are the last positions of the keys
    bias = RelativeBias(preset("tiny", relative_buckets=8, relative_max_distance=16), bidirectional=True)
    torch.nn.init.normal_(bias.table.weight)
    matrix = bias_matrix(bias(bias.buckets_between(queries, keys)), queries, keys)
    assert matrix.shape == (1, 4, queries, keys)
    for i in range(queries):
        for j in range(keys):
            distance = j - (i + keys - queries)
            expected = bias.table.weight[bias.buckets(torch.tensor(distance))]
            torch.testing.assert_close(matrix[0, :, i, j], expected)


def test_half_precision_padding_stays_finite() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        q, k, v = (torch.randn(1, 2, 4, 8).to(dtype) for _ in range(3))
        valid = torch.tensor([[True, True, False, False]])
        out = attend(q, k, v, bias=torch.zeros(2, 7), valid=valid, causal=False, scale=8**-0.5)
        expected = attend(q[:, :, :, :], k[:, :, :2], v[:, :, :2], bias=None, valid=None, causal=False, scale=8**-0.5)
        assert math.isfinite(float(out.float().abs().max()))
        torch.testing.assert_close(out, expected, atol=2e-2, rtol=2e-2)
