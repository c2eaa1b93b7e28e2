"""Muon for the hidden matrices, torch's fused AdamW for everything else (`--optimizer muon`).

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) steps along the momentum with all its singular
values brought near 1 by five Newton-Schulz iterations. The update rule and its options are those of `torch.optim.Muon`.
Three things differ: matrices of one shape (or of its transpose) are iterated as one batch; a CPU that would emulate
bfloat16 iterates in float32; and both kinds of parameters live in one optimizer, so that fairseq's checkpoints, 16-bit
wrappers and schedulers see one.
"""

# fairseq reads the types of dataclass fields at run time: no `from __future__ import annotations` here.
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.optim import FairseqOptimizer, register_optimizer
from torch import Tensor

from fairseq_plugins.errors import clear_errors
from fairseq_plugins.optim.fused_adamw import FusedAdamW, FusedAdamWConfig, ScalingAdamW
from metro_t0.errors import UserError
from metro_t0.options import option

HIDDEN_MATRICES = "hidden_matrices"
"""`param_group` (fairseq's attribute, which its fp32 copies keep) of the parameters that Muon updates."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: the steepest at 0 that keeps singular values within about 0.7 to 1.2."""
SMALLEST_NORM = 1e-7
BATCH_ELEMENTS = 1 << 26
"""Numbers iterated at once: a bound on memory, far above what fills a device."""

AdjustLr = ChoiceEnum(("original", "match_rms_adamw"))


@dataclass
class MuonConfig(FusedAdamWConfig):
    """Options of `--optimizer muon`: those of fused_adamw for embeddings, heads, norms and biases; Muon's own."""

    muon_lr: float = option(
        0.02, "peak learning rate of the hidden matrices; follows the scheduler in proportion to --lr", at_least=0
    )
    muon_momentum: float = option(0.95, "momentum of the hidden matrices", at_least=0, below=1)
    muon_plain_momentum: bool = option(False, "plain instead of Nesterov momentum")
    muon_weight_decay: float = option(0.0, "decoupled weight decay of the hidden matrices", at_least=0, at_most=1000)
    muon_steps: int = option(5, "Newton-Schulz iterations", at_least=1, at_most=100)
    muon_adjust_lr: AdjustLr = option(  # type: ignore[valid-type]
        "original",
        "factor on --muon-lr by the shape of a matrix: original sqrt(max(1, rows / columns)), or "
        "match_rms_adamw 0.2 sqrt(max(rows, columns)), which suits rates found for AdamW",
    )


@register_optimizer("muon", dataclass=MuonConfig)
class Muon(FusedAdamW):
    """fairseq's optimizer. `--lr` and what is logged as lr is the rate of AdamW's parameters."""

    @clear_errors()
    def __init__(self, cfg: MuonConfig, params: Iterable[torch.nn.Parameter]) -> None:
        FairseqOptimizer.__init__(self, cfg)
        params = list(params)
        matrices = [p for p in params if getattr(p, "param_group", None) == HIDDEN_MATRICES]
        if not matrices:
            raise UserError(
                "--optimizer muon found no hidden matrices: it trains the models of metro_t0 (--arch metro_t5...) and "
                "needs every matrix as it is; under --fp16 add --fp16-no-flatten-grads"
            )
        peak = self.optimizer_config["lr"]
        if peak <= 0:
            raise UserError(f"--optimizer muon needs a positive --lr (AdamW's peak rate, now {peak}): see --muon-lr")
        self.ratio = cfg.muon_lr / peak
        chosen = set(matrices)
        self._optimizer = MuonWithAdamW(
            [p for p in params if p not in chosen],
            matrices,
            self.optimizer_config,
            lr=cfg.muon_lr,
            momentum=cfg.muon_momentum,
            nesterov=not cfg.muon_plain_momentum,
            weight_decay=cfg.muon_weight_decay,
            ns_steps=cfg.muon_steps,
            adjust_lr_fn=str(cfg.muon_adjust_lr),
        )

    def set_lr(self, lr: float) -> None:
        """Both rates: AdamW's is the scheduler's, Muon's keeps its proportion to it."""
        for group in self.param_groups:
            group["lr"] = lr * self.ratio if group[HIDDEN_MATRICES] else lr

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """fairseq's; an `lr` of --optimizer-overrides is AdamW's."""
        super().load_state_dict(state_dict, optimizer_overrides)
        self.set_lr(self.get_lr())

    @property
    def supports_flat_params(self) -> bool:
        """No: an update belongs to a matrix."""
        return False


class MuonWithAdamW(ScalingAdamW):
    """torch's fused AdamW with one more group of parameters, the matrices that Muon updates."""

    def __init__(
        self, rest: Sequence[Tensor], matrices: Sequence[Tensor], adamw_settings: dict[str, Any], **muon_settings: Any
    ) -> None:
        groups = [
            {"params": rest, HIDDEN_MATRICES: False},
            {"params": matrices, HIDDEN_MATRICES: True, **muon_settings},
        ]
        super().__init__([group for group in groups if group["params"]], fused=True, **adamw_settings)
        self._step_supports_amp_scaling = False  # under --amp, torch shall unscale and skip for both kinds

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, scale: Tensor | float = 1.0) -> Any:
        """One update of both kinds with gradients / scale."""
        groups, bad = self.param_groups, self.bad
        self.param_groups = [group for group in groups if not group[HIDDEN_MATRICES]]
        try:
            loss = super().step(closure, scale)
        finally:
            self.param_groups = groups
        for group in groups:
            if group[HIDDEN_MATRICES]:
                self._step_matrices(group, scale, bad)
        return loss

    def _step_matrices(self, group: dict[str, Any], scale: Tensor | float, bad: Tensor | None) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if not self.state[p]:  # torch's AdamW wants a count in every state that it loads
                self.state[p] = {"step": torch.zeros((), device=p.device), "momentum_buffer": torch.zeros_like(p)}
        gradients: list[Tensor] = [p.grad for p in params]
        if isinstance(scale, Tensor) or scale != 1:
            gradients = list(torch._foreach_div(gradients, scale))
        momenta = [self.state[p]["momentum_buffer"] for p in params]
        steps = [self.state[p]["step"] for p in params]
        alive: Tensor | float = 1.0
        if bad is not None:  # where it is 1, nothing below changes anything
            alive = 1 - bad
            torch._foreach_sub_(steps, [bad] * len(steps))
            gradients = [torch.where(bad > 0, m, g) for m, g in zip(momenta, gradients, strict=True)]
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"] * alive)
        for indices in equal_shapes(params):
            directions = orthogonalized([updates[i] for i in indices], group["ns_steps"])
            for i, direction in zip(indices, directions, strict=True):
                rate = group["lr"] * rate_factor(group["adjust_lr_fn"], params[i].shape)
                params[i].add_(direction * alive, alpha=-rate)


def equal_shapes(matrices: list[Tensor]) -> list[list[int]]:
    """Indices of the matrices that may be iterated as one batch: equal or transposed shapes, on one device."""
    kinds: dict[Any, list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        kinds[matrix.device, *sorted(matrix.shape)].append(index)
    batches = []
    for indices in kinds.values():
        size = max(1, BATCH_ELEMENTS // max(1, matrices[indices[0]].numel()))
        batches += [indices[begin : begin + size] for begin in range(0, len(indices), size)]
    return batches


def rate_factor(rule: str, shape: torch.Size) -> float:
    """What the rate of a (rows, columns) matrix is multiplied by (`torch.optim.Muon`, adjust_lr_fn)."""
    rows, columns = shape
    return 0.2 * math.sqrt(max(rows, columns)) if rule == "match_rms_adamw" else math.sqrt(max(1, rows / columns))


def iteration_dtype(device_type: str) -> torch.dtype:
    """bfloat16, as the authors iterate; float32 on a CPU that only emulates it, which takes 2.4 times as long."""
    native = device_type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def orthogonalized(matrices: list[Tensor], steps: int) -> list[Tensor]:
    """Every matrix with its singular values brought near 1; all have the same shape, or its transpose."""
    wide = torch.stack([m if m.size(0) <= m.size(1) else m.t() for m in matrices])
    wide = wide.to(iteration_dtype(wide.device.type))
    wide /= torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True).clamp(min=SMALLEST_NORM)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return [w if m.size(0) <= m.size(1) else w.t() for m, w in zip(matrices, wide.to(matrices[0].dtype), strict=True)]
