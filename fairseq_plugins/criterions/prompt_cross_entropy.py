"""fairseq criterion `prompt_cross_entropy`: cross-entropy, optional label smoothing and z-loss, held-out accuracies.

`exact_match` is the share of examples whose every target token, the end token included, is the model's first choice
given the tokens before it: exactly those examples whose greedy decoding is the target.
"""

# fairseq reads the types of dataclass fields at run time: no `from __future__ import annotations` here.
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from omegaconf import II
from torch import Tensor
from torch.nn import functional

from fairseq_plugins.criterions.logging import summed
from metro_t0.kernels.cross_entropy import token_losses
from metro_t0.options import option


@dataclass
class PromptCrossEntropyConfig(FairseqDataclass):
    """Options of `--criterion prompt_cross_entropy`."""

    label_smoothing: float = option(0.0, "probability spread evenly over the vocabulary", at_least=0, below=1)
    z_loss: float = option(0.0, "weight of log(sum of exp of the logits) squared, per token", at_least=0, at_most=1000)
    sentence_avg: bool = II("optimization.sentence_avg")


@register_criterion("prompt_cross_entropy", dataclass=PromptCrossEntropyConfig)
class PromptCrossEntropyCriterion(FairseqCriterion):
    """Mean over all target tokens of the (accumulated, distributed) batch; logged in nats.

    With fairseq's --sentence-avg what is minimized is the mean over examples of the sums over their tokens.
    """

    def __init__(self, cfg: PromptCrossEntropyConfig, task: Any) -> None:
        super().__init__(task)
        self.label_smoothing = cfg.label_smoothing
        self.z_loss = cfg.z_loss
        self.divisor = "nsentences" if cfg.sentence_avg else "ntokens"

    @classmethod
    def build_criterion(cls, cfg: PromptCrossEntropyConfig, task: Any) -> "PromptCrossEntropyCriterion":
        """fairseq's hook."""
        return cls(cfg, task)

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """-> summed loss, what fairseq divides the sum of all batches by, sums to log."""
        net_output = model(**sample["net_input"])
        logits = net_output[0]
        target = model.get_targets(sample, net_output)
        counted = target.ne(self.padding_idx)
        loss, nll = self._losses(logits.flatten(0, 1), target.flatten())
        with torch.no_grad():
            hits = logits.argmax(-1).eq(target)
            example_hits = (hits | ~counted).all(1)
        log = {
            "loss": loss.detach(),
            "nll_loss": nll.detach(),
            "sample_size": sample[self.divisor],
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "source_tokens": sample["source_tokens"],
            "target_tokens": sample["ntokens"],
            "token_hits": (hits & counted).sum(),
            "example_hits": example_hits.sum(),
        }
        return loss, sample[self.divisor], log

    def _losses(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, vocabulary), (rows,) -> what is minimized and the negative log-likelihood, summed over all tokens.

        The z-loss keeps the normalizer of the softmax near 1 (T5X; Wu, Li and Liang 2022 fine-tune with 1e-4).
        """
        counted = target.ne(self.padding_idx)
        of_tokens = token_losses(logits, target)
        loss = nll = (of_tokens * counted).sum()
        if self.label_smoothing:
            loss = functional.cross_entropy(
                logits.float(),
                target,
                label_smoothing=self.label_smoothing,
                ignore_index=self.padding_idx,
                reduction="sum",
            )
        if self.z_loss:
            normalizer = of_tokens + logits.gather(-1, target[:, None]).squeeze(-1)
            loss = loss + self.z_loss * (normalizer * counted).square().sum()
        return loss, nll

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Sums of all devices and steps -> loss, nll_loss (nats per token), accuracy and exact_match (percent)."""
        total = summed(logging_outputs)
        tokens, examples = max(total["ntokens"], 1.0), max(total["nsentences"], 1.0)
        metrics.log_scalar("loss", total["loss"] / tokens, tokens, round=4)
        metrics.log_scalar("nll_loss", total["nll_loss"] / tokens, tokens, round=4)
        metrics.log_scalar("accuracy", 100 * total["token_hits"] / tokens, tokens, round=2)
        metrics.log_scalar("exact_match", 100 * total["example_hits"] / examples, examples, round=2)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """All are sums."""
        return True
