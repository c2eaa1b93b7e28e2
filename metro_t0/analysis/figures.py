"""How every figure looks and is saved: colors safe for the color-blind, legible in print, data beside the picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metro_t0.files import atomic_path

# Okabe and Ito's palette with brown for its yellow, which vanishes on white paper.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8B5A2B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
BASELINE_COLOR = "#666666"
STYLE: dict[str, Any] = {
    "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#DDDDDD", "grid.linewidth": 0.6, "legend.frameon": False, "savefig.dpi": 200,
    "svg.fonttype": "none", "svg.hashsalt": "metro-t0",
}  # fmt: skip
DASHES = ("-", "--", "-.", ":")
MARKERS_PER_LINE = 8
SUFFIXES = (".png", ".svg", ".csv")
MOST_LAYER_TICKS = 16


@dataclass(frozen=True)
class Look:
    """Color, marker and dashes of one series; no two of the first 64 are alike."""

    color: str
    marker: str
    dashes: str
    """For lines that can have no markers."""


def look(number: int) -> Look:
    """The look of the series of that number: color and marker change together until the colors are used up."""
    turn, place = divmod(number, len(COLORS))
    return Look(COLORS[place], MARKERS[(place + turn) % len(MARKERS)], DASHES[number % len(DASHES)])


def marker_spacing(points: int) -> int:
    """`markevery` of a line of so many points: a few markers tell lines apart without hiding them."""
    return max(1, points // MARKERS_PER_LINE)


def number_layers(axes: Axes, layers: Sequence[int]) -> None:
    """Whole numbers on the axis of layers, all of them where they are few."""
    axes.set_xlabel("layer")
    if len(set(layers)) <= MOST_LAYER_TICKS:
        axes.set_xticks(sorted(set(layers)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, drawn without any display."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, output: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write OUTPUT.png, OUTPUT.svg and the plotted numbers as OUTPUT.csv; returns the three paths.

    output: path with one of the three suffixes, or with none. rows: one mapping per line of the CSV.
    """
    stem = output.with_suffix("") if output.suffix in SUFFIXES else output
    paths = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
    for path in paths[:2]:
        with atomic_path(path) as temporary, matplotlib.rc_context(STYLE):
            metadata = {"Date": None} if path.suffix == ".svg" else None  # the same data give the same file
            figure.savefig(temporary, format=path.suffix[1:], metadata=metadata)
    write_csv(paths[2], rows)
    return paths


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows under the union of their keys, in order of first appearance; missing values stay empty."""
    names = list(dict.fromkeys(_keys(rows)))
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _keys(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield from row
