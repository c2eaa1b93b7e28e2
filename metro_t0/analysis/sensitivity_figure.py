"""The picture of parameter sensitivities: distribution, by kind of matrix, by layer (paper figure 7)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from metro_t0.analysis.figures import STYLE, look, new_figure, number_layers, save, write_csv
from metro_t0.analysis.sensitivity import (
    EDGES,
    LogHistogram,
    ParameterGroup,
    histogram_rows,
    kinds_in,
    merged,
    summary_rows,
)

Checkpoints = Mapping[str, Mapping[ParameterGroup, LogHistogram]]
POWER_OF_TEN = FuncFormatter(lambda value, _: f"$10^{{{value:g}}}$")
AXIS = "sensitivity |theta dL/dtheta|"


def plot_sensitivities(checkpoints: Checkpoints, output: Path) -> list[Path]:
    """Four panels; the histograms go to FIGURE.csv and the quartiles to FIGURE.summary.csv. Gives all paths.

    checkpoints: name -> histograms per group of parameters. All axes of sensitivity are log scales.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.6, 6.0)
        panels = figure.subplots(2, 2)
        _draw_distribution(panels[0, 0], checkpoints)
        _draw_kinds(panels[0, 1], checkpoints)
        for axes, stack in zip(panels[1], ("encoder", "decoder"), strict=True):
            _draw_layers(axes, checkpoints, stack)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
        rows = [row for name, groups in checkpoints.items() for row in histogram_rows(name, groups)]
        paths = save(figure, output, rows)
    summary = paths[-1].with_suffix(".summary.csv")
    write_csv(summary, [row for name, groups in checkpoints.items() for row in summary_rows(name, groups)])
    return [*paths, summary]


def _draw_distribution(axes: Axes, checkpoints: Checkpoints) -> None:
    """Share of all parameters per bin; the bins are 1/20 of a decade wide."""
    filled = np.zeros(len(EDGES) - 1, dtype=bool)
    for number, (name, groups) in enumerate(checkpoints.items()):
        whole = merged(groups)
        share = 100 * whole.counts / whole.number
        filled[1:] |= share[1:] > 0.01  # the lowest bin holds underflow, which would stretch the axis
        style, label = look(number), f"{name} ({_zeros(whole)})"
        axes.stairs(share, EDGES, color=style.color, linestyle=style.dashes, linewidth=1.4, label=label)
    bins = np.flatnonzero(filled)
    if len(bins):
        axes.set_xlim(EDGES[bins[0]], EDGES[bins[-1] + 1])
    axes.xaxis.set_major_formatter(POWER_OF_TEN)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.set_title("All parameters", loc="left")
    axes.set_ylabel("parameters per bin (%)")
    axes.set_xlabel(AXIS)


def _zeros(histogram: LogHistogram) -> str:
    return f"{100 * histogram.zeros / histogram.number:.1f}% are 0"


def _draw_kinds(axes: Axes, checkpoints: Checkpoints) -> None:
    """Median (marker) and quartiles (bar) of each kind; zeros, such as unseen embeddings, are left out."""
    kinds = kinds_in(list(checkpoints.values()))
    step = 0.7 / len(checkpoints)
    for number, groups in enumerate(checkpoints.values()):
        style = look(number)
        for place, kind in enumerate(kinds):
            one = merged(groups, kind=kind).without_zeros
            low, middle, high = (one.quantile(q) for q in (0.25, 0.5, 0.75))
            height = place + (number - (len(checkpoints) - 1) / 2) * step
            if np.isfinite(middle):
                axes.plot([max(low, EDGES[0]), high], [height, height], color=style.color, linewidth=2)
                axes.plot(middle, height, color=style.color, marker=style.marker, markersize=4)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(POWER_OF_TEN)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_title("By kind: median, quartiles", loc="left")
    axes.set_xlabel(AXIS)


def _draw_layers(axes: Axes, checkpoints: Checkpoints, stack: str) -> None:
    """Median per layer, quartiles as a band; zeros are left out."""
    shown: list[int] = []
    for number, groups in enumerate(checkpoints.values()):
        layers = sorted({group.layer for group in groups if group.stack == stack})
        ones = [merged(groups, stack=stack, layer=layer).without_zeros for layer in layers]
        low, middle, high = (
            np.array([max(one.quantile(q), float(EDGES[0])) for one in ones]) for q in (0.25, 0.5, 0.75)
        )
        style = look(number)
        axes.plot(layers, middle, color=style.color, marker=style.marker, markersize=4)
        axes.fill_between(layers, low, high, color=style.color, alpha=0.12, linewidth=0)
        shown += layers
    number_layers(axes, shown)
    axes.yaxis.set_major_formatter(POWER_OF_TEN)
    axes.set_title(f"{stack.capitalize()} by layer: median, quartiles", loc="left")
    axes.set_ylabel(AXIS)
