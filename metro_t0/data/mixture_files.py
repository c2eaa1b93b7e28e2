"""Where the files of a mixture are: DIRECTORY/mixture.json, build.json, and token files SPLIT/TASK.{source,target}."""

from __future__ import annotations

from pathlib import Path

from metro_t0.data.token_files import idx_path

MIXTURE_FILE = "mixture.json"
"""The tasks with their caps; written last."""
SETTINGS_FILE = "build.json"
"""What the mixture was built with."""
TRAIN = "train"
VALID = "valid"
SIDES = ("source", "target")


def task_prefix(directory: Path, split: str, task: str) -> Path:
    """What the names of a task's token files begin with."""
    return directory / split / task


def side_prefixes(prefix: Path) -> list[Path]:
    """The prefixes of its source and its target token files."""
    return [prefix.with_name(f"{prefix.name}.{side}") for side in SIDES]


def is_written(prefix: Path) -> bool:
    """Whether both are there; they are whole if they are."""
    return all(idx_path(side).is_file() for side in side_prefixes(prefix))
