"""Saying what long work does: a bar on a terminal, a plain line every ten seconds in a log, both on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LOG_LINES = 10.0

_quiet = False


def be_quiet(quiet: bool) -> None:
    """Say nothing from now on (--quiet), or talk again."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether --quiet was given."""
    return _quiet


def progress(items: Iterable[T], description: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """Iterate and say how far it is. unit: what is counted, in the plural ("documents")."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if _quiet:
        yield from items
    elif sys.stderr.isatty():
        yield from _with_bar(items, description, total, unit)
    else:
        yield from _with_lines(items, description, total, unit)


def _with_bar(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn(unit), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=description)


def _with_lines(items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    count = 0
    of_total = (f"/{total:,}" if total is not None else "") + (f" {unit}" if unit else "")
    for item in items:
        yield item
        count += 1
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LOG_LINES:
            last = now
            say(f"{description}: {count:,}{of_total} ({count / (now - start):,.1f}/s)")
    say(f"{description}: {count:,}{of_total} done in {time.monotonic() - start:.1f} s")


@contextmanager
def working(description: str) -> Iterator[None]:
    """Say that work is going on whose end cannot be told: a line at its beginning, every ten seconds and at its end."""
    start = time.monotonic()
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOG_LINES):
            say(f"{description}: {time.monotonic() - start:.0f} s")

    say(f"{description} ...")
    reporter = threading.Thread(target=repeat, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()
    say(f"{description}: done in {time.monotonic() - start:.1f} s")


def say(line: str) -> None:
    """A line about the progress of the work, unless --quiet was given."""
    if not _quiet:
        print(line, file=sys.stderr, flush=True)
