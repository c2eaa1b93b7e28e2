"""Data sets of the Hugging Face hub, `hf:NAME[/CONFIG][:SPLIT]`; NAME may also be a local directory of data files.

A data set consists of files, which can be read apart from each other: that is how several processes and machines read
one, and how a run goes on without the files that it has finished. All of them read one commit, see `pinned`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metro_t0.errors import UserError, first_line

PREFIX = "hf:"


class HubFailed(UserError):
    """The hub or the way to it failed; later the same command goes on where it was."""


@dataclass(frozen=True)
class HubData:
    """One split of a data set at one commit. revision: None for a local directory, which has no commits."""

    repository: str
    config: str | None
    split: str
    revision: str | None

    def load(self, **arguments: Any) -> Any:
        """What `datasets.load_dataset` makes of it."""
        import datasets

        return datasets.load_dataset(
            self.repository, self.config, split=self.split, revision=self.revision, **arguments
        )


@contextmanager
def failures_named(spec: str) -> Iterator[None]:
    """Turn what the hub's libraries raise into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # network, permission, damaged files: many types of several libraries
        raise HubFailed(f"{spec}: cannot be read ({first_line(error)})") from None


def local_state(spec: str) -> str | None:
    """A digest of names, sizes and times of the files of a data set that is a local directory; None for another."""
    directory = Path(spec.removeprefix(PREFIX).partition(":")[0])
    if not directory.is_dir():
        return None
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    state = [[str(path.relative_to(directory)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def find(spec: str, default_split: str = "train") -> HubData:
    """The data set that `spec` names, as it is now. Raises `HubFailed`."""
    name, _, split = spec.removeprefix(PREFIX).partition(":")
    split = split or default_split
    if os.path.isdir(name):
        return HubData(name, None, split, None)
    owner_and_name = "/".join(name.split("/")[:2])
    with failures_named(spec):
        revision = _commit(owner_and_name)
        if revision is not None:
            return HubData(owner_and_name, "/".join(name.split("/")[2:]) or None, split, revision)
        # squad and glue/sst2: historical names, without an owner
        first, _, config = name.partition("/")
        revision = _commit(first) if config else None
        if revision is None:
            raise HubFailed(f"{spec}: not on the hub, or not for you (`hf auth login`)")
        return HubData(first, config, split, revision)


def _commit(repository: str) -> str | None:
    """The commit at which a repository stands; None where there is no such repository."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return HfApi().dataset_info(repository).sha
    except GatedRepoError:  # a kind of the next
        raise
    except RepositoryNotFoundError:
        return None


def files(spec: str, data: HubData) -> list[Any]:
    """One `datasets.IterableDataset` for each file of the data, in order; they can be sent to other processes."""
    with failures_named(spec):
        rows = data.load(streaming=True)
        return [rows.shard(num_shards=rows.num_shards, index=index) for index in range(rows.num_shards)]


def column(rows: Any, spec: str, field: str) -> Iterator[Any]:
    """One field of every row. Raises `HubFailed`, and `UserError` where there is no such field."""
    from datasets.features.features import require_decoding

    with failures_named(spec):
        features = rows.features or {}
        if field in features and require_decoding(features) and not require_decoding(features[field]):
            rows = rows.decode(False)  # of images and sound beside the text
        for row in rows:
            if field not in row:
                raise UserError(f"{spec}: no field {field!r}; --field is one of {', '.join(row)}")
            yield row[field]
