"""Is one model better than another on the same questions? Paired tests: McNemar's and the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.scores import ABSENT, RIGHT
from eval.summary import Summary, TaskSummary
from metro_t0.errors import UserError
from metro_t0.randomness import keyed_generator

RESAMPLES = 4000
RESAMPLES_AT_ONCE = 100
LEVEL = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Second model minus first on one task (or on the average)."""

    name: str
    difference: float
    """Of accuracies, between -1 and 1."""
    low: float
    high: float
    """95% percentile interval of the paired bootstrap over rows."""
    p_value: float
    """Two-sided, of the bootstrap."""
    mcnemar: dict[str, float]
    """Two-sided exact p-value per template."""


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar test that questions only one model gets right are as often the first's as the second's.

    only_first, only_second: questions that only this model gets right. Returns the binomial p-value.
    """
    n, smaller = only_first + only_second, min(only_first, only_second)
    tail = ways = 1
    for k in range(smaller):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << n))  # of whole numbers: as floats neither has room beyond 1,023 questions


def compare(first: Summary, second: Summary) -> list[Comparison]:
    """Every task that both have, then their average over those tasks.

    Raises `UserError` where the two have no task in common or did not score the same rows.
    """
    differences = _differences(first, second)
    single = [_comparison(name, *difference) for name, difference in differences.items()]
    return [*single, _mean(f"mean over {len(single)}", list(differences.values()))]


def compare_seeds(pairs: Sequence[tuple[Summary, Summary]], tasks: Callable[[str], bool], name: str) -> Comparison:
    """Average over pairs of models (one per seed) and over the tasks that `tasks` chooses by name.

    The interval is over rows, for these models: rows are resampled the same in all pairs. How far seeds differ is
    another question (their standard deviation). Raises `UserError` as `compare`, and where no task is chosen.
    """
    differences = [difference for a, b in pairs for task, difference in _differences(a, b).items() if tasks(task)]
    if not differences:
        raise UserError(f"{name}: the results have no such task; evaluate with the task file of this comparison")
    return _mean(name, differences)


_Difference = tuple[float, Floats, dict[str, float]]
"""Of accuracies, its (RESAMPLES,) bootstrap distribution, McNemar's p-value by template."""


def _differences(first: Summary, second: Summary) -> dict[str, _Difference]:
    """Of every task that both have."""
    pairs = [(a, b) for a in first.tasks for b in second.tasks if a.name == b.name]
    if not pairs:
        raise UserError(f"{first.model} and {second.model} have no task in common; compare runs of one task set")
    found = {}
    for a, b in pairs:
        templates, outcomes_a, outcomes_b = _common(a, b)
        difference, resampled = bootstrap_difference(outcomes_a, outcomes_b, key=a.name)
        p_values = {t: _mcnemar(x, y) for t, x, y in zip(templates, outcomes_a, outcomes_b, strict=True)}
        found[a.name] = (difference, resampled, p_values)
    return found


def _mean(name: str, differences: Sequence[_Difference]) -> Comparison:
    mean = float(np.mean([difference for difference, _, _ in differences]))
    return _comparison(name, mean, np.mean([resampled for _, resampled, _ in differences], axis=0), {})


def bootstrap_difference(first: Sequence[str], second: Sequence[str], key: str) -> tuple[float, Floats]:
    """Difference of the mean accuracies over templates, and its bootstrap distribution.

    first, second: outcomes per template (`1`, `0`, `-` per row). Rows are resampled, the same for both models and all
    templates, which keeps the pairing and the correlation between templates. Returns the difference and
    (RESAMPLES,) resampled differences.
    """
    right_a, scored_a = _matrices(first)
    right_b, scored_b = _matrices(second)
    num_rows = right_a.shape[1]

    def difference(weights: Floats) -> Floats:
        a = (weights @ right_a.T) / np.maximum(weights @ scored_a.T, 1)
        b = (weights @ right_b.T) / np.maximum(weights @ scored_b.T, 1)
        return np.asarray((b - a).mean(-1))

    generator = keyed_generator("bootstrap", key)
    uniform = np.full(num_rows, 1 / num_rows)
    parts = [
        difference(generator.multinomial(num_rows, uniform, RESAMPLES_AT_ONCE).astype(float))
        for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)
    ]
    return float(difference(np.ones((1, num_rows)))[0]), np.concatenate(parts)


def _comparison(name: str, difference: float, resampled: Floats, mcnemar: dict[str, float]) -> Comparison:
    low, high = np.quantile(resampled, [LEVEL / 2, 1 - LEVEL / 2])
    smaller_side = min((resampled <= 0).sum(), (resampled >= 0).sum())
    p_value = min(1.0, 2 * (float(smaller_side) + 1) / (len(resampled) + 1))
    return Comparison(name, difference, float(low), float(high), p_value, mcnemar)


def _common(first: TaskSummary, second: TaskSummary) -> tuple[list[str], list[str], list[str]]:
    """Template names and outcomes of the templates that both have."""
    a = {r.template: o for r, o in zip(first.results, first.outcomes(), strict=True)}
    b = {r.template: o for r, o in zip(second.results, second.outcomes(), strict=True)}
    templates = [t for t in a if t in b]
    rows = [{r.rows_hash for r in summary.results if r.rows_hash} for summary in (first, second)]
    if not templates or any(len(a[t]) != len(b[t]) for t in templates) or (all(rows) and rows[0] != rows[1]):
        raise UserError(f"task {first.name}: the two results are not of the same rows and templates; evaluate again")
    return templates, [a[t] for t in templates], [b[t] for t in templates]


def _mcnemar(first: str, second: str) -> float:
    both = [(a == RIGHT, b == RIGHT) for a, b in zip(first, second, strict=True) if ABSENT not in (a, b)]
    return mcnemar_exact(both.count((True, False)), both.count((False, True)))


def _matrices(outcomes: Sequence[str]) -> tuple[Floats, Floats]:
    """(templates, rows) right and scored, as 0 and 1."""
    right = np.array([[c == RIGHT for c in row] for row in outcomes], dtype=float)
    scored = np.array([[c != ABSENT for c in row] for row in outcomes], dtype=float)
    return right, scored
