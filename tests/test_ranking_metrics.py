"""Ranking quality from counts of scores against scikit-learn on the scores themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from metro_t0.ranking_metrics import area_under_roc, average_precision, score_counts

SCORES = st.one_of(st.sampled_from([-0.0, 0.0, 1.0, -2.5]), st.floats(-60000, 60000, width=16))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(SCORES, st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_equals_scikit_learn_on_scores_of_half_precision(rows: list[tuple[float, bool, bool]]) -> None:
    scores, labels, counted = (torch.tensor(column) for column in zip(*rows, strict=True))
    half = len(rows) // 2  # counts of parts add up
    parts = [slice(0, half), slice(half, None)]
    counts = torch.stack([score_counts(scores[p], labels[p], counted[p]) for p in parts]).sum(0)
    kept, truth = scores[counted].numpy(), labels[counted].numpy()
    assert counts.sum() == len(kept)
    if not truth.any() or truth.all():
        assert math.isnan(area_under_roc(counts))
        return
    assert area_under_roc(counts) == pytest.approx(roc_auc_score(truth, kept))
    assert average_precision(counts) == pytest.approx(average_precision_score(truth, kept))


def test_rounding_hardly_changes_logits_of_single_precision() -> None:
    """Logits as a detector's are in its first minutes, all near the base rate's."""
    random = np.random.default_rng(0)
    truth = random.random(20_000) < 0.12
    scores = (-2.0 + 0.05 * random.standard_normal(20_000) + 0.03 * truth).astype(np.float32)
    tensors = (torch.from_numpy(scores), torch.from_numpy(truth), torch.ones(20_000, dtype=torch.bool))
    counts = score_counts(*tensors)
    assert area_under_roc(counts) == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
    assert average_precision(counts) == pytest.approx(average_precision_score(truth, scores), abs=1e-3)
