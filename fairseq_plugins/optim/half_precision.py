"""fairseq's training in 16 bits: its fp32 copies of the weights, and the loss scale of --amp.

fairseq copies and clears the copies one by one in Python: under --bf16 some 600 small kernels for each of three loops
at base size, by estimate a tenth of a step on a fast GPU. The same is done here in a few. (Under --fp16 fairseq keeps
one flat copy.) It also leaves them out of its checkpoints, so that every restart would round the weights to 16 bits,
and the loss scale of --amp, so that small gradients would be lost until it has grown again.
"""

from __future__ import annotations

from typing import Any

import torch
from fairseq.optim import FairseqOptimizer
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer, _FP16OptimizerMixin
from torch import Tensor

COPIES = "fp32_params"
"""The fp32 copies in an optimizer's state, in the order of the weights."""
SCALER = "loss_scaler"
"""The state of --amp's loss scaler there."""


def install() -> None:
    """Replace the three loops, keep the copies in checkpoints, and unscale gradients once."""
    FP16Optimizer._sync_fp16_grads_to_fp32 = gradients_to_fp32
    FP16Optimizer._sync_fp32_params_to_fp16 = weights_to_16_bit
    FP16Optimizer.zero_grad = zero_grad
    FP16Optimizer.state_dict, FP16Optimizer.load_state_dict = state_with_copies, load_with_copies
    AMPOptimizer.step = step_unscaled
    AMPOptimizer.state_dict, AMPOptimizer.load_state_dict = state_with_scale, load_with_scale


def complete(cfg: Any) -> None:
    """What the options for 16 bits imply, which fairseq does for its command line alone, and a schedule under --bf16.

    fairseq asks for --fp16-scale-window there, though nothing is scaled.
    """
    common = cfg.common
    common.fp16 |= common.memory_efficient_fp16
    common.bf16 |= common.memory_efficient_bf16
    if common.bf16 and common.fp16_scale_window is None and len(cfg.optimization.update_freq) > 1:
        common.fp16_scale_window = 1


def state_with_copies(self: Any) -> dict[str, Any]:
    """fairseq's state of the optimizer, and the fp32 copies."""
    return {**_FP16OptimizerMixin.state_dict(self), COPIES: [copy.detach() for copy in _copies(self)]}


@torch.no_grad()
def load_with_copies(self: Any, state: dict[str, Any], optimizer_overrides: Any = None) -> None:
    """The inverse; a copy that does not round to the model's weight (of other weights with this state) is not taken."""
    _FP16OptimizerMixin.load_state_dict(self, state, optimizer_overrides)
    for own, saved in zip(_copies(self), state.get(COPIES, ()), strict=False):
        if own.shape == saved.shape:
            saved = saved.to(own.device)
            own.copy_(torch.where(saved.to(self.fp16_params[0].dtype).float() == own, saved, own))


def _copies(optimizer: Any) -> list[Tensor]:
    """Fresh ones are the model's weights in fp32."""
    copies = optimizer.fp32_params
    return list(copies.values() if isinstance(copies, dict) else copies)


def step_unscaled(self: Any) -> None:
    """One update under --amp. `clip_grad_norm` has divided the gradients of the wrapped optimizer by the loss scale.

    fairseq names another object here, for which torch would divide them once more: Adam's epsilon, and with other
    optimizers the rate, would be as many times too large as the loss is scaled.
    """
    self.scaler.step(self.optimizer)
    self.scaler.update()


def state_with_scale(self: Any) -> dict[str, Any]:
    """fairseq's state of the optimizer under --amp, and the scaler's."""
    return {**FairseqOptimizer.state_dict(self), SCALER: self.scaler.state_dict()}


def load_with_scale(self: Any, state: dict[str, Any], optimizer_overrides: Any = None) -> None:
    """The inverse."""
    FairseqOptimizer.load_state_dict(self, state, optimizer_overrides)
    if scaler := state.get(SCALER):
        self.scaler.load_state_dict(scaler)


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
