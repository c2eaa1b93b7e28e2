"""The table of where the historical data sets of T0 and promptsource live on today's Hugging Face hub.

Most have other ids there, no loading script and at times other column names, other numbers for the classes or other
rows; `hub_sources.yaml` says for each where to look and what it must look like. `metro_t0.prompts.hub_rows` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from metro_t0.errors import UserError, nearest
from metro_t0.files import read_yaml
from metro_t0.prompts.names import DatasetName

TABLE = Path(__file__).parent / "hub_sources.yaml"
CONVERT_BRANCH = "refs/convert/parquet"
"""The hub's own conversion of a repository. It has no card, and so one configuration, `default`."""
ClassNames = tuple[tuple[str, ...], ...]
"""Names of the classes 0, 1, ...; each as all names that mean it."""


@dataclass(frozen=True)
class HubPlace:
    """One repository that has a data set."""

    id: str
    config: str | None = None
    commit: str | None = None
    """The commit whose content is known."""
    branch: str | None = None
    """Where not `main`."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Historical split name -> split name there, where they differ."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Historical column name -> column name there, where they differ."""
    folder: str | None = None
    """Where to look in a branch without a card."""

    @property
    def revision(self) -> str | None:
        """The commit, else the branch; None for `main`."""
        return self.commit or self.branch

    @property
    def title(self) -> str:
        """How messages name the place."""
        revision = self.commit[:12] if self.commit else self.branch
        part = self.config or self.folder
        return self.id + (f"/{part}" if part else "") + (f"@{revision}" if revision else "")

    def attempts(self) -> list[HubPlace]:
        """The place as pinned, then its branch, then the other of `main` and the hub's conversion."""
        tries = [self]
        if self.commit:
            tries.append(replace(self, commit=None))
        if self.branch == CONVERT_BRANCH:
            tries.append(replace(self, commit=None, branch=None))
        elif self.branch is None:
            tries.append(replace(self, commit=None, branch=CONVERT_BRANCH, config=None, folder=self.config))
        return tries


@dataclass(frozen=True)
class HubSource:
    """Where one data set lives on the hub, and what it must look like."""

    places: tuple[HubPlace, ...]
    license: str = "unknown"
    noncommercial: bool = False
    columns: Mapping[str, str | ClassNames] = field(default_factory=dict)
    """Historical column name -> kind of its values, or names of its classes."""
    rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Historical split name -> the numbers of rows that are right."""
    manual: str | None = None
    """Why the data set cannot be downloaded, and what to do, where that is so."""

    def attempts(self) -> list[HubPlace]:
        """All places in the order of the table, each with its fallbacks."""
        return [attempt for place in self.places for attempt in place.attempts()]


@cache
def hub_sources() -> dict[DatasetName, HubSource]:
    """The whole table, by historical name."""
    return {DatasetName.parse(name): _parse(entry) for name, entry in read_yaml(TABLE).items()}


def _parse(entry: dict[str, Any]) -> HubSource:
    columns = {
        name: expected
        if isinstance(expected, str)
        else tuple((names,) if isinstance(names, str) else tuple(names) for names in expected)
        for name, expected in entry.get("columns", {}).items()
    }
    rows = {
        split: tuple(counts) if isinstance(counts, list) else (counts,)
        for split, counts in entry.get("rows", {}).items()
    }
    places = tuple(HubPlace(**place) for place in entry["places"])
    return HubSource(**{**entry, "places": places, "columns": columns, "rows": rows})


def hub_source(dataset: DatasetName) -> HubSource:
    """Where a data set lives. A name `user/name` whose first part the table does not know is a hub id itself."""
    table = hub_sources()
    if dataset in table:
        source = table[dataset]
    elif "/" in dataset.name:
        source = HubSource((HubPlace(dataset.name, dataset.subset),))
    elif dataset.subset and dataset.name not in {known.name for known in table}:
        source = HubSource((HubPlace(str(dataset)),))
    else:
        hint = nearest(str(dataset), map(str, table))
        raise UserError(f"unknown data set {dataset} (give its hub id as user/name, or --data-dir){hint}")
    if source.manual:
        raise UserError(f"data set {dataset}: {source.manual}")
    return source
