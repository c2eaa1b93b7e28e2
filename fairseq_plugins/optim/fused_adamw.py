"""torch's fused AdamW: one pass over each tensor, on CPU and CUDA, with the options of fairseq's adam."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from fairseq_plugins.errors import clear_errors
from metro_t0.errors import UserError


@dataclass
class FusedAdamWConfig(FairseqAdamConfig):
    """The options of fairseq's adam (betas, epsilon, decoupled weight decay)."""


class ScalingAdamW(torch.optim.AdamW):
    """torch's AdamW that divides the gradients by a scale in its kernel, where fairseq would go over all of them."""

    supports_step_with_scale = True
    """fairseq's question: then its 16-bit wrapper hands over sample size, clipping and loss scale as one number."""
    bad: Tensor | None = None
    """1 where the next step shall change nothing, 0 where it shall; of any device, and never read back."""

    def step(self, closure: Callable[[], Any] | None = None, scale: Tensor | float = 1.0) -> Any:
        """One update with gradients / scale; no value is read back."""
        known: dict[str, Tensor] = {}  # where torch's GradScaler puts them
        if isinstance(scale, Tensor):
            known["grad_scale"] = scale.float()
        elif scale != 1:
            device = self.param_groups[0]["params"][0].device
            known["grad_scale"] = torch.full((), scale, dtype=torch.float32, device=device)
        if self.bad is not None:
            known["found_inf"], self.bad = self.bad, None
        vars(self).update(known)
        try:
            return super().step(closure)
        finally:
            for name in known:
                delattr(self, name)


@register_optimizer("fused_adamw", dataclass=FusedAdamWConfig)
class FusedAdamW(FairseqAdam):
    """Same update rule as fairseq's adam; `scripts/benchmarks/pretrain.py --optimizers` compares the two."""

    def __init__(self, cfg: FusedAdamWConfig, params: Iterable[torch.nn.Parameter]) -> None:
        FairseqOptimizer.__init__(self, cfg)
        self._optimizer = ScalingAdamW(params, fused=True, **self.optimizer_config)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """fairseq's, with the norms of all gradients in one kernel (fairseq wants NVIDIA's apex for that)."""
        parameters = [p for p in self.params if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        if aggregate_norm_fn is not None:
            norm = aggregate_norm_fn(norm)
        if max_norm > 0:
            clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def skip_unless(self, good: Tensor) -> None:
        """Let the next step change nothing where `good`, a truth value that is on the device, is false."""
        self._optimizer.bad = good.logical_not().float()

    @property
    def supports_flat_params(self) -> bool:
        """The update is elementwise, so it may run on one flat copy of all parameters (fp16)."""
        return True

    @property
    @clear_errors()
    def supports_memory_efficient_fp16(self) -> bool:
        """No: torch keeps the moments in the dtype of the weights. fairseq asks only where that mode was chosen."""
        raise UserError(
            "--memory-efficient-fp16 and --memory-efficient-bf16 need fp32 moments beside 16-bit weights, which "
            "--optimizer fused_adamw and muon do not keep: use --optimizer adam, or plain --fp16 / --bf16"
        )
