"""The three losses of METRO (equations 10 to 13), each as a sum and the number of positions it is a mean over.

A mean over a batch that is spread over devices and accumulation steps is the ratio of two sums, so the functions
return the parts. Everything is computed in fp32 whatever the dtype of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metro_t0.modeling.pretraining import PretrainingBatch, PretrainingOutput
from metro_t0.objectives.cross_entropy import token_losses


@dataclass
class LossPart:
    """`total` is a scalar that carries the gradient; `total / count` is the mean of the paper."""

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean over the positions; 0 where there is none."""
        return self.total / self.count.clamp(min=1)


def mlm_loss(batch: PretrainingBatch, output: PretrainingOutput) -> LossPart:
    """Equation 10: the auxiliary's cross-entropy at the masked positions."""
    assert output.mlm_logits is not None
    assert batch.masked_positions is not None
    targets = batch.source_tokens.flatten()[batch.masked_positions]
    return LossPart(token_losses(output.mlm_logits, targets).sum(), _count(targets))


def rtd_loss(output: PretrainingOutput) -> LossPart:
    """Equation 11: binary cross-entropy of "replaced by a different token" over all real positions."""
    assert output.rtd_logits is not None
    assert output.replaced is not None
    logits = output.rtd_logits.float()
    total = F.binary_cross_entropy_with_logits(
        logits, output.replaced.to(logits.dtype), weight=output.valid.to(logits.dtype), reduction="sum"
    )
    return LossPart(total, output.valid.sum())


def clm_loss(batch: PretrainingBatch, output: PretrainingOutput, weighted_by_rtd: bool = False) -> LossPart:
    """Equation 12: the decoder's cross-entropy at the positions that count.

    With the copy mechanism the probability of a token is p_copy [token = noised token] + (1 - p_copy) p_vocabulary.
    weighted_by_rtd: each position weighs as much as the RTD head believes it replaced (the released base
    configuration; not in the paper). The weight carries no gradient.
    """
    if output.copy_logits is None:
        losses = token_losses(output.clm_logits, batch.clm_targets)
    else:
        losses = _copy_losses(batch, output, output.copy_logits)
    weights = torch.ones_like(losses) if batch.clm_in_loss is None else batch.clm_in_loss.to(losses.dtype)
    count = weights.detach().sum()
    if weighted_by_rtd:
        assert output.rtd_logits is not None
        weights = weights * output.rtd_logits.detach().float().sigmoid().flatten()[batch.clm_positions]
    return LossPart((losses * weights).sum(), count)


def metro_loss(
    mlm: LossPart,
    rtd: LossPart,
    clm: LossPart,
    mlm_weight: float = 1.0,
    rtd_weight: float = 50.0,
    clm_weight: float = 1.0,
) -> Tensor:
    """Equation 13: the weighted sum of the three means."""
    return mlm_weight * mlm.mean + rtd_weight * rtd.mean + clm_weight * clm.mean


def _copy_losses(batch: PretrainingBatch, output: PretrainingOutput, copy_logits: Tensor) -> Tensor:
    assert output.noised_tokens is not None
    log_p = -token_losses(output.clm_logits, batch.clm_targets)
    gate = copy_logits.float()
    noised = output.noised_tokens.flatten()[batch.clm_positions]
    generate = F.logsigmoid(-gate) + log_p
    copied = torch.logaddexp(F.logsigmoid(gate), generate)
    return -torch.where(noised == batch.clm_targets, copied, generate)


def _count(like: Tensor) -> Tensor:
    return torch.full((), like.numel(), device=like.device)  # torch.tensor would copy, and make a GPU wait
