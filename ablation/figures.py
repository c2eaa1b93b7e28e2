"""The curves of the variants side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablation.steps import Job
from metro_t0.analysis.training_log import plot_curves

FIGURES = {
    "figure3a_clm_loss": ("clm_loss", ("metro", "rtd_decoder", "rtd_decoder_projection")),
    "figure3b_rtd_recall": ("rtd_recall", ("metro", "span_mask")),
}
"""Figure -> metric and the variants that the paper compares in it."""


def draw(jobs: Sequence[Job], directory: Path) -> list[Path]:
    """The curves of the first seed: all losses and accuracies, and the paper's two comparisons."""
    logs = {job.variant.name: job.pretraining_log for job in jobs if job.seed == 1 and job.pretraining_log.is_file()}
    titles = {job.variant.name: job.variant.title for job in jobs}
    wanted: dict[str, tuple[list[str] | None, list[str]]] = {"curves": (None, list(logs))}
    for figure, (metric, compared) in FIGURES.items():
        present = [name for name in compared if name in logs]
        if len(present) > 1:
            wanted[figure] = ([metric], present)
    paths: list[Path] = []
    for figure, (metrics, names) in wanted.items():
        chosen = {titles[name]: logs[name] for name in names}
        if chosen:
            paths += plot_curves(chosen, directory / figure, metrics=metrics, over="tokens")
    return paths
