"""Starting points of fine-tuning beside the printed results: gap closed, and what a scheme keeps of full transfer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from metro_t0.analysis.figures import BASELINE_COLOR, STYLE, look, new_figure, save
from metro_t0.analysis.synthetic_results import SCHEMES, kept_of_full, main_gaps
from metro_t0.errors import UserError

Scores = Mapping[str, list[float]]  # start -> one value per seed


def read_runs(directory: Path, metric: str) -> dict[str, list[float]]:
    """Start -> final value per seed, from the files of scripts/benchmarks/init_schemes.py.

    Raises `UserError` where a file is not one of these or `random` or `full` is missing.
    """
    found: dict[str, list[float]] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault(run["start"], []).append(float(run["curve"][-1][metric]))
        except (ValueError, KeyError, TypeError, IndexError):
            raise UserError(f"{path}: not a run of scripts/benchmarks/init_schemes.py with a {metric}") from None
    for start in ("random", "full"):
        if start not in found:
            raise UserError(f"{directory}: no run that starts from {start}, which the others are compared with")
    return found


def kept_in_runs(scores: Scores) -> dict[str, tuple[float, float]]:
    """Scheme -> (mean, standard deviation over seeds) of the percent it keeps of the gain of full transfer."""
    low, high = np.mean(scores["random"]), np.mean(scores["full"])
    shares = {name: 100 * (np.array(values) - low) / (high - low) for name, values in scores.items()}
    return {
        name: (float(share.mean()), float(share.std(ddof=1)) if len(share) > 1 else 0.0)
        for name, share in shares.items()
        if name in SCHEMES
    }


def plot_schemes(directory: Path, output: Path, source: str, metric: str) -> list[Path]:
    """Both panels as PNG and SVG with the numbers as CSV (panel, name, origin, percent, sd)."""
    gaps = {name: gap for name, gap in main_gaps().items() if name not in ("random_init", "pretrained_t5")}
    printed, ours = kept_of_full(source), kept_in_runs(read_runs(directory, metric))
    rows: list[dict[str, Any]] = [
        {"panel": "gap closed", "name": name, "origin": "paper", "percent": f"{gap:.1f}", "sd": ""}
        for name, gap in gaps.items()
    ]
    for name in printed:
        rows.append({"panel": "kept", "name": name, "origin": "paper", "percent": f"{printed[name]:.1f}", "sd": ""})
        if name in ours:
            mean, sd = ours[name]
            rows.append({"panel": "kept", "name": name, "origin": "ours", "percent": f"{mean:.1f}", "sd": f"{sd:.1f}"})
    with matplotlib.rc_context(STYLE):
        figure = new_figure(9, 4)
        left, right = figure.subplots(1, 2)
        order = sorted(gaps, key=gaps.__getitem__)
        left.barh(order, [gaps[name] for name in order], color=look(0).color)
        left.set_xlabel("gap to T5 closed, mean of six tasks (%)")
        left.set_title("Printed results", loc="left")
        _draw_schemes(right, printed, ours)
        right.set_title(f"Kept of full transfer ({source})", loc="left")
        return save(figure, output, rows)


def _draw_schemes(axes: Axes, printed: Mapping[str, float], ours: Mapping[str, tuple[float, float]]) -> None:
    names = list(printed)[::-1]
    places = np.arange(len(names))
    axes.barh(places + 0.2, [printed[name] for name in names], 0.4, color=look(0).color, label="paper")
    measured = [place for place, name in enumerate(names) if name in ours]
    means, deviations = zip(*(ours[names[place]] for place in measured), strict=True)
    axes.barh(
        np.array(measured) - 0.2, means, 0.4, xerr=deviations, color=look(1).color, label="ours", error_kw={"lw": 1}
    )
    axes.axvline(0, color=BASELINE_COLOR, lw=0.8)
    axes.set_yticks(places, names)
    axes.set_xlabel("of the gain over random (%)")
    axes.legend()
