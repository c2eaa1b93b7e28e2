"""The figures of a report, as matplotlib figures: PNG and SVG files, and SVG text for the HTML page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.summary import Summary, TaskSummary
from metro_t0.files import atomic_path, write_text

# Okabe and Ito's palette: told apart with any color vision.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = "osD^vP"
SVG_SALT = "metro-t0"


def dot_plot(summaries: Sequence[Summary]) -> Figure:
    """Accuracy of every prompt template, a row of dots per task and model (as figures 1 and 8 of the paper).

    A bar marks the median over templates, dashes chance, dots the majority baseline.
    """
    names = task_names(summaries)
    figure, axes = _task_axes(len(names), len(summaries), names)
    for position, name in enumerate(names):
        for number, summary in enumerate(summaries):
            task = find_task(summary, name)
            if task is None:
                continue
            y = position + _offset(number, len(summaries))
            values = [100 * score.value for score in task.template_scores()]
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            heights = [y] * len(values)
            axes.scatter(values, heights, color=color, marker=marker, s=22, alpha=0.55, linewidths=0, zorder=3)
            axes.plot([100 * task.median] * 2, [y - 0.16, y + 0.16], color="black", linewidth=2, zorder=4)
        _baselines(axes, position, next(t for s in summaries if (t := find_task(s, name))))
    for number, summary in enumerate(summaries):
        axes.scatter(
            [], [], color=COLORS[number % len(COLORS)], marker=MARKERS[number % len(MARKERS)], label=summary.model
        )
    axes.plot([], [], color="black", linewidth=2, label="median over templates")
    _legend(axes)
    return figure


def bar_plot(summaries: Sequence[Summary]) -> Figure:
    """Mean accuracy per task and model; the whisker spans the templates (as figure 5 of the paper)."""
    names = task_names(summaries)
    figure, axes = _task_axes(len(names), len(summaries), names)
    height = 0.8 / len(summaries)
    for number, summary in enumerate(summaries):
        tasks = [(position, task) for position, name in enumerate(names) if (task := find_task(summary, name))]
        means = np.array([100 * task.score.value for _, task in tasks])
        spread = [[100 * s.value for s in task.template_scores()] for _, task in tasks]
        whiskers = np.abs(np.array([[min(v) for v in spread], [max(v) for v in spread]]) - means)
        axes.barh(
            [position + _offset(number, len(summaries)) for position, _ in tasks],
            means,
            height,
            xerr=whiskers,
            color=COLORS[number % len(COLORS)],
            error_kw={"elinewidth": 1, "capsize": 2},
            label=summary.model,
        )
    for position, name in enumerate(names):
        _baselines(axes, position, next(t for s in summaries if (t := find_task(s, name))))
    _legend(axes)
    return figure


def save_figure(figure: Figure, directory: Path, name: str) -> str:
    """Write NAME.png and NAME.svg and return the SVG element, to be placed in a page."""
    with matplotlib.rc_context({"svg.hashsalt": SVG_SALT}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    with atomic_path(directory / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    write_text(directory / f"{name}.svg", buffer.getvalue())
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def task_names(summaries: Sequence[Summary]) -> list[str]:
    """Tasks that at least one has, in order."""
    return list(dict.fromkeys(task.name for summary in summaries for task in summary.tasks))


def find_task(summary: Summary, name: str) -> TaskSummary | None:
    """A task of a summary by name."""
    return next((task for task in summary.tasks if task.name == name), None)


def _task_axes(num_tasks: int, num_models: int, names: Sequence[str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 1.4 + num_tasks * (0.25 + 0.16 * num_models)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(num_tasks), names)
    axes.set_ylim(num_tasks - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy (%)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _baselines(axes: Axes, position: int, task: TaskSummary) -> None:
    first = position == 0
    for value, style, label in ((task.chance, "--", "chance"), (task.majority, ":", "majority")):
        axes.plot(
            [100 * value] * 2,
            [position - 0.42, position + 0.42],
            style,
            color="#555555",
            linewidth=1.3,
            zorder=2,
            label=label if first else None,
        )


def _offset(number: int, count: int) -> float:
    """Where in the row of a task a model goes."""
    return (number - (count - 1) / 2) * 0.8 / count


def _legend(axes: Axes) -> None:
    axes.figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
