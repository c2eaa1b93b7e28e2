"""Parameter sensitivity I_j = |theta_j dL / dtheta_j| (paper section 6.3, equation 14, figure 7).

To first order I_j is the change of the loss when parameter j is set to zero. L is the mean cross-entropy over the
target tokens of the whole sample: gradients of all batches are added up before the absolute value is taken.
Memory: the parameters and their gradients; the 775 million sensitivities themselves are only ever counted into
histograms on a log scale, one slice of one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from metro_t0.analysis.checkpoints import AnalyzedModel
from metro_t0.analysis.mixtures import Seq2SeqBatch
from metro_t0.errors import UserError
from metro_t0.tensor_names import place_of

LOWEST, HIGHEST, BINS_PER_DECADE = -20, 4, 20
"""Decades that the histograms cover; what lies outside counts in the outermost bins."""
EDGES: NDArray[np.float64] = np.linspace(LOWEST, HIGHEST, (HIGHEST - LOWEST) * BINS_PER_DECADE + 1)
"""log10 of the borders of the bins."""
SLICE = 1 << 24

KINDS = (
    "bias", "norm", "relative bias", "positions", "embeddings", "head", "cross-attention", "self-attention",
    "feed-forward in", "feed-forward out", "other",
)  # fmt: skip
KIND_OF_MODULE = {
    "table": "relative bias", "embeddings.positions": "positions", "embeddings.tokens": "embeddings", "head": "head",
    "cross_attention": "cross-attention", "self_attention": "self-attention", "feed_forward.wi": "feed-forward in",
    "feed_forward.gate": "feed-forward in", "feed_forward.wo": "feed-forward out",
}  # fmt: skip
"""Module of a layer, or its part before the dot -> kind."""


@dataclass(frozen=True, order=True)
class ParameterGroup:
    """Parameters that are counted together: all of one kind in one layer."""

    stack: str
    """encoder, decoder, or shared (what is in no layer)."""
    layer: int
    """From 1; 0 for what is in no layer."""
    kind: str


@dataclass
class LogHistogram:
    """Counts of positive numbers per bin of log10, zeros apart, and their exact sum."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(EDGES) - 1, dtype=np.int64))
    zeros: int = 0
    total: float = 0.0

    def add(self, values: Tensor) -> None:
        """Count values >= 0, any shape."""
        positive = values[values > 0].double()
        self.zeros += values.numel() - positive.numel()
        self.total += float(positive.sum())
        place = torch.floor((positive.log10() - LOWEST) * BINS_PER_DECADE).long().clamp(0, len(EDGES) - 2)
        self.counts += torch.bincount(place, minlength=len(EDGES) - 1).cpu().numpy()

    def __add__(self, other: LogHistogram) -> LogHistogram:
        return LogHistogram(self.counts + other.counts, self.zeros + other.zeros, self.total + other.total)

    @property
    def number(self) -> int:
        """Values counted, zeros included."""
        return int(self.counts.sum()) + self.zeros

    @property
    def without_zeros(self) -> LogHistogram:
        """The positive values alone."""
        return LogHistogram(self.counts, 0, self.total)

    def quantile(self, q: float) -> float:
        """log10 of the q-quantile, to the width of a bin; -inf where it is a zero."""
        rank = q * self.number
        if not self.number or rank < self.zeros:
            return -np.inf
        cumulative = self.zeros + np.cumsum(self.counts)
        place = min(int(np.searchsorted(cumulative, rank, side="right")), len(self.counts) - 1)
        before = cumulative[place] - self.counts[place]
        return float(EDGES[place] + (rank - before) / max(self.counts[place], 1) / BINS_PER_DECADE)


def accumulate_gradients(model: AnalyzedModel, batches: Iterable[Seq2SeqBatch]) -> float:
    """Leave the gradient of the mean cross-entropy per target token in `.grad`; returns that loss (nats).

    Raises `UserError` where the loss is not finite, or there is no target token.
    """
    model.module.zero_grad(set_to_none=True)
    total, tokens = 0.0, 0
    for batch in batches:
        here = batch.to(model.device)
        logits = model.logits(here).float()
        loss = F.cross_entropy(logits[here.target_valid], here.target[here.target_valid], reduction="sum")
        loss.backward()
        total += float(loss.detach())
        tokens += int(here.target_valid.sum())
    if not tokens or not np.isfinite(total):
        raise UserError(f"the loss is {total} over {tokens} target tokens; check the checkpoint and the mixture")
    for parameter in model.module.parameters():
        if parameter.grad is not None:
            parameter.grad /= tokens
    return total / tokens


@torch.no_grad()
def sensitivity_histograms(module: nn.Module) -> dict[ParameterGroup, LogHistogram]:
    """Histograms of |theta_j dL/dtheta_j| from the gradients in `.grad`; parameters without a gradient count as 0."""
    found: dict[ParameterGroup, LogHistogram] = {}
    for name, parameter in module.named_parameters():
        histogram = found.setdefault(group_of(name), LogHistogram())
        values = parameter.detach().flatten()
        gradient = torch.zeros_like(values) if parameter.grad is None else parameter.grad.flatten()
        for start in range(0, len(values), SLICE):
            here = slice(start, start + SLICE)
            histogram.add((values[here].double() * gradient[here].double()).abs())
    return dict(sorted(found.items()))


def group_of(name: str) -> ParameterGroup:
    """The group of a parameter of that name, in this toolkit's or Hugging Face's naming."""
    place = place_of(name)
    if name.endswith(".bias"):
        kind = "bias"
    elif name.endswith("norm.weight"):
        kind = "norm"
    else:
        module = place.module if place else ""
        kind = KIND_OF_MODULE.get(module) or KIND_OF_MODULE.get(module.partition(".")[0], "other")
    if place is None or place.layer is None:
        return ParameterGroup("shared", 0, kind)
    return ParameterGroup(place.stack, place.layer + 1, kind)


def merged(histograms: Mapping[ParameterGroup, LogHistogram], **wanted: Any) -> LogHistogram:
    """The sum of the histograms of the groups that have the wanted fields."""
    chosen = (h for group, h in histograms.items() if all(getattr(group, k) == v for k, v in wanted.items()))
    return sum(chosen, LogHistogram())


def histogram_rows(name: str, histograms: Mapping[ParameterGroup, LogHistogram]) -> Iterator[dict[str, Any]]:
    """One row per checkpoint, group and filled bin; zeros have empty borders."""
    for group, histogram in histograms.items():
        place = {"checkpoint": name, "stack": group.stack, "layer": group.layer, "kind": group.kind}
        if histogram.zeros:
            yield {**place, "log10_from": "", "log10_to": "", "parameters": histogram.zeros}
        for bin_ in np.flatnonzero(histogram.counts).tolist():
            low, high = (round(float(EDGES[i]), 6) for i in (bin_, bin_ + 1))
            yield {**place, "log10_from": low, "log10_to": high, "parameters": int(histogram.counts[bin_])}


def summary_rows(name: str, histograms: Mapping[ParameterGroup, LogHistogram]) -> list[dict[str, Any]]:
    """One row per group: number of parameters, zeros, mean, and quartiles (log10)."""
    return [
        {
            "checkpoint": name, "stack": group.stack, "layer": group.layer, "kind": group.kind,
            "parameters": histogram.number, "zeros": histogram.zeros, "mean": histogram.total / histogram.number,
            **{f"log10_q{round(100 * q)}": round(histogram.quantile(q), 4) for q in (0.05, 0.25, 0.5, 0.75, 0.95)},
        }
        for group, histogram in histograms.items()
    ]  # fmt: skip


def kinds_in(histograms: Sequence[Mapping[ParameterGroup, LogHistogram]]) -> list[str]:
    """The kinds that occur, in the order of `KINDS`."""
    present = {group.kind for one in histograms for group in one}
    return [kind for kind in KINDS if kind in present]
