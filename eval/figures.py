"""The figures of a report, as matplotlib figures: PNG and SVG files, and SVG text for the HTML page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.summary import Summary, TaskSummary
from metro_t0.analysis.figures import COLORS, STYLE, Look, look, new_figure
from metro_t0.files import atomic_path, write_text

INK, PAPER, GRID = "#1b1f24", "#ffffff", STYLE["grid.color"]
ON_A_PAGE = {INK: "currentColor", PAPER: "var(--paper, #fff)", GRID: "var(--line, #ddd)"}
ON_A_PAGE |= {color: f"var(--series-{number}, {color})" for number, color in enumerate(COLORS)}
"""Colors that a page in dark mode has to change, and how it does: the variables are set in report.html."""
REPORT_STYLE = STYLE | {
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK,
    "axes.grid.axis": "x", "axes.axisbelow": True,
}  # fmt: skip
ON_A_PAGE = {color.upper(): on_page for color, on_page in ON_A_PAGE.items()}
HEX = re.compile("#[0-9a-fA-F]{6}")
BASELINES = (("chance", "--"), ("majority", ":"))


def dot_plot(summaries: Sequence[Summary]) -> Figure:
    """Accuracy of every prompt template, a row of dots per task and model (as figures 1 and 8 of the paper).

    A bar marks the median over templates, dashes chance, dots the majority baseline.
    """
    figure, axes, names = _task_axes(summaries)
    for number, position, task in _tasks(summaries, names):
        y, style = position + _offset(number, len(summaries)), look(number)
        values = [100 * score.value for score in task.template_scores()]
        _scatter(axes, values, [y] * len(values), style, alpha=0.55)
        axes.plot([100 * task.median] * 2, [y - 0.16, y + 0.16], color=INK, linewidth=2, zorder=4)
    _baselines(axes, summaries, names)
    for number, summary in enumerate(summaries):
        _scatter(axes, [], [], look(number), label=summary.model)
    axes.plot([], [], color=INK, linewidth=2, label="median over templates")
    return _finished(figure)


def bar_plot(summaries: Sequence[Summary]) -> Figure:
    """Mean accuracy per task and model; the whisker spans the templates (as figure 5 of the paper)."""
    figure, axes, names = _task_axes(summaries)
    height = 0.8 / len(summaries)
    for number, position, task in _tasks(summaries, names):
        y, style, mean = position + _offset(number, len(summaries)), look(number), 100 * task.score.value
        spread = [100 * score.value for score in task.template_scores()]
        whisker = np.array([[max(mean - min(spread), 0.0)], [max(max(spread) - mean, 0.0)]])
        axes.barh(y, mean, height, color=style.color, alpha=0.85)
        axes.errorbar(mean, y, xerr=whisker, color=INK, elinewidth=1, capsize=2, zorder=4)
        _scatter(axes, [mean], [y], style, edgecolors=PAPER)
    _baselines(axes, summaries, names)
    for number, summary in enumerate(summaries):
        _scatter(axes, [], [], look(number), label=summary.model)
    return _finished(figure)


def save_figure(figure: Figure, directory: Path, name: str) -> str:
    """Write NAME.png and NAME.svg and return the SVG element for a page, in whose ink and paper it is drawn."""
    with matplotlib.rc_context(REPORT_STYLE):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        with atomic_path(directory / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    text = buffer.getvalue()
    write_text(directory / f"{name}.svg", text)
    text = HEX.sub(lambda match: ON_A_PAGE.get(match[0].upper(), match[0]), text)
    return text[text.index("<svg") :]


def task_names(summaries: Sequence[Summary]) -> list[str]:
    """Tasks that at least one has, in order."""
    return list(dict.fromkeys(task.name for summary in summaries for task in summary.tasks))


def find_task(summary: Summary, name: str) -> TaskSummary | None:
    """A task of a summary by name."""
    return next((task for task in summary.tasks if task.name == name), None)


def _tasks(summaries: Sequence[Summary], names: Sequence[str]) -> Iterable[tuple[int, int, TaskSummary]]:
    """(number of the model, row of the task, task), where the model has it."""
    for number, summary in enumerate(summaries):
        for position, name in enumerate(names):
            if (task := find_task(summary, name)) is not None:
                yield number, position, task


def _task_axes(summaries: Sequence[Summary]) -> tuple[Figure, Axes, list[str]]:
    names = task_names(summaries)
    with matplotlib.rc_context(REPORT_STYLE):
        figure = new_figure(8, 1.4 + len(names) * (0.25 + 0.16 * len(summaries)))
        axes = figure.subplots()
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)  # none where no task is done
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy (%)")
    return figure, axes, names


def _scatter(axes: Axes, x: Sequence[float], y: Sequence[float], style: Look, **settings: Any) -> None:
    given: dict[str, Any] = {"linewidths": 0 if "edgecolors" not in settings else 0.8, "s": 24, "zorder": 5, **settings}
    axes.scatter(x, y, color=None, facecolors=style.color, marker=style.marker, **given)


def _baselines(axes: Axes, summaries: Sequence[Summary], names: Sequence[str]) -> None:
    """In front of bars and dots, with an edge of paper, so that they are seen on either."""
    edge = [patheffects.Stroke(linewidth=3.2, foreground=PAPER), patheffects.Normal()]
    for position, name in enumerate(names):
        task = next(task for summary in summaries if (task := find_task(summary, name)))
        for baseline, dashes in BASELINES:
            value = 100 * getattr(task, baseline)
            axes.plot(
                [value] * 2, [position - 0.42, position + 0.42], dashes, color=INK, linewidth=1.5, zorder=6,
                path_effects=edge, label=None if position else baseline,
            )  # fmt: skip


def _offset(number: int, count: int) -> float:
    """Where in the row of a task a model goes."""
    return (number - (count - 1) / 2) * 0.8 / count


def _finished(figure: Figure) -> Figure:
    with matplotlib.rc_context(REPORT_STYLE):
        legend = figure.legend(loc="outside upper center", ncols=4)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
