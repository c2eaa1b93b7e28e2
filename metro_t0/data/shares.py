"""The encoding spread over machines that share a disk: `binarize --part I/N` on each, then the command without --part.

A unit of text has the same number in every run, so what share I encodes is decided by counting; every machine reads all
of the text (which is cheap) and encodes every N-th unit of it; of data sets of the hub it reads every N-th file only.
Joining finds the units where an interrupted run would have left them, encodes what is missing, and writes what one run
writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from metro_t0.claims import check_owner, lock
from metro_t0.errors import UserError
from metro_t0.files import read_json, write_json

PART = re.compile(r"(\d{1,6})/(\d{1,6})")
FOLDERS = "part-*"


class Share(NamedTuple):
    """Share `number` (from 1) of `of`."""

    number: int
    of: int

    def has(self, number: int) -> bool:
        """Whether the unit or file of this number, from 0, belongs to this share."""
        return number % self.of == self.number - 1


def parse_share(text: str) -> Share:
    """`3/8` -> the third of eight. Raises `UserError` for anything else."""
    match = PART.fullmatch(text)
    share = Share(int(match[1]), int(match[2])) if match else Share(0, 0)
    if not 1 <= share.number <= share.of:
        raise UserError(f"--part {text}: write I/N with I from 1 to N, such as 3/8")
    return share


@contextmanager
def share_of_work(output: Path, work: Path, plan: dict[str, Any], plan_name: str, share: Share) -> Iterator[None]:
    """Hold one share of the work in `output` for this process. Raises `UserError` where `work` is of other settings."""
    with lock(work / f"part-{share.number}-of-{share.of}"):
        path = work / plan_name
        if path.is_file():
            check_owner(output, read_json(path, dict[str, Any]), plan, "finish that, or name another directory")
        else:
            write_json(path, plan)  # the shares that start together write the same
        yield


def check_no_share_is_running(work: Path) -> None:
    """Raise `UserError` that names the process which is still encoding a share."""
    for folder in sorted(work.glob(FOLDERS)):
        with lock(folder):
            pass
