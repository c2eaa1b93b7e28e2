"""fairseq's fp32 copies beside 16-bit weights, all tensors at a time.

fairseq copies and clears them one by one in Python: under --bf16 some 600 small kernels for each of three loops at base
size, by estimate a tenth of a step on a fast GPU. The same is done here in a few. (Under --fp16 fairseq keeps one flat
copy.)
"""

from __future__ import annotations

from typing import Any

import torch
from fairseq.optim.fp16_optimizer import FP16Optimizer, _FP16OptimizerMixin


def install() -> None:
    """Replace the three loops."""
    FP16Optimizer._sync_fp16_grads_to_fp32 = gradients_to_fp32
    FP16Optimizer._sync_fp32_params_to_fp16 = weights_to_16_bit
    FP16Optimizer.zero_grad = zero_grad


def gradients_to_fp32(self: Any) -> None:
    """Copy the gradients of the weights to those of their fp32 copies, zero where there is none."""
    if self.has_flat_params:
        _FP16OptimizerMixin._sync_fp16_grads_to_fp32(self)
        return
    if not self._needs_sync:
        return
    pairs = [(p, p32) for p, p32 in zip(self.fp16_params, self.fp32_params, strict=True) if p.requires_grad]
    for _, p32 in pairs:
        if p32.grad is None:
            p32.grad = torch.zeros_like(p32)
    if missing := [p32.grad for p, p32 in pairs if p.grad is None]:
        torch._foreach_zero_(missing)
    if found := [(p, p32) for p, p32 in pairs if p.grad is not None]:
        torch._foreach_copy_([p32.grad for _, p32 in found], [p.grad for p, _ in found])
    self._needs_sync = False


@torch.no_grad()
def weights_to_16_bit(self: Any) -> None:
    """Copy the updated fp32 weights into the model."""
    if self.has_flat_params:
        _FP16OptimizerMixin._sync_fp32_params_to_fp16(self)
        return
    pairs = [(p, p32) for p, p32 in zip(self.fp16_params, self.fp32_params, strict=True) if p.requires_grad]
    torch._foreach_copy_([p for p, _ in pairs], [p32 for _, p32 in pairs])


def zero_grad(self: Any) -> None:
    """Drop the gradients of the weights and clear those of their fp32 copies."""
    if self.has_flat_params or self.scaler is not None:
        _FP16OptimizerMixin.zero_grad(self)
        return
    for p in self.fp16_params:
        p.grad = None
    if gradients := [p32.grad for p32 in self.fp32_params if p32.grad is not None]:
        torch._foreach_zero_(gradients)
    self._multiply_factor = 1.0  # an optimizer that takes it as its scale leaves it
    self._needs_sync = False
