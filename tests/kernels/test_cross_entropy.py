"""Chunked cross-entropy against torch's own, in value, gradient and memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from metro_t0.kernels import chunks
from metro_t0.kernels.cross_entropy import token_losses
from metro_t0.kernels.sampling import sample_tokens


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 9), vocabulary=st.integers(1, 50), elements=st.integers(1, 200), seed=st.integers(0, 999))
def test_losses_and_gradients_equal_torch(rows: int, vocabulary: int, elements: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (5 * torch.randn(rows, vocabulary, generator=generator)).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator)
    expected = F.cross_entropy(logits, targets, reduction="none")
    (gradient,) = torch.autograd.grad((expected * weights).sum(), logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CPU_ELEMENTS", elements)
        losses = token_losses(logits, targets)
        (ours,) = torch.autograd.grad((losses * weights).sum(), logits)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(ours, gradient)


def test_compiled_losses_and_samples_are_the_same() -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(400, 300)).bfloat16()
    targets, weights, uniforms = torch.randint(300, (400,)), torch.randn(400), torch.rand(400)
    found = []
    for compiled in (False, True):
        leaf = logits.clone().requires_grad_()
        losses = token_losses(leaf, targets, compiled)
        found.append([losses, *torch.autograd.grad((losses * weights).sum(), leaf)])
        assert [x.dtype for x in found[-1]] == [torch.float32, torch.bfloat16]
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other)
    samples = [sample_tokens(logits, uniforms, compiled) for compiled in (False, True)]
    assert (samples[0] != samples[1]).sum() <= 1  # a number on the border of two tokens


def test_the_gradient_is_that_of_finite_differences() -> None:
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: token_losses(x, torch.tensor([0, 6, 3])), (logits,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_fp32(dtype: torch.dtype) -> None:
    logits = (4 * torch.randn(6, 3000)).to(dtype).requires_grad_()
    targets = torch.arange(6)
    losses = token_losses(logits, targets)
    losses.sum().backward()
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, F.cross_entropy(logits.float(), targets, reduction="none"))
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    one_hot = F.one_hot(targets, 3000)
    torch.testing.assert_close(logits.grad.float(), logits.detach().float().softmax(-1) - one_hot, atol=4e-3, rtol=1e-2)
