"""From predictions to accuracies with standard errors, per template, data set and set of data sets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

RIGHT, WRONG, ABSENT = "1", "0", "-"


@dataclass(frozen=True)
class Score:
    """An accuracy."""

    value: float
    """Between 0 and 1."""
    standard_error: float | None
    """None where a single example allows none."""
    n: int
    """Number of examples."""

    def to_json(self) -> dict[str, float | int | None]:
        """The fields; a mean over nothing is null, since JSON has no NaN."""
        return {**asdict(self), "value": None if math.isnan(self.value) else self.value}


def accuracy(outcomes: str) -> Score:
    """Share of right answers; standard error sqrt(p (1 - p) / (n - 1)).

    outcomes: one character per row, `1` right, `0` wrong, `-` not scored.
    """
    n = outcomes.count(RIGHT) + outcomes.count(WRONG)
    if n == 0:
        return Score(math.nan, None, 0)
    p = outcomes.count(RIGHT) / n
    return Score(p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None, n)


def mean_over_templates(outcomes: Sequence[str]) -> Score:
    """A data set's score: the mean of the accuracies of its templates (no prompt is selected).

    The templates ask about the same rows, so their errors are correlated: the standard error is that of a ratio of
    sums over rows (the delta method, rows being the independent units), which for templates that score the same
    rows is the standard error of the rows' mean correctness. n is the number of rows scored at least once.
    """
    right = np.array([[c == RIGHT for c in row] for row in outcomes], dtype=float)
    scored = np.array([[c != ABSENT for c in row] for row in outcomes], dtype=float)
    counts = scored.sum(1, keepdims=True)
    if not counts.all():
        return Score(math.nan, None, 0)
    accuracies = right.sum(1, keepdims=True) / counts
    influence = ((right - accuracies) * scored / counts).mean(0)
    n = int(scored.any(0).sum())
    error = math.sqrt(float((influence**2).sum()) * n / (n - 1)) if n > 1 else None
    return Score(float(accuracies.mean()), error, n)


def mean_over_tasks(scores: Sequence[Score]) -> Score:
    """The average of data sets, each counting the same; they are independent samples. n is their number."""
    if not scores:
        return Score(math.nan, None, 0)
    errors = [score.standard_error for score in scores]
    known = [error for error in errors if error is not None]
    error = math.sqrt(sum(e**2 for e in known)) / len(scores) if len(known) == len(errors) else None
    return Score(float(np.mean([score.value for score in scores])), error, len(scores))


def chance(num_choices: Sequence[int]) -> float:
    """Expected accuracy of a uniform guess."""
    return float(np.mean([1 / n for n in num_choices])) if num_choices else math.nan


def majority(golds: Sequence[int]) -> float:
    """Accuracy of always answering the choice in the most frequent correct position.

    Where all rows have the same choices this is the majority-class baseline.
    """
    return Counter(golds).most_common(1)[0][1] / len(golds) if golds else math.nan
