"""fairseq criterion `metro`: equation 13, and everything worth watching.

fairseq adds up the losses of all devices and accumulation steps and divides the gradient by the sum of their
`sample_size`. One divisor serves three means, so `sample_size` is the number M of masked positions: L_MLM and L_CLM
are then exact means over the whole batch. L_RTD is a mean over the N real positions; its sum is multiplied by the mask
ratio first, which makes it (mask ratio * N / M) times the exact mean: N / (maskable positions) on average, with a
fluctuation of about 1 / sqrt(M) (0.3% at the paper's batch size). In exchange the gradient does not depend on how the
batch is spread over devices and steps. The logged losses are exact means, in nats.
"""

# fairseq reads the types of dataclass fields at run time: no `from __future__ import annotations` here.
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from fairseq_plugins.criterions.logging import summed
from fairseq_plugins.errors import clear_errors
from fairseq_plugins.tasks.pretraining import MetroPretrainingTask
from metro_t0.modeling import PretrainingBatch, PretrainingOutput
from metro_t0.objectives.batches import check_target
from metro_t0.objectives.losses import LossPart, clm_loss, mlm_loss, rtd_loss
from metro_t0.objectives.metrics import pretraining_metrics

LOSSES = ("mlm", "rtd", "clm")


@dataclass
class MetroCriterionConfig(FairseqDataclass):
    """Weights of the three losses (paper section 5)."""

    mlm_weight: float = field(default=1.0, metadata={"help": "weight of the auxiliary's masked LM loss"})
    rtd_weight: float = field(default=50.0, metadata={"help": "weight of the replaced token detection loss"})
    clm_weight: float = field(default=1.0, metadata={"help": "weight of the corrective LM loss"})
    weighted_clm: bool = field(
        default=False, metadata={"help": "weigh each CLM position by its RTD probability (released base configuration)"}
    )


@register_criterion("metro", dataclass=MetroCriterionConfig)
class MetroCriterion(FairseqCriterion):
    """Serves both pretraining tasks: without an auxiliary only the decoder's loss is left."""

    def __init__(self, cfg: MetroCriterionConfig, task: Any) -> None:
        super().__init__(task)
        self.weights = {"mlm": cfg.mlm_weight, "rtd": cfg.rtd_weight, "clm": cfg.clm_weight}
        self.weighted_clm = cfg.weighted_clm
        self.mask_ratio = task.cfg.mask_ratio
        self.over_all_positions = {"rtd"}
        if isinstance(task, MetroPretrainingTask):
            target = str(task.cfg.decoding_target)
            with clear_errors():
                check_target(task.model_config, target, cfg.weighted_clm, task.cfg.within_documents)  # type: ignore[arg-type]
            if target == "all_tokens":
                self.over_all_positions.add("clm")

    @classmethod
    def build_criterion(cls, cfg: MetroCriterionConfig, task: Any) -> "MetroCriterion":
        """fairseq's hook."""
        return cls(cfg, task)

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """-> loss to differentiate, sample_size, sums to log."""
        batch = PretrainingBatch(**sample["net_input"])
        output: PretrainingOutput = model(**sample["net_input"])
        parts = self._parts(batch, output)
        sample_size = len(batch.clm_targets if batch.masked_positions is None else batch.masked_positions)
        loss = torch.stack([self._factor(name) * parts[name].total for name in parts]).sum()
        log = {"loss": loss.detach(), "sample_size": sample_size}
        log |= {key: sample[key] for key in ("ntokens", "nsentences")}
        for name, part in parts.items():
            log[f"{name}_total"], log[f"{name}_count"] = part.total.detach(), part.count
        for name, (hits, positions) in pretraining_metrics(batch, output).items():
            log[f"{name}/hits"], log[f"{name}/positions"] = hits, positions
        return loss, sample_size, log

    def _parts(self, batch: PretrainingBatch, output: PretrainingOutput) -> dict[str, LossPart]:
        parts = {}
        if output.mlm_logits is not None:
            parts["mlm"] = mlm_loss(batch, output)
        if output.rtd_logits is not None:
            parts["rtd"] = rtd_loss(output)
        parts["clm"] = clm_loss(batch, output, self.weighted_clm)
        return parts

    def _factor(self, name: str) -> float:
        """Weight of a sum; a mean over all positions is scaled by the mask ratio to fit `sample_size` (see above)."""
        return self.weights[name] * (self.mask_ratio if name in self.over_all_positions else 1.0)

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Exact means over all devices and steps, in nats; `loss` is what was differentiated, per masked position."""

        total = summed(logging_outputs)
        sample_size = total["sample_size"]
        metrics.log_scalar("loss", total["loss"] / max(sample_size, 1), sample_size, round=4)
        for name in LOSSES:
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
