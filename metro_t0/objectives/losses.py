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
from metro_t0.options import option
from metro_t0.ranking_metrics import score_counts

Ratio = tuple[Tensor, Tensor]
"""(hits, positions): scalars that add up over batches and devices, on the model's device, without waiting for it."""


@dataclass
class LossPart:
    """`total` is a scalar that carries the gradient; `total / count` is the mean of the paper."""

    total: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean over the positions; 0 where there is none."""
        return self.total / self.count.clamp(min=1)


def mlm_loss(output: PretrainingOutput) -> LossPart:
    """Equation 10: the auxiliary's cross-entropy at the masked positions."""
    assert output.noise is not None
    losses = token_losses(output.noise.logits, output.noise.originals, output.compiled_losses)
    return LossPart(losses.sum(), torch.full((), len(losses), device=losses.device))  # torch.tensor makes a GPU wait


def mlm_metrics(batch: PretrainingBatch, output: PretrainingOutput) -> dict[str, Ratio]:
    """Of the auxiliary.

    mlm_accuracy          right at masked positions
    replacement_rate      share of the masked positions where the sample differs from the original
    replaced_share        share of all real tokens that were replaced: the base rate of RTD
    """
    noise = output.noise
    assert noise is not None
    everywhere = torch.ones_like(noise.originals, dtype=torch.bool)
    return {
        "mlm_accuracy": _share(noise.logits.argmax(-1) == noise.originals, everywhere),
        "replacement_rate": _share(noise.replaced.flatten()[batch.masked_positions], everywhere),
        "replaced_share": _share(noise.replaced, output.valid),
    }


def rtd_loss(output: PretrainingOutput) -> LossPart:
    """Equation 11: binary cross-entropy of "replaced by a different token" over all real positions."""
    logits = output.heads["rtd_head"].float()
    truth, weight = output.replaced.to(logits.dtype), output.valid.to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(logits, truth, weight=weight, reduction="sum")
    return LossPart(total, output.valid.sum())


def rtd_metrics(batch: PretrainingBatch, output: PretrainingOutput) -> dict[str, Ratio]:
    """Of replaced token detection.

    rtd_recall            share of the replaced tokens that the RTD head detects
    rtd_specificity       share of the other real tokens that it takes for original
    """
    detected, others = output.heads["rtd_head"] > 0, output.valid & ~output.replaced
    return {"rtd_recall": _share(detected, output.replaced), "rtd_specificity": _share(~detected, others)}


def clm_loss(batch: PretrainingBatch, output: PretrainingOutput, weighted_by_rtd: bool = False) -> LossPart:
    """Equation 12: the decoder's cross-entropy at the positions that count.

    With the copy mechanism the probability of a token is p_copy [token = noised token] + (1 - p_copy) p_vocabulary.
    weighted_by_rtd: each position weighs as much as the RTD head believes it replaced (the released base
    configuration; not in the paper). The weight carries no gradient.
    """
    losses = token_losses(output.clm_logits, batch.clm_targets, output.compiled_losses)
    if "copy_gate" in output.heads:
        losses = _with_copies(losses, batch, output)
    weights = torch.ones_like(losses) if batch.clm_in_loss is None else batch.clm_in_loss.to(losses.dtype)
    count = weights.detach().sum()
    if weighted_by_rtd:
        weights = weights * output.heads["rtd_head"].detach().float().sigmoid().flatten()[batch.clm_positions]
    return LossPart((losses * weights).sum(), count)


def _with_copies(losses: Tensor, batch: PretrainingBatch, output: PretrainingOutput) -> Tensor:
    assert output.noise is not None
    gate = output.heads["copy_gate"].float()
    noised = output.noise.tokens.flatten()[batch.clm_positions]
    generate = F.logsigmoid(-gate) - losses
    copied = torch.logaddexp(F.logsigmoid(gate), generate)
    return -torch.where(noised == batch.clm_targets, copied, generate)


def clm_metrics(batch: PretrainingBatch, output: PretrainingOutput) -> dict[str, Ratio]:
    """Of the decoder: accuracy, by kind of position where the auxiliary has replaced some of what it writes.

    clm_accuracy where it does not write the source; clm_accuracy_replaced, clm_accuracy_masked, clm_accuracy_unmasked
    """
    correct = _predictions(batch, output) == batch.clm_targets
    everywhere = torch.ones_like(correct)
    if output.noise is None or batch.masked_positions is None or batch.decoder_writes == "other":
        return {"clm_accuracy": _share(correct, everywhere)}
    if batch.decoder_writes == "masked":
        return {"clm_accuracy_masked": _share(correct, everywhere)}
    replaced = output.replaced.flatten()
    at_masked = torch.zeros_like(replaced).index_fill(0, batch.masked_positions, True)[batch.clm_positions]
    return {
        "clm_accuracy_masked": _share(correct, at_masked),
        "clm_accuracy_replaced": _share(correct, replaced[batch.clm_positions]),
        # Of no position in training, which skips those logits. Always there: processes sum their metrics key by key.
        "clm_accuracy_unmasked": _share(correct, ~at_masked),
    }


def _predictions(batch: PretrainingBatch, output: PretrainingOutput) -> Tensor:
    """(C,) the decoder's most probable tokens; with the copy mechanism, of the mixture with the noised token."""
    if "copy_gate" not in output.heads or output.noise is None:
        return output.clm_logits.argmax(-1)
    probabilities = output.clm_logits.float().softmax(-1)
    best_p, best = probabilities.max(-1)
    noised = output.noise.tokens.flatten()[batch.clm_positions]
    noised_p = probabilities.gather(-1, noised[:, None]).squeeze(-1)
    copy = output.heads["copy_gate"].float().sigmoid()
    return torch.where(copy + (1 - copy) * noised_p > (1 - copy) * best_p, noised, best)


def _share(hits: Tensor, among: Tensor) -> Ratio:
    return (hits & among).sum(), among.sum()


@dataclass(frozen=True)
class LossOptions:
    """Switches of the losses; options of the fairseq criterion."""

    weighted_clm: bool = option(False, "weigh each CLM position by its RTD probability (released base configuration)")


Positions = Literal["masked", "source", "predicted"]
"""What a loss is a mean over: the auxiliary's masks, all real source tokens, or what the decoder predicts."""


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
        is_on=lambda output: output.noise is not None,
        loss=lambda batch, output, options: mlm_loss(output),
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
        is_on=lambda output: "rtd_head" in output.heads,
        loss=lambda batch, output, options: rtd_loss(output),
        metrics=rtd_metrics,
        metric_titles={
            "rtd_auc": "RTD area under the ROC curve",
            "rtd_average_precision": "RTD average precision",
            "rtd_recall": "RTD recall on replaced tokens",
            "rtd_specificity": "RTD specificity on original tokens",
        },
        detections=lambda output: score_counts(output.heads["rtd_head"], output.replaced, output.valid),
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
    """The score counts of all detectors that the model has, by objective; for validation: (2, NUM_SCORES)."""
    return {o.name: o.detections(output) for o in OBJECTIVES if o.detections is not None and o.is_on(output)}
