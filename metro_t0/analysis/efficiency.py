"""Zero-shot score against what pretraining cost, for several checkpoints of several runs (paper figure 4)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import matplotlib
from matplotlib.ticker import EngFormatter, MaxNLocator

from metro_t0.analysis.figures import STYLE, look, new_figure, save
from metro_t0.analysis.training_log import read_log
from metro_t0.errors import UserError
from metro_t0.files import read_json, read_yaml
from metro_t0.shapes import field

COSTS = {"hours": "pretraining wall time (hours)", "tokens": "pretraining tokens"}


@dataclass(frozen=True)
class Point:
    """One checkpoint of a run."""

    run: str
    updates: int
    hours: float | None
    """Wall time of pretraining up to the checkpoint, interruptions left out; None where the log has none."""
    tokens: float | None
    """Tokens of the batches up to the checkpoint."""
    score: float
    """Average over the task set, 0 to 1."""
    standard_error: float | None
    label: str
    """What the average is a mean of."""


def read_runs(path: Path) -> list[Point]:
    """Read a YAML file of runs, their logs and the result directories of their checkpoints.

    runs: {NAME: {log: train.log, checkpoints: {UPDATES: RESULTS_DIRECTORY, ...}}, ...}; relative paths are relative
    to the file. A result directory is what `metro-t0-eval` wrote (its summary.json is read).
    Raises `UserError` where something is missing or averages are means of different things.
    """
    runs = _runs(path)
    points = [point for name, run in runs.items() for point in _points(path, name, run)]
    labels = {point.label for point in points}
    if len(labels) > 1:
        raise UserError(
            f"{path}: the scores are not comparable: {'; '.join(sorted(labels))}. Evaluate all on the same tasks"
        )
    first, *others = [path.parent / directory for run in runs.values() for directory in run["checkpoints"].values()]
    for other in others:
        if different := {name for name, _ in _scored(first) ^ _scored(other)}:
            raise UserError(
                f"{path}: the scores are not comparable: {first} and {other} are not of the same rows of "
                f"{min(different)}. Evaluate all on the same tasks"
            )
    return points


def _scored(directory: Path) -> set[tuple[str, int]]:
    """What an average is over: its tasks and their numbers of rows, so that two averages of 9 of 11 tasks differ."""
    summary = directory / "summary.json"
    tasks: dict[str, Scored] = field(read_json(summary, dict[str, Any]), "tasks", dict[str, Scored], str(summary))
    return {(name, task["n"]) for name, task in tasks.items()}


class Run(TypedDict):
    """A run of runs.yaml."""

    log: str
    checkpoints: dict[int, str]


class Average(TypedDict):
    """The average of a summary.json."""

    value: float
    standard_error: float | None
    label: str


class Scored(TypedDict):
    """A task of a summary.json."""

    n: int


def _runs(path: Path) -> dict[str, Run]:
    runs: dict[str, Run] = field(read_yaml(path, dict[str, Any]), "runs", dict[str, Run], str(path))
    if not runs:
        raise UserError(f"{path}: give runs: {{NAME: {{log: FILE, checkpoints: {{UPDATES: DIRECTORY}}}}}}")
    for name, run in runs.items():
        if unknown := set(run) - {"log", "checkpoints"}:
            raise UserError(f"{path}: run {name}: unknown field {min(unknown)}; it has log and checkpoints")
    return runs


def _points(path: Path, name: str, run: Run) -> list[Point]:
    log = read_log(path.parent / run["log"])
    points = []
    for updates, directory in sorted(run["checkpoints"].items()):
        summary = path.parent / directory / "summary.json"
        average: Average = field(read_json(summary, dict[str, Any]), "average", Average, str(summary))
        hours, tokens = cost_at(log, updates)
        points.append(
            Point(name, updates, hours, tokens, average["value"], average["standard_error"], average["label"])
        )
    return points


def cost_at(log: Sequence[Mapping[str, Any]], updates: int) -> tuple[float | None, float | None]:
    """Hours and tokens of training up to that update, linear between the records of the log.

    `wpb` is the mean number of tokens per update of an interval, `wps` that per second (0 of a process's first update
    alone), which gives its seconds. fairseq's own `wall` is 0 after a restart; it counts only where there is no `wps`.
    Raises `UserError` where the log ends before.
    """
    records = [record for record in log if record["split"] == "train"]
    if not records or records[-1]["updates"] < updates:
        last = records[-1]["updates"] if records else 0
        raise UserError(f"the log ends at update {last}, before the checkpoint of update {updates}")
    before, seconds, tokens = 0, 0.0, 0.0
    known = {key: all(key in record for record in records) for key in ("wall", "wpb")}
    rates = [record["wps"] for record in records if record.get("wps")]
    has_rates = known["wpb"] and all("wps" in record for record in records) and bool(rates)
    usual = statistics.median(rates) if has_rates else 0.0
    for record in records:
        share = min(1.0, (updates - before) / (record["updates"] - before))
        read = share * (record["updates"] - before) * record.get("wpb", 0.0)
        tokens += read
        seconds += read / (record["wps"] or usual) if has_rates else share * (record.get("wall", 0.0) - seconds)
        if record["updates"] >= updates:
            break
        before = record["updates"]
    return seconds / 3600 if has_rates or known["wall"] else None, tokens if known["wpb"] else None


def plot_efficiency(points: Sequence[Point], output: Path) -> list[Path]:
    """Score (percent, with standard errors) over wall time and over tokens, a line per run."""
    panels = [cost for cost in COSTS if all(getattr(point, cost) is not None for point in points)]
    if not panels:
        raise UserError("the logs have neither wall times nor tokens per update; plot from fairseq's own JSON logs")
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.6 * len(panels) + 0.2, 3.0)
        for axes, cost in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
            for number, run in enumerate(dict.fromkeys(point.run for point in points)):
                mine = [point for point in points if point.run == run]
                style = look(number)
                axes.errorbar(
                    [getattr(point, cost) for point in mine], [100 * point.score for point in mine],
                    yerr=[100 * (point.standard_error or 0.0) for point in mine], color=style.color,
                    marker=style.marker, markersize=4, capsize=2, linewidth=1.4, label=run,
                )  # fmt: skip
            axes.set_xlabel(COSTS[cost])
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
            if cost == "tokens":
                axes.xaxis.set_major_formatter(EngFormatter())  # 131G
        first = figure.axes[0]
        first.set_ylabel(f"zero-shot accuracy (%),\n{points[0].label}")
        handles, labels = first.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
        return save(figure, output, [vars(point) for point in points])
