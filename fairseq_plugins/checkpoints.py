"""A damaged checkpoint gives one line with the way on, instead of a traceback out of the unpickler."""

from __future__ import annotations

import functools
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils

from fairseq_plugins.errors import clear_errors
from metro_t0.errors import UserError


def install() -> None:
    """Wrap fairseq's checkpoint reader once."""
    original = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(original, "checks_files", False):
        return

    @functools.wraps(original)
    def load_checkpoint_to_cpu(path: str, *arguments: Any, **settings: Any) -> Any:
        # Before loading, although it reads the file twice: torch does not notice a flipped bit in a tensor.
        with clear_errors():
            check_readable(Path(path))
        return original(path, *arguments, **settings)

    load_checkpoint_to_cpu.checks_files = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


def check_readable(path: Path) -> None:
    """Raise `UserError` naming the newest intact checkpoint beside a truncated or corrupt one."""
    if not path.exists() or is_intact(path):
        return
    others = [other for other in sorted_checkpoints(path.parent) if other.name != path.name and is_intact(other)]
    if others:
        remedy = f"continue from the one before with --restore-file {others[0]}"
    else:
        remedy = f"no other checkpoint in {path.parent} is intact; remove it to start again"
    raise UserError(f"{path}: truncated or corrupt checkpoint; {remedy}")


def is_intact(path: Path) -> bool:
    """True where every byte of the file's archive has the checksum written with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        pass
    try:  # files written before torch 1.6 are no archives
        torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError, KeyError, IndexError):
        return False
    return True


def sorted_checkpoints(directory: Path) -> list[Path]:
    """All checkpoints of a directory, newest first (by update, then epoch, then time)."""

    def age(path: Path) -> tuple[int, float]:
        numbers = [int(number) for number in re.findall(r"\d+", path.stem)]
        return (numbers[-1] if len(numbers) > 1 else 0, path.stat().st_mtime)

    return sorted(directory.glob("checkpoint*.pt"), key=age, reverse=True)
