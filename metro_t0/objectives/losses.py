"""The objectives of METRO (equations 10 to 13): what trains, and the one table of it.

Each loss is a sum and the number of positions it is a mean over: a mean over a batch that is spread over devices and
accumulation steps is the ratio of two sums. Everything is computed in fp32 whatever the dtype of the logits.
`OBJECTIVES` is read by the fairseq criterion (weights, losses, logs), the curves and the tables of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metro_t0.kernels.cross_entropy import token_losses
from metro_t0.modeling.pretraining import PretrainingBatch, PretrainingOutput
from metro_t0.objectives.metrics import Ratio, clm_metrics, mlm_metrics, rtd_metrics
from metro_t0.ranking_metrics import score_counts


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
    return LossPart(token_losses(output.mlm_logits, targets, output.compiled_losses).sum(), _count(targets))


def rtd_loss(output: PretrainingOutput) -> LossPart:
    """Equation 11: binary cross-entropy of "replaced by a different token" over all real positions."""
    assert output.rtd_logits is not None
    assert output.replaced is not None
    logits = output.rtd_logits.float()
    total = F.binary_cross_entropy_with_logits(
        logits, output.replaced.to(logits.dtype), weight=output.valid.to(logits.dtype), reduction="sum"
    )
    return LossPart(total, output.valid.sum())


def rtd_detections(output: PretrainingOutput) -> Tensor:
    """Counts of the RTD logits of replaced and of other real tokens."""
    assert output.rtd_logits is not None
    assert output.replaced is not None
    return score_counts(output.rtd_logits, output.replaced, output.valid)


def clm_loss(batch: PretrainingBatch, output: PretrainingOutput, weighted_by_rtd: bool = False) -> LossPart:
    """Equation 12: the decoder's cross-entropy at the positions that count.

    With the copy mechanism the probability of a token is p_copy [token = noised token] + (1 - p_copy) p_vocabulary.
    weighted_by_rtd: each position weighs as much as the RTD head believes it replaced (the released base
    configuration; not in the paper). The weight carries no gradient.
    """
    if output.copy_logits is None:
        losses = token_losses(output.clm_logits, batch.clm_targets, output.compiled_losses)
    else:
        losses = _copy_losses(batch, output, output.copy_logits)
    weights = torch.ones_like(losses) if batch.clm_in_loss is None else batch.clm_in_loss.to(losses.dtype)
    count = weights.detach().sum()
    if weighted_by_rtd:
        assert output.rtd_logits is not None
        weights = weights * output.rtd_logits.detach().float().sigmoid().flatten()[batch.clm_positions]
    return LossPart((losses * weights).sum(), count)


def _copy_losses(batch: PretrainingBatch, output: PretrainingOutput, copy_logits: Tensor) -> Tensor:
    assert output.noised_tokens is not None
    log_p = -token_losses(output.clm_logits, batch.clm_targets, output.compiled_losses)
    gate = copy_logits.float()
    noised = output.noised_tokens.flatten()[batch.clm_positions]
    generate = F.logsigmoid(-gate) + log_p
    copied = torch.logaddexp(F.logsigmoid(gate), generate)
    return -torch.where(noised == batch.clm_targets, copied, generate)


def _count(like: Tensor) -> Tensor:
    return torch.full((), like.numel(), device=like.device)  # torch.tensor would copy, and make a GPU wait


@dataclass(frozen=True)
class LossOptions:
    """Switches of the losses; options of the fairseq criterion."""

    weighted_clm: bool = field(
        default=False, metadata={"help": "weigh each CLM position by its RTD probability (released base configuration)"}
    )


Positions = Literal["masked", "source", "predicted"]


@dataclass(frozen=True)
class Objective:
    """One loss and everything that belongs to it. Its head is in `modeling.heads`, switched on by a model field."""

    name: str
    """NAME_loss in logs, --NAME-weight on the command line."""
    title: str
    """Of NAME_loss in figures and tables."""
    weight: float
    """Weight of the mean loss (paper section 5)."""
    help: str
    positions: Positions
    """What the loss is a mean over: the auxiliary's masks, all real source tokens, or what the decoder predicts."""
    is_on: Callable[[PretrainingOutput], bool]
    """Whether the model computed what the loss needs."""
    loss: Callable[[PretrainingBatch, PretrainingOutput, LossOptions], LossPart]
    metrics: Callable[[PretrainingBatch, PretrainingOutput], dict[str, Ratio]]
    """Shares to log, as (hits, positions)."""
    metric_titles: Mapping[str, str] = field(default_factory=dict)
    """Of those metrics that figures and tables show, the most telling first."""
    detections: Callable[[PretrainingOutput], Tensor] | None = None
    """Of a detector: `score_counts` of its scores, from which validation derives NAME_auc, NAME_average_precision."""


OBJECTIVES = (
    Objective(
        name="mlm",
        title="Auxiliary MLM loss (nats)",
        weight=1.0,
        help="weight of the auxiliary's masked LM loss",
        positions="masked",
        is_on=lambda output: output.mlm_logits is not None,
        loss=lambda batch, output, options: mlm_loss(batch, output),
        metrics=mlm_metrics,
        metric_titles={
            "mlm_accuracy": "Auxiliary accuracy at masks",
            "replacement_rate": "Share of masks that get another token",
        },
    ),
    Objective(
        name="rtd",
        title="RTD loss (nats)",
        weight=50.0,
        help="weight of the replaced token detection loss",
        positions="source",
        is_on=lambda output: output.rtd_logits is not None,
        loss=lambda batch, output, options: rtd_loss(output),
        metrics=rtd_metrics,
        metric_titles={
            "rtd_auc": "RTD area under the ROC curve",
            "rtd_average_precision": "RTD average precision",
            "rtd_recall": "RTD recall on replaced tokens",
            "rtd_specificity": "RTD specificity on original tokens",
        },
        detections=rtd_detections,
    ),
    Objective(
        name="clm",
        title="CLM loss (nats)",
        weight=1.0,
        help="weight of the corrective LM loss",
        positions="predicted",
        is_on=lambda output: True,
        loss=lambda batch, output, options: clm_loss(batch, output, options.weighted_clm),
        metrics=clm_metrics,
        metric_titles={
            "clm_accuracy_masked": "CLM accuracy at masks",
            "clm_accuracy_replaced": "CLM accuracy on replaced tokens",
            "clm_accuracy_unmasked": "CLM accuracy elsewhere",
            "clm_accuracy": "Decoder accuracy",
        },
    ),
)
AS_IN_THE_PAPER = LossOptions()
WEIGHTS = {objective.name: objective.weight for objective in OBJECTIVES}
TITLES = {f"{objective.name}_loss": objective.title for objective in OBJECTIVES}
"""Title of every loss and, after them, of every metric that figures and tables show, by its name in the logs."""
TITLES |= {name: title for objective in OBJECTIVES for name, title in objective.metric_titles.items()}


def loss_parts(
    batch: PretrainingBatch, output: PretrainingOutput, options: LossOptions = AS_IN_THE_PAPER
) -> dict[str, LossPart]:
    """The losses of all objectives that the model computes, by name."""
    return {o.name: o.loss(batch, output, options) for o in OBJECTIVES if o.is_on(output)}


def metro_loss(terms: Mapping[str, Tensor], weights: Mapping[str, float] = WEIGHTS) -> Tensor:
    """Equation 13: the weighted sum of the objectives, by name. `terms` are scalars: means, or parts of them."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


@torch.no_grad()
def pretraining_metrics(batch: PretrainingBatch, output: PretrainingOutput) -> dict[str, Ratio]:
    """The metrics of all objectives that the model computes: name -> (hits, positions)."""
    found = [o.metrics(batch, output) for o in OBJECTIVES if o.is_on(output)]
    return {name: ratio for ratios in found for name, ratio in ratios.items()}


def detection_counts(output: PretrainingOutput) -> dict[str, Tensor]:
    """The score counts of all detectors that the model has, by objective; for validation (0.5 MB each)."""
    return {o.name: o.detections(output) for o in OBJECTIVES if o.detections is not None and o.is_on(output)}
