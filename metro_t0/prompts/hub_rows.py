"""Rows from the Hugging Face hub, under historical names: where to find them, and what to say when they are not there.

The hub is asked once per data set and process; after that the rows are local Arrow files, which other processes open
without asking again (`HubRows` is small and can be sent to them).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeVar

import pyarrow as pa

from metro_t0.errors import UserError, first_line, nearest
from metro_t0.prompts.drift import Conversion, DriftError, check_rows, conversion
from metro_t0.prompts.hub import HubPlace, HubSource, hub_source
from metro_t0.prompts.names import DatasetName
from metro_t0.prompts.rows import ParquetRows, Row

logger = logging.getLogger(__name__)
T = TypeVar("T")

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
        hint = nearest(split, splits)
        raise UserError(f"data set {dataset} (hub id {found.place.title}): no split {split!r}{hint}")
    loaded = found.builder.as_dataset(split=split_there, in_memory=False)
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


@dataclass(frozen=True)
class Sample:
    """What a look at a data set shows without downloading it."""

    place: HubPlace
    commit: str
    rows: list[Row]
    """The first rows of one split, with historical names and classes."""
    counts: dict[str, int]
    """Rows of each split, where the card has them."""
    splits: list[str]


def sample_hub(dataset: DatasetName, count: int) -> Sample:
    """The first rows of a data set, from its first place that looks as it should. Raises as `hub_rows`."""
    return _first(dataset, lambda source, place: _look(source, place, count))


def _look(source: HubSource, place: HubPlace, count: int) -> Sample:
    import datasets

    builder = open_builder(place)
    counts = {name: split.num_examples for name, split in (builder.info.splits or {}).items()}
    streams = builder.as_streaming_dataset()
    ours = {there: name for name, there in place.splits.items()}
    splits = [ours.get(name, name) for name in streams]
    _check_splits(source, splits, {ours.get(name, name): number for name, number in counts.items()})
    stream = next((streams[name] for name in ("train", "validation") if name in streams), None)
    if stream is None:
        stream = next(iter(streams.values()))
    first = list(stream.take(count))
    features = stream.features or builder.info.features
    table = datasets.Dataset.from_list(first, features=features).data.table
    converted = conversion(source, place, datasets.Features.from_arrow_schema(table.schema))
    unknown = converted.unknown_values(table)
    if unknown:
        raise DriftError("; ".join(unknown))
    return Sample(place, builder.hash, list(ParquetRows(converted.apply(table))), counts, splits)


@cache
def _find(dataset: DatasetName) -> _Found:
    """The first place of the table that can be reached and has what it should, downloaded."""
    return _first(dataset, _load)


def _first(dataset: DatasetName, load: Callable[[HubSource, HubPlace], T]) -> T:
    """What `load` returns for the first place for which it does not fail; the failures before it are said."""
    source = hub_source(dataset)
    _go_offline_without_connection()
    failures = []
    reached = False
    for place in source.attempts():
        try:
            found = load(source, place)
        except Exception as error:  # network, permission, missing repository: many types of several libraries
            failures.append(f"{place.title}: {reason_of(error)}")
            reached = reached or not isinstance(error, ConnectionError)
            if _is_rate_limit(error):
                break  # another place is the same hub
            continue
        if failures:
            logger.warning("%s is read from %s (%s)", dataset, place.title, "; ".join(failures))
        return found
    ids = " or ".join(dict.fromkeys(place.id for place in source.places))
    why = "; ".join(failures) if reached else f"it cannot be reached, and its cache does not have {ids}"
    raise UserError(
        f"data set {dataset} cannot be taken from the hub ({why}); "
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
    _check_splits(source, list(counts), counts)
    for split in builder.info.splits if converted.classes else ():
        unknown = converted.unknown_values(builder.as_dataset(split=split).data.table)
        if unknown:
            raise DriftError(f"split {split}: {'; '.join(unknown)}")
    return _Found(place, builder, converted)


def _check_splits(source: HubSource, splits: Sequence[str], counts: Mapping[str, int]) -> None:
    for split in SPLITS_NEEDED:
        if split in source.rows and split not in splits:
            raise DriftError(f"no split {split} (it has {', '.join(splits)})")
    for split, count in counts.items():
        check_rows(source, split, count)


def open_builder(place: HubPlace) -> Any:
    """The `datasets.DatasetBuilder` of a place; nothing but its card and list of files has been asked for."""
    import datasets
    from datasets.load import get_dataset_builder_class

    module = _module(place.id, place.revision, place.folder)
    arguments = dict(module.builder_kwargs)
    name = arguments.pop("config_name", place.config or module.builder_configs_parameters.default_config_name)
    builder_class = get_dataset_builder_class(module, dataset_name=arguments.get("dataset_name"))
    info = (module.dataset_infos or {}).get(name)
    builder: datasets.DatasetBuilder = builder_class(config_name=name, hash=module.hash, info=info, **arguments)
    return builder


@cache
def _module(id: str, revision: str | None, folder: str | None) -> Any:
    """What a repository holds. Kept, since reading the card of one with hundreds of configurations takes seconds."""
    from datasets.load import dataset_module_factory

    return dataset_module_factory(id, revision=revision, data_dir=folder)


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
    line = first_line(error)[:300]
    kind = type(error).__name__
    return line if isinstance(error, UserError | ValueError) or line == kind else f"{kind}: {line}"
