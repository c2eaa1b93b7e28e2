"""Rows from the Hugging Face hub, under historical names: where to find them, and what to say when they are not there.

The hub is asked once per data set and process; after that the rows are local Arrow files, which other processes open
without asking again (`HubRows` is small and can be sent to them).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import pyarrow as pa

from metro_t0.errors import UserError
from metro_t0.prompts.drift import Conversion, DriftError, check_rows, conversion
from metro_t0.prompts.hub import HubPlace, HubSource, hub_source
from metro_t0.prompts.names import DatasetName, nearest
from metro_t0.prompts.rows import ParquetRows, Row

logger = logging.getLogger(__name__)

FILES_KEPT = 4
CONNECTION_SECONDS = 15
TOO_MANY_REQUESTS = 429
SPLITS_NEEDED = ("train", "validation")
"""A place that lacks one of these, where the table knows it, is not used."""


@dataclass(frozen=True)
class HubRows:
    """The rows of one split, in local Arrow files."""

    files: tuple[str, ...]
    conversion: Conversion
    origin: str
    """Hub id, configuration and commit."""

    def open(self) -> Sequence[Row]:
        """The rows; the files are mapped into memory, not read."""
        return _open(self)


@dataclass(frozen=True)
class _Found:
    """A data set that was downloaded and looks as it should."""

    place: HubPlace
    builder: Any
    conversion: Conversion


def hub_rows(dataset: DatasetName, split: str) -> HubRows:
    """Download (or take from the cache of `datasets`) a data set, and say where the rows of one split lie.

    Raises `UserError` for an unknown data set or split, or where no place of the table has what it should.
    """
    found = _find(dataset)
    names = (found.place.splits.get(split, split), split)  # a converted branch can have the historical name after all
    split_there = next((name for name in names if name in found.builder.info.splits), None)
    if split_there is None:
        splits = hub_splits(dataset)
        hint = nearest(split, splits) or f"; it has: {', '.join(splits)}"
        raise UserError(f"data set {dataset} (hub id {found.place.title}): no split {split!r}{hint}")
    loaded = found.builder.as_dataset(split=split_there)
    files = tuple(file["filename"] for file in loaded.cache_files)
    return HubRows(files, found.conversion, f"{found.place.id}@{found.builder.hash}")


def hub_splits(dataset: DatasetName) -> list[str]:
    """Historical names of the splits that the hub has."""
    found = _find(dataset)
    historical = {there: ours for ours, there in found.place.splits.items()}
    return sorted(historical.get(name, name) for name in found.builder.info.splits)


@lru_cache(maxsize=FILES_KEPT)
def _open(rows: HubRows) -> Sequence[Row]:
    tables = [pa.ipc.open_stream(pa.memory_map(file)).read_all() for file in rows.files]
    return ParquetRows(rows.conversion.apply(pa.concat_tables(tables)))


@cache
def _find(dataset: DatasetName) -> _Found:
    """The first place of the table that can be reached and has what it should."""
    source = hub_source(dataset)
    _go_offline_without_connection()
    failures = []
    for place in source.attempts():
        try:
            found = _load(source, place)
        except Exception as error:  # network, permission, missing repository: many types of several libraries
            failures.append(f"{place.title}: {reason_of(error)}")
            if _is_rate_limit(error):
                break  # another place is the same hub
            continue
        if failures:
            logger.warning("%s is read from %s (%s)", dataset, place.title, "; ".join(failures))
        return found
    raise UserError(
        f"data set {dataset} cannot be taken from the hub ({'; '.join(failures)}); "
        f"give local files with --data-dir DIR (as DIR/{dataset}/SPLIT.jsonl, .jsonl.gz or .parquet)"
    )


@cache
def _go_offline_without_connection() -> None:
    """Ask once per process whether the hub answers; if not, take only what is in the cache.

    Else the libraries would try again for half a minute at every data set.
    """
    import datasets
    import huggingface_hub

    constants = huggingface_hub.constants
    if constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=CONNECTION_SECONDS)
    except Exception as error:  # of whichever HTTP library is in use
        logger.warning("%s does not answer (%s); only its cache is used", constants.ENDPOINT, reason_of(error))
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


def _load(source: HubSource, place: HubPlace) -> _Found:
    builder = open_builder(place)
    builder.download_and_prepare()
    converted = conversion(source, place, builder.info.features)
    historical = {there: ours for ours, there in place.splits.items()}
    counts = {historical.get(name, name): split.num_examples for name, split in builder.info.splits.items()}
    for split in SPLITS_NEEDED:
        if split in source.rows and split not in counts:
            raise DriftError(f"no split {split} (it has {', '.join(counts)})")
    for split, count in counts.items():
        check_rows(source, split, count)
    for split in builder.info.splits if converted.classes else ():
        unknown = converted.unknown_values(builder.as_dataset(split=split).data.table)
        if unknown:
            raise DriftError(f"split {split}: {'; '.join(unknown)}")
    return _Found(place, builder, converted)


def open_builder(place: HubPlace) -> Any:
    """The `datasets.DatasetBuilder` of a place; nothing but its card and list of files has been asked for."""
    import datasets
    from datasets.load import get_dataset_builder_class

    module = _module(place.id, place.revision)
    arguments = dict(module.builder_kwargs)
    name = arguments.pop("config_name", place.config or module.builder_configs_parameters.default_config_name)
    builder_class = get_dataset_builder_class(module, dataset_name=arguments.get("dataset_name"))
    info = (module.dataset_infos or {}).get(name)
    builder: datasets.DatasetBuilder = builder_class(config_name=name, hash=module.hash, info=info, **arguments)
    return builder


@cache
def _module(id: str, revision: str | None) -> Any:
    """What a repository holds. Kept, since reading the card of one with hundreds of configurations takes seconds."""
    from datasets.load import dataset_module_factory

    return dataset_module_factory(id, revision=revision)


def _is_rate_limit(error: BaseException | None) -> bool:
    while error is not None:
        if getattr(getattr(error, "response", None), "status_code", None) == TOO_MANY_REQUESTS:
            return True
        error = error.__cause__ or error.__context__
    return False


def reason_of(error: Exception) -> str:
    """One line for an error of the hub's libraries."""
    if _is_rate_limit(error):
        return "the hub refuses more requests for now (429); wait some minutes, or log in with `hf auth login`"
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
    return line if isinstance(error, UserError | ValueError) else f"{type(error).__name__}: {line}"
