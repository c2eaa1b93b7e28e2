"""Rows from the Hugging Face hub, under the historical names that T0 and promptsource use.

Today's hub has most of those data sets under other ids, without loading scripts and at times with other column
names; `hub_sources.yaml` is the one table of where each lives now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from metro_t0.errors import UserError
from metro_t0.files import read_yaml
from metro_t0.prompts.names import DatasetName, nearest
from metro_t0.prompts.rows import ParquetRows, Row

TABLE = Path(__file__).parent / "hub_sources.yaml"
T = TypeVar("T")


@dataclass(frozen=True)
class HubSource:
    """Where one data set lives on the hub."""

    id: str
    config: str | None = None
    revision: str | None = None
    """A branch such as `refs/convert/parquet`, where the main branch holds only a loading script."""
    splits: dict[str, str] = field(default_factory=dict)
    """Historical split name -> split name on the hub, where they differ."""
    columns: dict[str, str] = field(default_factory=dict)
    """Historical column name -> column name on the hub, where they differ."""
    manual: str | None = None
    """Why the data set cannot be downloaded, and what to do, where that is so."""


@cache
def hub_sources() -> dict[DatasetName, HubSource]:
    """The whole table, by historical name."""
    entries = read_yaml(TABLE)
    return {parse_dataset_name(name): HubSource(**entry) for name, entry in entries.items()}


def parse_dataset_name(text: str) -> DatasetName:
    """`name` or `name/subset`; a hub id of the user's own is written `user/name`."""
    name, _, subset = text.partition("/")
    return DatasetName(name, subset or None)


def hub_source(dataset: DatasetName) -> HubSource:
    """Where a data set lives. A name `user/name` whose first part the table does not know is a hub id itself."""
    table = hub_sources()
    if dataset in table:
        source = table[dataset]
    elif "/" in dataset.name:
        source = HubSource(dataset.name, dataset.subset)
    elif dataset.subset and dataset.name not in {known.name for known in table}:
        source = HubSource(str(dataset))
    else:
        hint = nearest(str(dataset), map(str, table))
        raise UserError(f"unknown data set {dataset} (give its hub id as user/name, or --data-dir){hint}")
    if source.manual:
        raise UserError(f"data set {dataset}: {source.manual}")
    return source


def hub_rows(dataset: DatasetName, split: str) -> Sequence[Row]:
    """Download (or take from the cache of `datasets`) one split, with historical column names."""
    import datasets

    source = hub_source(dataset)
    hub_split = source.splits.get(split, split)
    loaded = _reach_hub(
        dataset,
        source,
        lambda: datasets.load_dataset(source.id, source.config, split=hub_split, revision=source.revision),
    )
    return rename_rows(loaded.with_format("arrow")[:], source.columns)


def hub_splits(dataset: DatasetName) -> list[str]:
    """Historical names of the splits that the hub has."""
    import datasets

    source = hub_source(dataset)
    historical = {theirs: ours for ours, theirs in source.splits.items()}
    names = _reach_hub(
        dataset,
        source,
        lambda: datasets.get_dataset_split_names(source.id, source.config, revision=source.revision),
    )
    return sorted(historical.get(name, name) for name in names)


def rename_rows(table: Any, columns: dict[str, str]) -> ParquetRows:
    """Rows of an Arrow table under historical column names; hyphens become underscores, which Jinja can read."""
    hyphens = {name.replace("-", "_"): name for name in table.column_names if "-" in name}
    return ParquetRows(table, {**hyphens, **columns})


def _reach_hub(dataset: DatasetName, source: HubSource, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except ValueError as error:  # `datasets` reports unknown splits and configurations so
        raise UserError(f"data set {dataset} (hub id {source.id}): {_first_line(error)}") from None
    except Exception as error:  # network, permission, missing repository: many types of several libraries
        raise UserError(
            f"data set {dataset}: hub id {source.id} cannot be loaded ({type(error).__name__}: {_first_line(error)}); "
            f"without a hub, give local files with --data-dir DIR (as DIR/{dataset}/SPLIT.jsonl, .jsonl.gz or .parquet)"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]
