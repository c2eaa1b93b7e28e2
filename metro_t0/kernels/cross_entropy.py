"""Cross-entropy per position in fp32, whatever the dtype of the logits, without an fp32 copy of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metro_t0.kernels.chunks import split_rows


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(N, V) logits, (N,) target ids -> (N,) losses in nats, fp32 (float64 for float64 logits).

    The same as F.cross_entropy(logits.float(), targets, reduction="none"). That writes (N, V) fp32 three times and
    reads it as often; here log-sum-exp and gradient are computed chunk by chunk, and only the gradient is written, in
    the dtype of the logits.
    """
    return _TokenLosses.apply(logits, targets)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        normalizer = torch.cat([_at_least_fp32(rows).logsumexp(-1) for rows in split_rows(logits)])
        ctx.save_for_backward(logits, targets, normalizer)
        return normalizer - logits.gather(-1, targets[:, None]).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """d loss / d logits = softmax - one hot."""
        logits, targets, normalizer = ctx.saved_tensors
        result = torch.empty_like(logits)
        parts = (split_rows(result), *(split_rows(x, like=logits) for x in (logits, targets, normalizer, gradient)))
        for out, rows, target, total, factor in zip(*parts, strict=True):
            change = (_at_least_fp32(rows) - total[:, None]).exp_().mul_(factor[:, None])
            out.copy_(change.scatter_add_(-1, target[:, None], -factor[:, None]))
        return result, None


def _at_least_fp32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
