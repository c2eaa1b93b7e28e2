"""Training diagnostics: fairseq's JSON log lines, and the curves of losses and accuracies (figures 3a and 3b)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metro_t0.analysis.figures import BASELINE_COLOR, STYLE, Look, look, marker_spacing, new_figure, save
from metro_t0.errors import UserError
from metro_t0.objectives.losses import OBJECTIVES, TITLES

Over = Literal["updates", "tokens"]
_BY_OBJECTIVE = [[f"{objective.name}_loss", *objective.metric_titles] for objective in OBJECTIVES]
PANELS = {name: TITLES[name] for row in zip_longest(*_BY_OBJECTIVE) for name in row if name} | {"loss": "Loss"}
"""Metric of the log -> title of its panel, in the order of the figure: a column for each objective."""

LOG_NAME = "train.log"
"""What training writes into its save_dir."""
PRINTED = re.compile(r"(?:update +(?P<updates>[\d,]+)|(?P<subset>valid\S*) +at (?P<at>[\d,]+))(?P<losses>.*)$")
PRINTED_LOSS = re.compile(r"\b([a-z]\w*) +(\d+\.\d{4})\b")

NOT_MEASURED_IN_TRAINING = ("clm_accuracy_unmasked",)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records of a run in order of updates: of its directory (train.log in it), its log file, or what it printed.

    What was printed is JSON (`--log-format json`) or lines such as "update 20 of 100  20.0%  mlm 6.6130 ...".

    Each record has `split` ("train", or the name of the validation set), `updates` (int), `tokens` (source tokens seen
    until then, where the log has tokens per update), and the metrics as floats.
    Training records are the interval means of `--log-interval`; where there are none, the means of epochs. After a
    restart the later record of an update counts, and what the run did beyond, before it, is no part of it.
    Lines that are no records are skipped.
    Raises `UserError` where the file is missing or holds no record.
    """
    records: dict[tuple[str, int], dict[str, Any]] = {}
    last: dict[str, int] = {}
    for line in _lines(path):
        record = _record(line) or _printed(line)
        if record is None:
            continue
        split, updates = record["split"], record["updates"]
        if split.startswith("train"):
            if updates < last.get(split, 0):  # begun again, from an earlier checkpoint or from nothing
                records = {key: before for key, before in records.items() if key[1] <= updates}
            last[split] = updates
        records[split, updates] = record
    if not records:
        raise UserError(
            f"{path}: no training records; give a run's train.log or its output; a smaller --log-interval logs more"
        )
    has_intervals = any(split == "train_inner" for split, _ in records)
    unwanted = "train" if has_intervals else "train_inner"
    kept = [record for (split, _), record in records.items() if split != unwanted]
    for record in kept:
        record["split"] = record["split"].removesuffix("_inner")
    kept.sort(key=lambda record: (record["updates"], record["split"]))
    _count_tokens(kept)
    return kept


def _count_tokens(records: Sequence[dict[str, Any]]) -> None:
    """`tokens` of every record: the tokens per update of each logged interval times its updates, added up."""
    trained = [record for record in records if record["split"] == "train" and "wpb" in record]
    if not trained:
        return
    ends = [0, *(record["updates"] for record in trained)]
    seen = np.cumsum([0.0, *((b - a) * r["wpb"] for a, b, r in zip(ends, ends[1:], trained, strict=False))])
    for record in records:
        record["tokens"] = float(np.interp(record["updates"], ends, seen))


def _lines(path: Path) -> Iterator[str]:
    path = path / LOG_NAME if path.is_dir() else path
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            yield from stream
    except FileNotFoundError:
        raise UserError(f"{path}: no such log file") from None


def _record(line: str) -> dict[str, Any] | None:
    """A line's numbers without the prefix of the split, or None."""
    begin = line.find("{")
    if begin < 0:
        return None
    try:
        values = json.loads(line[begin:])
    except (ValueError, RecursionError):
        return None
    counters = [key for key in values if key.endswith("num_updates")] if isinstance(values, dict) else []
    if not counters:
        return None
    prefix = counters[0].removesuffix("num_updates")
    record: dict[str, Any] = {
        "split": prefix.removesuffix("_") or "train_inner",
        "updates": int(float(values[counters[0]])),
    }
    for key, value in values.items():
        number = _number(value)
        if key != counters[0] and number is not None:
            record[key.removeprefix(prefix)] = number
    return record


def _printed(line: str) -> dict[str, Any] | None:
    """The numbers of a line that training prints for people, or None."""
    found = PRINTED.search(line)
    if found is None:
        return None
    losses = {
        name if name == "loss" else f"{name}_loss": float(value)
        for name, value in PRINTED_LOSS.findall(found["losses"])
    }
    updates = int((found["updates"] or found["at"]).replace(",", ""))
    return {"split": "train_inner" if found["updates"] else found["subset"], "updates": updates, **losses}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def trivial_baselines(
    dict_path: Path, replaced_share: float | None = None, replacement_rate: float | None = None
) -> dict[str, float]:
    """What a model reaches that has understood nothing: metric -> value, for the dashed lines.

    Losses and accuracy at masks: always answering the piece frequencies of dict.txt. With the share of all real tokens
    that were replaced: RTD that always answers this base rate, or ranks by chance. With the share of the masks that get
    another token (`replacement_rate`): CLM that copies its input. Both shares are metrics of the log.
    """
    counts = _piece_counts(dict_path)
    total = sum(counts)
    entropy = -sum(count / total * math.log(count / total) for count in counts if count)
    baselines = {"mlm_loss": entropy, "clm_loss": entropy, "mlm_accuracy": max(counts) / total}
    if replaced_share is not None:
        replaced = min(max(replaced_share, 1e-12), 1 - 1e-12)
        baselines |= {"rtd_auc": 0.5, "rtd_average_precision": replaced_share}
        baselines["rtd_loss"] = -replaced * math.log(replaced) - (1 - replaced) * math.log1p(-replaced)
    if replacement_rate is not None:
        baselines["clm_accuracy_masked"] = 1 - replacement_rate
        baselines["clm_accuracy_unmasked"] = 1.0
    return baselines


def _piece_counts(dict_path: Path) -> list[int]:
    try:
        lines = dict_path.read_text(encoding="utf-8").split("\n")
        counts = [int(line.rsplit(" ", 1)[1]) for line in lines if line and not line.endswith("#fairseq:overwrite")]
    except FileNotFoundError:
        raise UserError(f"{dict_path}: no such file") from None
    except (IndexError, ValueError):
        raise UserError(f"{dict_path}: not a fairseq dictionary (lines of a piece and its count)") from None
    if not sum(counts):
        raise UserError(f"{dict_path}: all piece counts are 0, so there are no frequencies to answer")
    return counts


def plot_curves(
    logs: Mapping[str, Path],
    output: Path,
    baselines: Mapping[str, float] | None = None,
    metrics: Sequence[str] | None = None,
    over: Over = "updates",
) -> list[Path]:
    """Plot every metric of several runs over updates or tokens, one panel per metric, one color per run.

    logs: name of the run -> log file. Faint lines are training (means over the log interval), lines with markers
    validation. baselines: metric -> height of a dashed line. metrics: which panels (default: all that were logged).
    Writes OUTPUT.png, .svg and .csv and returns their paths. Raises `UserError` where nothing is left to plot.
    """
    runs = {name: read_log(path) for name, path in logs.items()}
    if wrong := [name for name, records in runs.items() if any(over not in record for record in records)]:
        raise UserError(f"{logs[wrong[0]]}: does not log tokens per update (wpb); draw the curves over updates")
    rows = list(_rows(runs))
    logged = {row["metric"] for row in rows}
    panels = [name for name in (metrics or _default_panels(logged)) if name in logged]
    missing = sorted(set(metrics or ()) - logged)
    if missing or not panels:
        raise UserError(
            f"not in the logs: {', '.join(missing) or 'any metric'}; logged are {', '.join(sorted(logged))}"
        )
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(3.6 * columns + 0.4, 2.5 * lines + 0.5)
        axes = list(figure.subplots(lines, columns, squeeze=False).flatten())
        for place, panel in zip(axes, panels, strict=False):
            _draw_panel(place, panel, runs, (baselines or {}).get(panel), over)
        for place in axes[max(0, len(panels) - columns) : len(panels)]:
            place.set_xlabel("updates" if over == "updates" else "source tokens")
        _draw_legend(figure, axes[: len(panels)], axes[len(panels) :], columns)
        return save(figure, output, [row for row in rows if row["metric"] in panels])


def _default_panels(logged: set[str]) -> list[str]:
    known = [name for name in PANELS if name in logged]
    return [name for name in known if name != "loss"] or known


def _rows(runs: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for run, records in runs.items():
        for record in records:
            for metric in PANELS:
                if metric in record and not (record["split"] == "train" and metric in NOT_MEASURED_IN_TRAINING):
                    values: dict[str, Any] = {
                        key: record[key] for key in ("split", "updates", "tokens") if key in record
                    }
                    yield {"run": run, **values, "metric": metric, "value": record[metric]}


def _draw_panel(
    axes: Axes, metric: str, runs: Mapping[str, list[dict[str, Any]]], baseline: float | None, over: Over
) -> None:
    axes.set_title(PANELS.get(metric, metric), loc="left")
    for number, (run, records) in enumerate(runs.items()):
        for split in sorted({record["split"] for record in records}):
            if split == "train" and metric in NOT_MEASURED_IN_TRAINING:
                continue
            points = [(r[over], r[metric]) for r in records if r["split"] == split and metric in r]
            if points:
                _draw_series(axes, points, look(number), split, f"{run} {split}" if len(runs) > 1 else split)
    if baseline is not None:
        axes.axhline(baseline, color=BASELINE_COLOR, linestyle="--", linewidth=1.2, label="trivial baseline")
    axes.set_xlim(left=0)
    if "loss" not in metric:  # a share: from 0 up to what is reached, so that small ones stay legible
        highest = max(0.01, *(float(np.max(np.asarray(line.get_ydata()))) for line in axes.lines))
        axes.set_ylim(-0.03 * highest, min(1.03, 1.15 * highest))


def _draw_legend(figure: Figure, used: Sequence[Axes], empty: Sequence[Axes], columns: int) -> None:
    """One legend for all panels, in the empty place of the grid where there is one."""
    handles = {label: line for axes in used for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    for axes in empty:
        axes.set_axis_off()
    if len(empty):
        # Kept out of the layout: long names may reach over the next empty place, and shrink no panel.
        empty[0].legend(handles.values(), handles.keys(), loc="center left").set_in_layout(False)
    else:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


def _draw_series(axes: Axes, points: Sequence[tuple[float, float]], style: Look, split: str, label: str) -> None:
    updates, values = zip(*points, strict=True)
    line: dict[str, Any] = {"color": style.color, "marker": style.marker, "label": label}
    line["markevery"] = marker_spacing(len(points))
    if split == "train":
        axes.plot(updates, values, alpha=0.45, linewidth=1.2, markersize=2.5, **line)
    else:
        axes.plot(updates, values, linewidth=1.4, markersize=4, **line)
