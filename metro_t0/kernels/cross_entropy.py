"""Cross-entropy per position in fp32, whatever the dtype of the logits, without an fp32 copy of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metro_t0.kernels.chunks import split_rows
from metro_t0.kernels.execution import fused


def token_losses(logits: Tensor, targets: Tensor, compiled: bool = False) -> Tensor:
    """(N, V) logits, (N,) target ids -> (N,) losses in nats, fp32 (float64 for float64 logits).

    The same as F.cross_entropy(logits.float(), targets, reduction="none"). That writes (N, V) fp32 three times and
    reads it as often; here log-sum-exp and gradient are computed chunk by chunk, and only the gradient is written, in
    the dtype of the logits. compiled: in one kernel each over all rows (torch.compile), in which a chunk's fp32 copies
    do not exist either.
    """
    losses: Tensor = _TokenLosses.apply(logits, targets, compiled)  # type: ignore[no-untyped-call]
    return losses


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, compiled: bool) -> Tensor:
        if compiled:
            normalizer = fused(_normalizer)(logits)
        else:
            normalizer = torch.cat([_normalizer(rows) for rows in split_rows(logits)])
        ctx.save_for_backward(logits, targets, normalizer)
        ctx.compiled = compiled
        return normalizer - logits.gather(-1, targets[:, None]).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """d loss / d logits = softmax - one hot."""
        logits, targets, normalizer = ctx.saved_tensors
        if ctx.compiled:
            return fused(_gradient)(logits, targets, normalizer, gradient), None, None
        result = torch.empty_like(logits)
        parts = (split_rows(result), *(split_rows(x, like=logits) for x in (logits, targets, normalizer, gradient)))
        for out, rows, target, total, factor in zip(*parts, strict=True):
            change = (_at_least_fp32(rows) - total[:, None]).exp_().mul_(factor[:, None])
            out.copy_(change.scatter_add_(-1, target[:, None], -factor[:, None]))
        return result, None, None


def _normalizer(logits: Tensor) -> Tensor:
    return _at_least_fp32(logits).logsumexp(-1)


def _gradient(logits: Tensor, targets: Tensor, normalizer: Tensor, gradient: Tensor) -> Tensor:
    """What the loop of `backward` computes, in a form that becomes one kernel: a scatter would need its fp32 copy."""
    one_hot = targets[:, None] == torch.arange(logits.size(-1), device=logits.device)
    softmax = (_at_least_fp32(logits) - normalizer[:, None]).exp()
    return ((softmax - one_hot.to(softmax.dtype)) * gradient[:, None]).to(logits.dtype)


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
