"""Files that torch saved: read without executing anything in them, their bytes held against the archive's own sums."""

from __future__ import annotations

import argparse
import functools
import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from metro_t0.errors import UserError, first_line


def load_plain(path: Path, device: str = "cpu") -> Any:
    """Tensors and plain values of a file that torch saved. Raises `UserError` for anything else in it, or for damage.

    device: where the tensors go; on `meta` only their shapes are read.
    Argument namespaces of old fairseq versions are plain values too. No other class is built, nothing is executed.
    The sums are checked first, although that reads the file twice: torch does not notice a flipped bit in a tensor.
    """
    check_readable(path)
    return _load(path, device, mmap=False)


def peek(path: Path) -> Any:
    """The same values with tensors that are read from disk only when used: for the options in a checkpoint."""
    check_readable(path)
    return _load(path, "cpu", mmap=zipfile.is_zipfile(path))


def _load(path: Path, device: str, mmap: bool) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        # torch's own words advise to load it without the safeguard.
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise UserError(f"{path}: not a checkpoint that torch saved") from None
        message = f"{path}: holds more than tensors and plain values ({wanted[1]}), so it is not loaded"
        raise UserError(message) from None
    except Exception as error:  # what damaged bytes make the reader raise is no fixed list
        raise UserError(f"{path}: truncated or not a checkpoint ({first_line(error)})") from None


EPOCH_AND_UPDATE = re.compile(r"checkpoint_?(\d+)(?:_(\d+))?(?!\d)")
"""fairseq's names within an epoch and at its end: checkpoint_2_500 and checkpoint2."""
BESIDE = "the newest intact one beside it is"


def check_readable(path: Path, remedy: str = BESIDE) -> None:
    """Raise `UserError` where a file is missing or damaged; after `remedy` it names the newest intact one beside it."""
    if not path.is_file():
        what = "is a directory; name a checkpoint file (.pt) in it" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}")
    if is_intact(path):
        return
    others = (other for other in sorted_checkpoints(path.parent) if other.name != path.name and is_intact(other))
    if other := next(others, None):
        raise UserError(f"{path}: truncated or corrupt checkpoint; {remedy} {other}")
    with open(path, "rb") as stream:
        begins_like_one = stream.read(2)[:1] in (b"P", b"\x80", b"")  # an archive, a pickle, or cut before either
    if not begins_like_one:
        raise UserError(f"{path}: not a checkpoint that torch saved")
    raise UserError(f"{path}: truncated or corrupt checkpoint; no other checkpoint in {path.parent} is intact")


def is_intact(path: Path) -> bool:
    """True where every byte of the file's archive has the checksum written with it."""
    state = path.stat()
    return _is_intact(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _is_intact(path: Path, size: int, changed: int) -> bool:
    """size and changed (nanoseconds) are there to read a file again that was written since."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError):
        pass
    try:  # files written before torch 1.6 are no archives
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        return "GLOBAL" in str(error)  # whole, but of a kind that is not loaded
    except Exception:  # torch fails in many ways on bytes that are no checkpoint
        return False
    return True


def sorted_checkpoints(directory: Path) -> list[Path]:
    """All checkpoints of a directory, newest first: by epoch and update, those named after neither last, by time."""

    def age(path: Path) -> tuple[float, float, float]:
        named = EPOCH_AND_UPDATE.match(path.stem)
        epoch, update = (float(named[1]), float(named[2] or math.inf)) if named else (0.0, 0.0)
        return epoch, update, path.stat().st_mtime

    return sorted(directory.glob("checkpoint*.pt"), key=age, reverse=True)
