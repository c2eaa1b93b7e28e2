"""How far training is: a bar on a terminal, one line per interval in a log, JSON where it is asked for.

All have the same: update n of N, the losses, tokens/s, model FLOPs utilization, time left. The numbers also go to the
run's log file as JSON, which `metro-t0-analyze curves` reads.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from typing import Any

from fairseq.logging import progress_bar
from fairseq.logging.progress_bar import BaseProgressBar, format_stat, rename_logger

from fairseq_plugins import run as runs
from fairseq_plugins.console import CONSOLE, FILE, ONLY, show_bar

logger = progress_bar.logger
LONGEST_NAME = 4
WIDE = 120
"""Columns of a terminal that has room for the bar itself."""


def install() -> None:
    """Replace fairseq's bars where a run of ours trains."""
    if getattr(progress_bar.SimpleProgressBar, "patched", False):
        return
    bars = {"SimpleProgressBar": Lines, "TqdmProgressBar": Bar, "JsonProgressBar": Json, "NoopProgressBar": Records}
    for name, ours in bars.items():
        setattr(progress_bar, name, _in_a_run(getattr(progress_bar, name), ours))


def _in_a_run(theirs: Any, ours: Any) -> Any:
    def make(*arguments: Any) -> Any:
        return (theirs if runs.current is None else ours)(*arguments)

    make.patched = True  # type: ignore[attr-defined]
    return make


class Progress:
    """Numbers of a run that a line shows."""

    def __init__(self, batches: Any, epoch: int | None) -> None:
        run = runs.current
        assert run is not None
        limits = [run.cfg.optimization.max_update or math.inf]
        if run.cfg.optimization.max_epoch and epoch:
            done = run.trainer.get_num_updates() - batches.n
            limits.append(done + (run.cfg.optimization.max_epoch - epoch + 1) * len(batches))
        total = min(limits)
        self.total = None if math.isinf(total) else int(total)
        self.interval = run.cfg.common.log_interval

    def numbers(self, stats: dict[str, Any], updates: int) -> dict[str, Any]:
        """What to add to the statistics: of, percent, seconds_left."""
        if self.total is None:
            return {}
        left: dict[str, Any] = {"of": self.total, "percent": round(100 * updates / self.total, 2)}
        rate = float(format_stat(stats.get("ups", 0)) or 0)
        if rate > 0:
            left["seconds_left"] = round(max(self.total - updates, 0) / rate)
        return left

    def line(self, stats: dict[str, Any], updates: int) -> str:
        """Fixed columns for a log."""
        more = self.numbers(stats, updates)
        width = len(f"{self.total or 10**6:,}")
        of = f"update {updates:>{width},}" + (f" of {self.total:,}  {more['percent']:5.1f}%" if self.total else "")
        return "  ".join([of, *columns(stats), *([duration(more["seconds_left"])] if "seconds_left" in more else [])])


def losses(stats: dict[str, Any]) -> dict[str, float]:
    """Short name -> value of the losses: the parts where there are any, the sum where not."""
    parts = {key.removesuffix("_loss"): key for key in stats if key.endswith("_loss") and not key.startswith("best")}
    return {name: float(format_stat(stats[key])) for name, key in (parts or {"loss": "loss"}).items() if key in stats}


def columns(stats: dict[str, Any]) -> list[str]:
    """Losses, tokens/s and utilization, each of one width."""
    shown = [f"{name:<{LONGEST_NAME}}{value:8.4f}" for name, value in losses(stats).items()]
    shown += [f"{float(format_stat(stats['accuracy'])):6.2f}% right"] if "accuracy" in stats else []
    if "wps" in stats:
        shown.append(f"{float(format_stat(stats['wps'])):>11,.0f} tokens/s")
    if "mfu" in stats:
        shown.append(f"MFU {float(format_stat(stats['mfu'])):4.1f}%")
    return shown


def duration(seconds: float) -> str:
    """3 d 04:05:06 left, in one width."""
    days, rest = divmod(int(seconds), 86_400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{f'{days} d ' if days else '':>6}{clock} left"


class Records(BaseProgressBar):
    """What all of them do, and all that `log_format=none` does: JSON for the file, validations on the console."""

    shown_in = FILE

    def __init__(self, iterable: Any, epoch: int | None = None, prefix: str | None = None, *_: Any) -> None:
        super().__init__(iterable, epoch, prefix)
        self.progress = Progress(iterable, epoch)
        self.subset = prefix

    def __iter__(self) -> Iterator[Any]:
        yield from self.iterable

    def log(self, stats: Any, tag: str | None = None, step: int | None = None) -> None:
        """The statistics of an interval."""
        updates = int(step or 0)
        if updates and updates % self.progress.interval == 0:
            self.record({**self.progress.numbers(stats, updates), **stats}, tag)
            self.show(stats, updates)

    def print(self, stats: Any, tag: str | None = None, step: int | None = None) -> None:
        """The statistics of an epoch or of a validation."""
        self.record({f"{tag}_{key}" if tag else key: value for key, value in stats.items()}, tag)
        if tag and tag != "train":
            text = "  ".join([f"{tag:<6} at {int(step or 0):,}", *columns({**stats})])
            logger.info(text, extra={ONLY: CONSOLE})

    def record(self, stats: dict[str, Any], tag: str | None) -> None:
        """One JSON line."""
        first = {} if self.epoch is None else {"epoch": self.epoch}
        with rename_logger(logger, tag):
            extra = {} if self.shown_in is None else {ONLY: self.shown_in}
            logger.info(json.dumps({**first, **{key: format_stat(value) for key, value in stats.items()}}), extra=extra)

    def show(self, stats: Any, updates: int) -> None:
        """For the console."""


class Lines(Records):
    """One line per interval."""

    def show(self, stats: Any, updates: int) -> None:
        """The line."""
        logger.info(self.progress.line(stats, updates), extra={ONLY: CONSOLE})


class Json(Records):
    """JSON on the console, too."""

    shown_in = None  # type: ignore[assignment]

    def print(self, stats: Any, tag: str | None = None, step: int | None = None) -> None:
        """As a record alone."""
        self.record({f"{tag}_{key}" if tag else key: value for key, value in stats.items()}, tag)


class Bar(Records):
    """A bar on a terminal, in one row of 80 columns or more."""

    def __iter__(self) -> Iterator[Any]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        run = runs.current
        if run is None or self.subset is not None or logger.getEffectiveLevel() > logging.INFO:
            yield from self.iterable  # a validation; another process than the first
            return
        console = Console(stderr=True)
        wide = (TextColumn("update"), BarColumn(20)) if console.width >= WIDE else ()
        text = TextColumn("{task.fields[numbers]}", markup=False)
        with RichProgress(*wide[:1], MofNCompleteColumn(), *wide[1:], text, console=console) as bar:
            updates = run.trainer.get_num_updates()
            self.task = bar.add_task("", total=self.progress.total, completed=updates, numbers=run.shown)
            self.bar = bar
            show_bar(bar)
            try:
                for batch in self.iterable:
                    bar.update(self.task, completed=run.trainer.get_num_updates())
                    yield batch
            finally:
                show_bar(None)

    def show(self, stats: Any, updates: int) -> None:
        """The numbers after the bar."""
        left = self.progress.numbers(stats, updates).get("seconds_left")
        numbers = [f"{name} {value:.3f}" for name, value in losses(stats).items()]
        numbers += [f"{float(format_stat(stats['wps'])) / 1000:,.1f}k tok/s"] if "wps" in stats else []
        numbers += [f"MFU {float(format_stat(stats['mfu'])):.1f}%"] if "mfu" in stats else []
        numbers += [duration(left).strip()] if left is not None else []
        assert runs.current is not None
        runs.current.shown = " ".join(numbers)
        self.bar.update(self.task, completed=updates, numbers=runs.current.shown)
