"""fairseq criterion `metro`: equation 13, and everything worth watching.

fairseq adds up the losses of all devices and accumulation steps and divides the gradient by the sum of their
`sample_size`. One divisor serves three means, so `sample_size` is the number M of masked positions: L_MLM and L_CLM
are then exact means over the whole batch. L_RTD is a mean over the N real positions; its sum is multiplied by the mask
ratio first, which makes it (mask ratio * N / M) times the exact mean: N / (maskable positions) on average, with a
fluctuation of about 1 / sqrt(M) (0.3% at the paper's batch size). In exchange the gradient does not depend on how the
batch is spread over devices and steps. The logged losses are exact means, in nats.

Objectives may end: after `--NAME-until` updates (or that share of --max-update) a loss no longer counts. SpacTor-T5 is
span corruption with MLM and RTD until then, and span corruption alone afterwards.
"""

# fairseq reads the types of dataclass fields at run time: no `from __future__ import annotations` here.
from dataclasses import field, fields, make_dataclass
from typing import Any

from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor

from fairseq_plugins.criterions.logging import summed, summed_vectors
from fairseq_plugins.errors import clear_errors
from metro_t0.errors import UserError
from metro_t0.modeling import PretrainingBatch, PretrainingOutput
from metro_t0.objectives.losses import (
    OBJECTIVES,
    LossOptions,
    detection_counts,
    loss_parts,
    metro_loss,
    pretraining_metrics,
)
from metro_t0.options import option
from metro_t0.ranking_metrics import RANKING_METRICS

COUNTS = "/counts"
UNTIL = "updates after which the {} loss no longer counts; below 1: share of --max-update; 0: never"

MetroCriterionConfig = make_dataclass(
    "MetroCriterionConfig",
    [
        *(
            (
                f"{o.name}_weight",
                float,
                option(o.weight, o.help, at_least=0, at_most=1_000_000),
            )
            for o in OBJECTIVES
        ),
        *((f"{o.name}_until", float, option(0.0, UNTIL.format(o.name), at_least=0)) for o in OBJECTIVES),
        ("max_update", int, II("optimization.max_update")),
        ("sentence_avg", bool, II("optimization.sentence_avg")),
        *((f.name, bool, field(default=f.default, metadata=dict(f.metadata))) for f in fields(LossOptions)),
    ],
    bases=(FairseqDataclass,),
    namespace={"__doc__": "The weight of every objective, and the switches of the losses."},
)


@register_criterion("metro", dataclass=MetroCriterionConfig)
class MetroCriterion(FairseqCriterion):
    """The objectives of `metro_t0.objectives.losses`, as many as the model computes; serves all pretraining tasks.

    The task says what one divisor for several means takes: `sample_size` and `loss_scale`.
    """

    def __init__(self, cfg: Any, task: Any) -> None:
        super().__init__(task)
        self.options = LossOptions(**{f.name: getattr(cfg, f.name) for f in fields(LossOptions)})
        self.weights = {o.name: getattr(cfg, f"{o.name}_weight") * task.loss_scale(o.positions) for o in OBJECTIVES}
        with clear_errors():
            if cfg.sentence_avg:
                raise UserError("--sentence-avg: the losses are means over positions (equation 13); leave it out")
            self.until = {o.name: _last_update(o.name, getattr(cfg, f"{o.name}_until"), cfg) for o in OBJECTIVES}
            task.check_losses(self.options)

    @classmethod
    def build_criterion(cls, cfg: Any, task: Any) -> "MetroCriterion":
        """fairseq's hook."""
        return cls(cfg, task)

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """-> loss to differentiate, sample_size, sums to log."""
        ended = {name for name, last in self.until.items() if last and model.num_updates >= last}
        inputs = self.task.inputs_of(sample["net_input"], ended)
        batch = PretrainingBatch(**inputs)
        output: PretrainingOutput = model(**inputs)
        parts = loss_parts(batch, output, self.options)
        weights = self.weights | dict.fromkeys(ended, 0.0)
        loss = metro_loss({name: part.total for name, part in parts.items()}, weights)
        if ended:  # a gradient of zeros: processes wait for that of every parameter
            loss = loss + sum(0.0 * parameter.sum() for parameter in model.metro.idle_parameters(batch))
        sample_size = self.task.sample_size(batch)
        log = {"loss": loss.detach(), "sample_size": sample_size}
        log |= {key: sample[key] for key in ("ntokens", "nsentences")}
        for name, part in parts.items():
            log[f"{name}_total"], log[f"{name}_count"] = part.total.detach(), part.count
        for name, (hits, positions) in pretraining_metrics(batch, output).items():
            log[f"{name}/hits"], log[f"{name}/positions"] = hits, positions
        if not self.training:
            log |= {f"{name}{COUNTS}": counts for name, counts in detection_counts(output).items()}
        return loss, sample_size, log

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Exact means over all devices and steps, in nats; `loss` is what was differentiated, per masked position."""
        for name, counts in summed_vectors(logging_outputs, COUNTS).items():
            _log_detection(name, counts)
        total = summed(logging_outputs)
        sample_size = total["sample_size"]
        metrics.log_scalar("loss", total["loss"] / max(sample_size, 1), sample_size, round=4)
        for name in (objective.name for objective in OBJECTIVES):
            if f"{name}_count" in total:
                count = total[f"{name}_count"]
                metrics.log_scalar(f"{name}_loss", total[f"{name}_total"] / max(count, 1), count, round=4)
        for name in sorted(key.removesuffix("/hits") for key in total if key.endswith("/hits")):
            if positions := total[f"{name}/positions"]:
                metrics.log_scalar(name, total[f"{name}/hits"] / positions, positions, round=4)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All values are sums."""
        return True


def _last_update(name: str, until: float, cfg: Any) -> int:
    if until < 0:
        raise UserError(f"{name}_until is {until}; give a number of updates, a share of --max-update, or 0")
    if until >= 1 or not until:
        return int(until)
    if not cfg.max_update:
        raise UserError(f"{name}_until is {until}, a share of --max-update: give --max-update")
    return max(1, round(until * int(cfg.max_update)))


def _log_detection(name: str, counts: Tensor) -> None:
    """Add up score counts over all batches and derive from their sum what no mean over batches gives."""
    metrics.log_scalar_sum(f"_{name}_detections", counts)  # fairseq does not print names that begin so
    if counts.any(1).all():
        for suffix, metric in RANKING_METRICS.items():
            metrics.log_derived(
                f"{name}_{suffix}", lambda meters, metric=metric: round(metric(meters[f"_{name}_detections"].sum), 4)
            )
