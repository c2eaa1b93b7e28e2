"""Reading built mixtures, and which examples an epoch is made of. Knows no training framework."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from metro_t0.data.mixture_files import MIXTURE_FILE, SETTINGS_FILE, VALID, is_written, side_prefixes, task_prefix
from metro_t0.data.pairs import read_pairs
from metro_t0.data.token_files import IdLimit, TokenFile
from metro_t0.errors import UserError, nearest
from metro_t0.files import read_json, sha256_of
from metro_t0.randomness import keyed_generator
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.vocabulary import Vocabulary

logger = logging.getLogger(__name__)
Tokens = Sequence[NDArray[np.integer]]


@dataclass(frozen=True)
class TaskExamples:
    """All tokenized examples of one prompted task."""

    name: str
    dataset: str
    """Data set of the task, as `name` or `name_subset`."""
    sources: Tokens
    """Token ids of each source, ending with `</s>`, without `<s>`."""
    targets: Tokens
    source_sizes: NDArray[np.int32]
    target_sizes: NDArray[np.int32]
    cap: int | None = None
    """Examples that count per epoch; None for all."""

    def __len__(self) -> int:
        return len(self.source_sizes)

    def epoch_indices(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Which examples epoch `epoch` (from 1) uses: all, or `cap` of them, others in every epoch.

        The epochs cut one endless row of permutations into pieces of `cap`, so that no example is used a second time
        before all were used once. A function of (seed, name, epoch) alone.
        """
        total = len(self)
        if self.cap is None or self.cap >= total:
            return np.arange(total)
        start = (epoch - 1) * self.cap
        first, last = start // total, (start + self.cap - 1) // total
        passes = [
            keyed_generator("subset", seed, self.name, turn).permutation(total) for turn in range(first, last + 1)
        ]
        return np.concatenate(passes)[start - first * total :][: self.cap]


class TaskEntry(TypedDict):
    """What mixture.json says of a task."""

    name: str
    dataset: str
    subset: str | None
    cap: int | None


class MixtureFile(TypedDict):
    """mixture.json."""

    tasks: list[TaskEntry]


def load_task_examples(directory: Path, split: str) -> list[TaskExamples]:
    """The tasks of a built mixture; `split` is "train" or "valid".

    No file stays open. Raises `UserError` for a damaged directory, and for another dict.txt than it was built with.
    """
    path = directory / MIXTURE_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; make the directory with metro-t0-prompts build")
    limit = _id_limit(directory)
    tasks = []
    for entry in read_json(path, MixtureFile)["tasks"]:
        prefix = task_prefix(directory, split, entry["name"])
        if split == VALID and not is_written(prefix):
            continue  # not every task has held-out examples
        dataset = entry["dataset"] if entry["subset"] is None else f"{entry['dataset']}_{entry['subset']}"
        source, target = (TokenFile(side, limit) for side in side_prefixes(prefix))
        if len(source) != len(target):
            raise UserError(f"{source.prefix}: {len(source)} sources but {len(target)} targets; build it again")
        tasks.append(TaskExamples(entry["name"], dataset, source, target, source.sizes, target.sizes, entry["cap"]))
    if not tasks:
        raise UserError(f"{path}: no task has {split} examples")
    return tasks


def _id_limit(directory: Path) -> IdLimit | None:
    dict_path = directory / "dict.txt"
    if not dict_path.is_file():
        return None
    settings = directory / SETTINGS_FILE
    built_with = read_json(settings, dict[str, Any]).get("tokenizer_fingerprint") if settings.is_file() else None
    if built_with not in (None, sha256_of(dict_path)):
        raise UserError(f"{dict_path}: is not the one that the mixture was built with; restore it, or build again")
    return IdLimit(len(Vocabulary.read(dict_path)), dict_path)


def choose_tasks(tasks: Sequence[TaskExamples], name: str) -> list[TaskExamples]:
    """The tasks of one data set (`name_subset` or `name/subset`), or the one task of that name.

    Raises `UserError` with the nearest names.
    """
    wanted = name.replace("/", "_")
    chosen = [task for task in tasks if wanted in (task.dataset.replace("/", "_"), task.name)]
    if not chosen:
        known = {task.dataset for task in tasks} | {task.name for task in tasks}
        raise UserError(f"no held-out examples of {name!r}{nearest(name, known)}")
    return chosen


def load_pairs(path: Path, tokenizer: Tokenizer, max_source: int, max_target: int) -> TaskExamples:
    """A file of source/target text pairs (`metro_t0.data.pairs`), tokenized; of several references the first.

    max_source, max_target: longest sequences as in `metro-t0-prompts build`; how many are cut is logged. Raises
    `UserError` for a bad line, since the whole file is meant to be trained on.
    """
    pairs = read_pairs(path)
    sources, cut_sources = _encode(tokenizer, [pair.source for pair in pairs], max_source - 1)
    targets, cut_targets = _encode(tokenizer, [pair.references[0] for pair in pairs], max_target)
    if cut_sources or cut_targets:
        limits = f"sources are cut to {max_source} tokens, {cut_targets} targets to {max_target}"
        logger.warning("%s: of %d examples %d %s", path, len(pairs), cut_sources, limits)
    name = path.name.split(".")[0]
    return TaskExamples(name, name, sources, targets, _sizes(sources), _sizes(targets))


def _encode(tokenizer: Tokenizer, texts: list[str], max_tokens: int) -> tuple[list[NDArray[np.integer]], int]:
    """Token ids of every text with its end token, and how many texts were cut."""
    end, encoded = tokenizer.eos_id, tokenizer.encode_batch(texts)
    rows: list[NDArray[np.integer]] = [np.array([*ids[: max_tokens - 1], end], dtype=np.int32) for ids in encoded]
    return rows, sum(len(ids) >= max_tokens for ids in encoded)


def _sizes(sequences: Iterable[NDArray[np.integer]]) -> NDArray[np.int32]:
    return np.array([len(sequence) for sequence in sequences], dtype=np.int32)
