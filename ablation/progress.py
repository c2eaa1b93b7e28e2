"""How far a model is after which part of its pretraining (paper figure 4): fine-tuned from several checkpoints."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from ablation.steps import Job, nearest_checkpoint, updates_after, updates_in
from ablation.table import held_out_of, updates_of
from metro_t0.analysis.figures import STYLE, look, new_figure, save
from metro_t0.files import read_json

METRICS = {"average": "accuracy, mean over tasks", "held_out": "exact match, held-out rows"}


def write_progress(jobs: Sequence[Job], output: Path) -> list[Path]:
    """OUTPUT/figures/progress.*: one panel per measure, one line per variant, mean over seeds; none for one part."""
    rows = [row for job in jobs for row in _rows(job)]
    if len({row["part"] for row in rows}) < 2:
        return []
    metrics = [name for name in METRICS if any(name in row for row in rows)]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(4.2 * len(metrics), 4.2)
        panels = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            _draw_panel(axes, rows, metric)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(2, len(labels)))
        return save(figure, output / "figures" / "progress", rows)


def _draw_panel(axes: Axes, rows: Sequence[dict[str, Any]], metric: str) -> None:
    """Means over seeds, which under --hours differ in updates, too; the bars are standard deviations over seeds."""
    for number, variant in enumerate(dict.fromkeys(row["variant"] for row in rows)):
        mine = [row for row in rows if row["variant"] == variant and metric in row]
        style = look(number)
        parts = [[row for row in mine if row["part"] == part] for part in sorted({row["part"] for row in mine})]
        values = [[row[metric] for row in part] for part in parts]
        updates = [statistics.fmean(row["updates"] for row in part) for part in parts]
        axes.errorbar(
            updates, [statistics.fmean(v) for v in values], color=style.color, marker=style.marker, label=variant,
            linestyle=style.dashes, yerr=[statistics.stdev(v) if len(v) > 1 else 0.0 for v in values], capsize=2,
        )  # fmt: skip
    axes.set_xlabel("pretraining updates")
    axes.set_title(f"{METRICS[metric]}, percent", loc="left")


def _rows(job: Job) -> Iterator[dict[str, Any]]:
    for part in job.plan.parts if job.variant.pretraining else (1.0,):
        at = dataclasses.replace(job, part=part)
        if not (at.work / "evaluate.done.json").is_file():
            continue
        updates = updates_of(job)
        start = None if part == 1 else nearest_checkpoint(at, updates)
        row: dict[str, Any] = {
            "variant": job.variant.title, "seed": job.seed, "part": part,
            "updates": updates_in(start) if start else updates if part == 1 else updates_after(part, updates),
            "average": 100 * read_json(at.results / "summary.json")["average"]["value"],
        }  # fmt: skip
        if at.scores.is_file():
            row["held_out"] = 100 * held_out_of(at)["value"]
        yield row
