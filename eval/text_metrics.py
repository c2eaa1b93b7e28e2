"""Metrics of generated text: ROUGE-1, exact match, token F1, SQuAD's EM and F1. All in percent."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from metro_t0.randomness import keyed_generator

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
BOOTSTRAP_SAMPLES = 1000


def exact_match(prediction: str, reference: str) -> float:
    """100 where both strings are equal, character by character."""
    return 100.0 * (prediction == reference)


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the multisets of whitespace tokens, without normalization; 0 without overlap (MTOP, WebQSP)."""
    return _f1(prediction.split(), reference.split())


def _f1(predicted: Sequence[str], wanted: Sequence[str]) -> float:
    common = sum((Counter(predicted) & Counter(wanted)).values())
    return 200.0 * common / (len(predicted) + len(wanted)) if common else 0.0


def normalize_answer(text: str) -> str:
    """SQuAD's normalization: lower case, no punctuation, no articles, single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def squad_em(prediction: str, reference: str) -> float:
    """Exact match after SQuAD's normalization."""
    return 100.0 * (normalize_answer(prediction) == normalize_answer(reference))


def squad_f1(prediction: str, reference: str) -> float:
    """Token F1 after SQuAD's normalization; two empty answers agree."""
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not predicted or not wanted:
        return 100.0 * (predicted == wanted)
    return _f1(predicted, wanted)


def rouge1(prediction: str, reference: str) -> float:
    """F-measure of ROUGE-1 of the rouge-score package, without stemming."""
    return 100.0 * float(_rouge_scorer().score(reference, prediction)["rouge1"].fmeasure)


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=False)


Metric = Callable[[str, str], float]
METRICS: Mapping[str, Metric] = {
    "rouge1": rouge1,
    "em": exact_match,
    "f1": token_f1,
    "squad_em": squad_em,
    "squad_f1": squad_f1,
}


def best_over_references(metric: Metric, prediction: str, references: Sequence[str]) -> float:
    """The score against the reference that fits best (SQuAD has several answers per question)."""
    return max(metric(prediction, reference) for reference in references)


def bootstrap_midpoint(scores: Sequence[float]) -> float:
    """Median of the means of 1,000 resamples: the figure that bootstrap aggregation of ROUGE reports.

    Equal to the mean up to the noise of resampling. Seeded, so that it is the same in every run.
    """
    values = np.asarray(scores, dtype=np.float64)
    generator = keyed_generator("bootstrap", len(values))
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAP_SAMPLES)]
    return float(np.median(means))
