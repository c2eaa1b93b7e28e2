"""What all commands share: error lines, exit statuses, progress."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from metro_t0.errors import UserError

T = TypeVar("T")
SECONDS_BETWEEN_LOG_LINES = 10.0


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the line breaks of the examples and abbreviates nothing."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)  # type: ignore[arg-type]


def run(program: str, body: Callable[[], int | None]) -> int:
    """Run a command's body and give its exit status.

    0 (or what the body gives) on success, 2 with one line on standard error for a `UserError`,
    130 after Ctrl-C. Any other exception is a defect of the program and keeps its traceback.
    """
    try:
        return body() or 0
    except UserError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar on a terminal, or with a plain line every ten seconds in a log (both on stderr)."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from _with_bar(items, description, total)
    else:
        yield from _with_lines(items, description, total)


def _with_bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total, description=description)


def _with_lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    start = last = time.monotonic()
    count = 0
    of_total = f"/{total}" if total is not None else ""
    for item in items:
        yield item
        count += 1
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LOG_LINES:
            last = now
            print(
                f"{description}: {count}{of_total} ({count / (now - start):.1f}/s)",
                file=sys.stderr,
                flush=True,
            )
    print(
        f"{description}: {count}{of_total} done in {time.monotonic() - start:.1f} s",
        file=sys.stderr,
        flush=True,
    )
