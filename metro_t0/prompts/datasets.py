"""Rows of a data set by its historical name: embedded, from a local directory, or from the hub, in this order."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

from metro_t0.errors import UserError, nearest
from metro_t0.prompts.drift import DriftError, local_conversion
from metro_t0.prompts.hub import hub_sources
from metro_t0.prompts.hub_rows import hub_rows, hub_splits
from metro_t0.prompts.names import EMBEDDED_NAME, DatasetName
from metro_t0.prompts.rows import JsonLines, ParquetRows, Row

__all__ = [
    "DatasetName",
    "Row",
    "RowSource",
    "available_splits",
    "find_rows",
    "is_local",
    "load_rows",
    "local_datasets",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")

FILES_KEPT = 4  # local files kept in memory, for the many templates of one data set
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


class RowSource(Protocol):
    """Where the rows of one split lie; small, so that it can be sent to another process."""

    def open(self) -> Sequence[Row]:
        """The rows, in their order."""
        ...

    @property
    def origin(self) -> str:
        """Where they come from, for records."""
        ...


@dataclass(frozen=True)
class LocalRows:
    """The rows of one local file."""

    dataset: DatasetName
    path: Path

    def open(self) -> Sequence[Row]:
        """The rows; the file is read at the first call in a process, and when it has changed."""
        state = self.path.stat()
        return _read(self, state.st_size, state.st_mtime_ns)

    @property
    def origin(self) -> str:
        """That they are local; which directory they are in, the settings of a build say."""
        return "local files"


@dataclass(frozen=True)
class EmbeddedRows:
    """The rows of one split of an embedded data set."""

    dataset: DatasetName
    split: str

    def open(self) -> Sequence[Row]:
        """The rows; they are made at the first call in a process."""
        from metro_t0.prompts.embedded import embedded_rows

        return embedded_rows(self.dataset, self.split)

    @property
    def origin(self) -> str:
        """That they are embedded."""
        return EMBEDDED_NAME


def find_rows(name: str, subset: str | None, split: str, data_dir: Path | None = None) -> RowSource:
    """Where the rows of one split are: embedded, in a local directory, or on the hub (they are downloaded now).

    data_dir: a directory laid out as `NAME[/SUBSET]/SPLIT` and one of `SUFFIXES`. A data set that has a directory
        there is taken from it, with all its splits; any other one from the hub, see `hub_sources.yaml`.
    Raises `UserError` for an unknown data set or split (with the nearest names), or an unreachable hub.
    """
    dataset = DatasetName(name, subset)
    if name == EMBEDDED_NAME:
        _check_split(dataset, split, available_splits(name, subset), "")
        return EmbeddedRows(dataset, split)
    if data_dir is None or not _split_files(dataset, data_dir):
        return _from_hub(dataset, data_dir, lambda: hub_rows(dataset, split))
    files = _split_files(dataset, data_dir)
    _check_split(dataset, split, sorted(files), f"{data_dir}: ")
    return LocalRows(dataset, files[split])


def load_rows(name: str, subset: str | None, split: str, data_dir: Path | None = None) -> Sequence[Row]:
    """All rows of one split, in their order, as a sequence of dicts. Where they are taken from: see `find_rows`.

    Lines of a JSONL file that are no JSON objects are skipped; `JsonLines.num_bad` counts them.
    """
    return find_rows(name, subset, split, data_dir).open()


def available_splits(name: str, subset: str | None, data_dir: Path | None = None) -> list[str]:
    """Names of the splits of a data set, sorted. Raises `UserError` as `load_rows`."""
    dataset = DatasetName(name, subset)
    if name == EMBEDDED_NAME:
        from metro_t0.prompts.embedded import embedded_splits

        return embedded_splits(dataset)
    files = _split_files(dataset, data_dir) if data_dir else {}
    return sorted(files) if files else _from_hub(dataset, data_dir, lambda: hub_splits(dataset))


def is_local(dataset: DatasetName, data_dir: Path | None) -> bool:
    """Whether a data set is taken from a local directory (or embedded), not from the hub."""
    return dataset.name == EMBEDDED_NAME or bool(data_dir and _split_files(dataset, data_dir))


def local_datasets(data_dir: Path) -> list[DatasetName]:
    """Every data set of a local directory, sorted."""
    found = {path.parent.relative_to(data_dir) for suffix in SUFFIXES for path in data_dir.rglob(f"*{suffix}")}
    return sorted((DatasetName.parse(path.as_posix()) for path in found if path.parts), key=str)


def _split_files(dataset: DatasetName, data_dir: Path) -> dict[str, Path]:
    """The files of a data set by split; none where the directory does not have it."""
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such directory (--data-dir)")
    folder = data_dir / str(dataset)
    found: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for path in folder.glob(f"*{suffix}") if folder.is_dir() else ():
            other = found.setdefault(path.name.removesuffix(suffix), path)
            if other != path:
                raise UserError(f"{folder}: {other.name} and {path.name} are one split; remove one of them")
    return found


def _check_split(dataset: DatasetName, split: str, splits: Sequence[str], place: str) -> None:
    if split not in splits:
        hint = nearest(split, splits)
        raise UserError(f"{place}no split {split!r} of {dataset}{hint}")


def _from_hub(dataset: DatasetName, data_dir: Path | None, ask: Callable[[], T]) -> T:
    """What the hub says; where it does not know and a directory was given, the message names that, too."""
    try:
        return ask()
    except UserError as error:
        if data_dir is None:
            raise
        hint = nearest(str(dataset), map(str, local_datasets(data_dir)))
        looked = f"looked for {dataset}/SPLIT with one of {', '.join(SUFFIXES)}"
        raise UserError(f"{data_dir}: no data set {dataset} ({looked}){hint}; nor on the hub: {error}") from None


@lru_cache(maxsize=FILES_KEPT)
def _read(rows: LocalRows, size: int, changed: int) -> Sequence[Row]:
    source = hub_sources().get(rows.dataset)
    if rows.path.suffix != ".parquet":
        lines = JsonLines.read(rows.path)
        if lines.num_bad and multiprocessing.parent_process() is None:  # said once, not by every worker
            logger.warning("%s: %d lines are no JSON objects and are left out", rows.path, lines.num_bad)
        return lines
    if source is None:
        return ParquetRows.read(rows.path)
    try:
        return ParquetRows.read(rows.path, lambda table: local_conversion(source, table.schema).apply(table))
    except DriftError as error:
        raise UserError(f"{rows.path}: a file of the hub that is not as the table of sources says: {error}") from None
