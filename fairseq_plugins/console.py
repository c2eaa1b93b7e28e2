"""Where what is said goes: results to the console; configuration, warnings and all the rest to SAVE_DIR/train.log.

fairseq prints everything to standard output: its whole configuration in one line, the module tree, warnings of the
libraries. All of that is kept in the run's log file, which is opened when training begins.
"""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from torch import distributed

LOG_NAME = "train.log"
FORMAT = logging.Formatter("%(asctime)s | %(levelname)s | %(name)s | %(message)s", "%Y-%m-%d %H:%M:%S")
ONLY = "shown_in"
"""Attribute of a record that belongs to one place alone: CONSOLE or FILE."""
CONSOLE, FILE = "console", "file"
OWN_LOGGERS = ("fairseq_plugins", "metro_t0")
RESULTS = ("train", "valid")
"""fairseq logs numbers under the name of their split."""
SHOWN_MESSAGES = ("Loaded checkpoint", "Stopping training", "early stop")
PROGRAMS = ("fairseq-train", "fairseq-hydra-train", "metro-t0-train")
MODULES = ("fairseq_cli.train", "fairseq_cli.hydra_train", "fairseq_plugins.hydra_train")
MOST_WAITING = 100_000

_file: MemoryHandler | None = None


def is_first() -> bool:
    """True in the process that speaks for all."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def say(line: str) -> None:
    """One line for the user, from the first process."""
    if is_first():
        print(f"metro-t0: {line}", file=sys.stderr, flush=True)


def install() -> None:
    """Divide the records as soon as the plugin is loaded, in a program that trains."""
    if any(os.path.basename(part) in PROGRAMS or part in MODULES for part in sys.orig_argv):
        divide()


def divide() -> None:
    """Replace the handlers that print everything. Those of anybody else (a test, a service) stay."""
    global _file
    root = logging.getLogger()
    logging.captureWarnings(True)
    root.setLevel(logging.INFO if is_first() else logging.WARNING)
    for handler in list(root.handlers):
        if type(handler) in (logging.StreamHandler, logging.FileHandler) or isinstance(handler, _Console):
            root.removeHandler(handler)
    root.addHandler(_Console())
    if _file is None or _file not in root.handlers:
        _file = MemoryHandler(MOST_WAITING, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        _file.addFilter(lambda record: getattr(record, ONLY, FILE) == FILE)
        root.addHandler(_file)


def wait_for_file() -> None:
    """Keep what comes for the file of the run that begins now; another may have run in this process."""
    if _file is not None:
        _file.flush()
        if _file.target is not None:
            _file.target.close()
        _file.setTarget(None)
        _file.capacity = MOST_WAITING


def begin_file(directory: Path) -> None:
    """Write what waits, and all that comes, to the log file of a run (first process only)."""
    if _file is None or not is_first():
        return
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOG_NAME
    if _file.target is not None:
        return
    target = logging.FileHandler(path, encoding="utf-8")
    target.setFormatter(FORMAT)
    _file.setTarget(target)
    _file.flush()
    _file.capacity = 1  # from now on at once
    logging.getLogger(__name__).info("log: %s", path)


class _Console(logging.Handler):
    """Standard output, above the progress bar where there is one."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(FORMAT)

    def filter(self, record: logging.LogRecord) -> bool:
        """What a user wants to see."""
        only = getattr(record, ONLY, None)
        if only is not None:
            return bool(only == CONSOLE)
        name = record.name.partition(".")[0]
        if record.levelno >= logging.ERROR or record.getMessage().startswith(SHOWN_MESSAGES):
            return True
        if name in OWN_LOGGERS:
            return True
        return record.levelno < logging.WARNING and name.startswith(RESULTS)

    def emit(self, record: logging.LogRecord) -> None:
        """As it is where it was made for the console, with time and logger where not."""
        made_for_it = getattr(record, ONLY, None) == CONSOLE
        plain = made_for_it or record.name.startswith(OWN_LOGGERS)
        text = record.getMessage() if plain else self.format(record)
        if plain and record.levelno >= logging.WARNING:
            text = f"metro-t0: {record.levelname.lower()}: {text}"
        if bar := current_bar():
            bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stdout, flush=True)


_bars: list[Any] = []


def current_bar() -> Any:
    """The rich progress bar on the terminal, or None."""
    return _bars[-1] if _bars else None


def show_bar(bar: Any) -> None:
    """Have records printed above this bar; None ends that."""
    _bars[:] = [] if bar is None else [bar]
