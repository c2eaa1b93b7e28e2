"""Rows of a data set by its historical name: from a local directory, from the hub, or embedded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from metro_t0.errors import UserError
from metro_t0.prompts.hub import hub_rows, hub_splits
from metro_t0.prompts.names import EMBEDDED_NAME, DatasetName, nearest
from metro_t0.prompts.rows import JsonLines, ParquetRows, Row

__all__ = ["DatasetName", "Row", "available_splits", "load_rows", "local_datasets"]

FILES_KEPT = 4  # local files kept in memory, for the many templates of one data set
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def load_rows(name: str, subset: str | None, split: str, data_dir: Path | None = None) -> Sequence[Row]:
    """All rows of one split, in their order, as a sequence of dicts.

    data_dir: a directory laid out as `NAME[/SUBSET]/SPLIT.{jsonl,jsonl.gz,parquet}`; None reads the hub through
        the table `hub_sources.yaml` (and downloads). The embedded data sets need neither.
    Lines of a JSONL file that are no JSON objects are skipped; `JsonLines.num_bad` counts them.
    Raises `UserError` for an unknown data set or split (with the nearest names), or an unreachable hub.
    """
    dataset = DatasetName(name, subset)
    if name == EMBEDDED_NAME:
        from metro_t0.prompts.embedded import embedded_rows

        return embedded_rows(dataset, split)
    if data_dir is None:
        return hub_rows(dataset, split)
    path = _split_files(dataset, data_dir).get(split)
    if path is None:
        splits = available_splits(name, subset, data_dir)
        hint = nearest(split, splits) or f"; it has: {', '.join(splits)}"
        raise UserError(f"{data_dir}: no split {split!r} of {dataset}{hint}")
    return _read(path)


def available_splits(name: str, subset: str | None, data_dir: Path | None = None) -> list[str]:
    """Names of the splits of a data set, sorted. Raises `UserError` as `load_rows`."""
    dataset = DatasetName(name, subset)
    if name == EMBEDDED_NAME:
        from metro_t0.prompts.embedded import embedded_splits

        return embedded_splits(dataset)
    if data_dir is None:
        return hub_splits(dataset)
    return sorted(_split_files(dataset, data_dir))


def local_datasets(data_dir: Path) -> list[DatasetName]:
    """Every data set of a local directory, sorted."""
    found = {path.parent.relative_to(data_dir) for suffix in SUFFIXES for path in data_dir.rglob(f"*{suffix}")}
    return sorted((DatasetName(p.parts[0], "/".join(p.parts[1:]) or None) for p in found if p.parts), key=str)


def _split_files(dataset: DatasetName, data_dir: Path) -> dict[str, Path]:
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such directory (--data-dir)")
    folder = data_dir / str(dataset)
    files = {
        path.name.removesuffix(suffix): path
        for suffix in SUFFIXES
        for path in (folder.glob(f"*{suffix}") if folder.is_dir() else ())
    }
    if not files:
        hint = nearest(str(dataset), map(str, local_datasets(data_dir)))
        raise UserError(
            f"{data_dir}: no data set {dataset} (looked for {dataset}/SPLIT with one of {', '.join(SUFFIXES)}){hint}"
        )
    return files


@lru_cache(maxsize=FILES_KEPT)
def _read(path: Path) -> Sequence[Row]:
    return ParquetRows.read(path) if path.suffix == ".parquet" else JsonLines.read(path)
