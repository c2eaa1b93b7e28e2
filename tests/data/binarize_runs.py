"""Runs of `metro-t0-data binarize` that are killed, and what they leave."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SLOW_RUN = """
import sys, time
from metro_t0.data import binarize, sources
from metro_t0.data.cli import main
sources.UNIT_BYTES = binarize.UNIT_BYTES = int(sys.argv[1])
encode = binarize.encode_unit
def slow(*arguments):
    time.sleep(0.2)
    return encode(*arguments)
binarize.encode_unit = slow
sys.exit(main(sys.argv[2:]))
"""


def kill_when(ready: Callable[[], bool], arguments: list[str], unit_bytes: int) -> None:
    """Start a run with units of so many bytes and kill it (-9) once `ready`, or when it ends or takes too long."""
    command = [sys.executable, "-c", SLOW_RUN, str(unit_bytes), *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()


def tree(directory: Path) -> dict[str, bytes]:
    """The bytes of every file by its path in the directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
