"""How well a detector ranks, whatever its threshold: area under the ROC curve and average precision.

Both are functions of how often each score occurs with each label. Scores are counted after rounding to 16 bits (half
precision: 11 significant bits), so that counts of batches and processes add up in a fixed size; scores that round to
the same number are ties. Of logits that a model computes in half precision nothing is lost; of single precision, even
where all logits lie within 0.2 around that of the base rate, about 0.0001 of the area and 0.001 of the precision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NUM_SCORES = 1 << 16


@torch.no_grad()
def score_counts(scores: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    """(2, NUM_SCORES) int64: how many of the counted negatives and positives have each score, in ascending order.

    scores, positive (bool), counted (bool): same shape. Makes no device wait.
    """
    bits = scores.detach().half().view(torch.int16).long()
    # The bits of a floating-point number without its sign ascend as the number's size does.
    place = torch.where(bits < 0, -(bits & 0x7FFF), bits) + NUM_SCORES // 2
    index = (place + NUM_SCORES * positive.long()).flatten()
    counts = torch.zeros(2 * NUM_SCORES, dtype=torch.int64, device=scores.device)
    return counts.scatter_add_(0, index, counted.flatten().long()).view(2, NUM_SCORES)


def area_under_roc(counts: Tensor) -> float:
    """Probability that a positive has a higher score than a negative, ties counting half; NaN where one kind is absent.

    counts: (2, NUM_SCORES) of `score_counts`, or sums of such.
    """
    negatives, positives = counts.double()
    below = negatives.cumsum(0) - negatives
    pairs = float(negatives.sum() * positives.sum())
    return float((positives * (below + negatives / 2)).sum()) / pairs if pairs else float("nan")


def average_precision(counts: Tensor) -> float:
    """Mean over the positives of the precision at their score as threshold; NaN without positives.

    That of scikit-learn: sum of (recall_n - recall_{n-1}) precision_n over descending thresholds. A ranking by chance
    reaches the share of the positives. counts: (2, NUM_SCORES) of `score_counts`, or sums of such.
    """
    negatives, positives = counts.double().flip(1)
    found, all_positives = positives.cumsum(0), float(positives.sum())
    precision = found / (found + negatives.cumsum(0)).clamp(min=1)
    return float((positives * precision).sum()) / all_positives if all_positives else float("nan")


RANKING_METRICS: dict[str, Callable[[Tensor], float]] = {
    "auc": area_under_roc,
    "average_precision": average_precision,
}
"""Suffix of the metric's name in logs -> its function of the counts."""
