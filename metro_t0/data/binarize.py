"""Text to a fairseq data directory: units encoded by all cores, kept on disk, then merged in order.

A run that was killed leaves finished units in OUTPUT/.binarize; the same command goes on after them. What is written
depends on the inputs and the settings alone, not on the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from metro_t0.claims import check_owner, claimed
from metro_t0.data.documents import BadLines
from metro_t0.data.record import INFO_NAME
from metro_t0.data.shares import Share, check_no_share_is_running, share_of_work
from metro_t0.data.sources import MAX_DOCUMENT_BYTES, PIECES, UNIT_BYTES, Input, Unit
from metro_t0.data.token_files import TokenFileWriter, token_dtype
from metro_t0.data.units import VALID, Counts, Split, encode_unit, load_unit, save_unit
from metro_t0.errors import UserError
from metro_t0.files import read_json, sha256_of, write_json
from metro_t0.parallel import WorkerDied, workers
from metro_t0.progress import progress
from metro_t0.tokenization import Tokenizer

WORK_NAME = ".binarize"
PLAN_NAME = "plan.json"
UNIT_NAMES = "unit-*.npy"
REMEDY = "name another directory or add --overwrite"
TRAIN = "train"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class BinarizeSettings:
    """valid_fraction: share of documents held out, taken from the training inputs where no valid inputs are given."""

    inputs: list[Input]
    valid_inputs: list[Input]
    valid_fraction: float
    shards: int
    output: Path
    overwrite: bool = False

    def plan(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Everything that the result depends on."""
        return {
            "format": FORMAT_VERSION,
            "inputs": [each.identity() for each in self.inputs],
            "valid_inputs": [each.identity() for each in self.valid_inputs],
            "valid_fraction": self.valid_fraction,
            "shards": self.shards,
            "unit_bytes": [UNIT_BYTES, MAX_DOCUMENT_BYTES],
            "tokenizer": [tokenizer.fingerprint, len(tokenizer), tokenizer.rules_fingerprint],
        }

    def splits(self) -> list[tuple[list[Input], Split]]:
        """Which inputs are dealt out how; the validation inputs first."""
        if not self.valid_inputs:
            return [(self.inputs, Split(self.valid_fraction, self.shards))]
        return [(self.valid_inputs, Split(1.0, self.shards)), (self.inputs, Split(0.0, self.shards))]


def binarize(settings: BinarizeSettings, tokenizer: Tokenizer, processes: int) -> dict[str, Any]:
    """Write the data directory and return what its info.json says.

    Raises `WorkerDied`, after which the same call goes on, and `UserError`, leaving nothing behind, where the input
    gives no text, a set would be empty or the directory holds something else. Where it holds this very data set
    already, nothing is done.
    """
    plan = settings.plan(tokenizer)
    output, overwrite = settings.output, settings.overwrite
    if (finished := _finished(output, plan, overwrite)) is not None:
        return finished
    check_no_share_is_running(output / WORK_NAME)
    with claimed(output, plan, f"{WORK_NAME}/{PLAN_NAME}", [f"{WORK_NAME}/{UNIT_NAMES}"], REMEDY, overwrite):
        # Another run may have finished it just before.
        return _finished(output, plan, overwrite) or _binarize(settings, tokenizer, processes, plan)


def encode_share(settings: BinarizeSettings, tokenizer: Tokenizer, processes: int, share: Share) -> int:
    """Encode one share of the units into the directory, for `binarize` to join; gives how many. See `data.shares`.

    Raises `WorkerDied`, after which the same call goes on, and `UserError`.
    """
    if settings.overwrite:
        raise UserError("--part goes on with what is there, so it does not go with --overwrite; remove the directory")
    plan, work = settings.plan(tokenizer), settings.output / WORK_NAME
    if _finished(settings.output, plan, overwrite=False) is not None:
        return 0
    with share_of_work(settings.output, work, plan, PLAN_NAME, share):
        encoded = _encode_all(settings, tokenizer, work, processes, _digest(plan), share)
        return sum(1 for _ in progress(encoded, f"binarize, part {share.number}/{share.of}", unit=PIECES))


def _binarize(settings: BinarizeSettings, tokenizer: Tokenizer, processes: int, plan: dict[str, Any]) -> dict[str, Any]:
    work, digest = settings.output / WORK_NAME, _digest(plan)
    try:
        bad = BadLines()
        totals: dict[str, Counts] = {}
        count = 0
        for head in progress(_encode_all(settings, tokenizer, work, processes, digest), "binarize", unit=PIECES):
            count += 1
            bad.merge(head.bad.counts, head.bad.examples)
            for name, counts in head.parts.items():
                totals.setdefault(name, Counts()).add(counts)
        _check_sets(settings, totals, bad)
        info = _merge(settings, tokenizer, work, count, totals, bad, plan)
    except WorkerDied:
        raise  # the finished units are kept for the next run
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work)
    return info


def _finished(output: Path, plan: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """info.json of a finished data set with this plan; None where there is none yet or it may be replaced."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output names a directory")
    path = output / INFO_NAME
    if not path.is_file() or overwrite:
        return None
    info: dict[str, Any] = read_json(path, dict[str, Any])
    before = info.get("plan")
    check_owner(output, before if isinstance(before, dict) else {"format": info.get("format")}, plan, REMEDY)
    return info


def _digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Task:
    unit: Unit | None  # None where the unit is finished already
    split: Split
    path: Path
    plan: str


@dataclass(frozen=True)
class _Head:
    """What the parent process needs to know of a finished unit."""

    parts: dict[str, Counts]
    bad: BadLines


def _encode_all(
    settings: BinarizeSettings,
    tokenizer: Tokenizer,
    work: Path,
    processes: int,
    plan: str,
    share: Share = Share(1, 1),  # noqa: B008 - immutable
) -> Iterator[_Head]:
    def tasks() -> Iterator[_Task]:
        number = 0
        for inputs, split in settings.splits():
            for each in inputs:
                for unit in each.units():
                    path = _unit_path(work, number)
                    if share.has(number):
                        yield _Task(None if path.is_file() else unit, split, path, plan)
                    number += 1

    with workers(processes, partial(_set_tokenizer, tokenizer), fork=True) as pool:
        yield from pool.in_order(_work, tasks())


def _unit_path(work: Path, number: int) -> Path:
    return work / f"unit-{number:08d}.npy"


_tokenizers: list[Tokenizer] = []  # of this process, see `metro_t0.parallel`


def _set_tokenizer(tokenizer: Tokenizer) -> None:
    _tokenizers[:] = [tokenizer]


def _work(task: _Task) -> _Head:
    if task.unit is None:
        encoded = load_unit(task.path, task.plan)
    else:
        encoded = encode_unit(task.unit, _tokenizers[0], task.split)
        save_unit(encoded, task.path, task.plan)
    return _Head({name: part.counts for name, part in encoded.parts.items()}, encoded.bad)


def _check_sets(settings: BinarizeSettings, totals: dict[str, Counts], bad: BadLines) -> None:
    documents = sum(counts.documents for counts in totals.values())
    if not documents:
        skipped = f" ({', '.join(f'{count} lines {why}' for why, count in bad.counts.items())})" if bad.counts else ""
        raise UserError(f"{settings.inputs[0].spec}: the input holds no text{skipped}")
    empty = [name for name in _set_names(settings) if name not in totals]
    if VALID in empty:
        raise UserError(
            f"none of {documents} documents was held out at --valid-fraction {settings.valid_fraction}; "
            "raise it, name --valid inputs, or set it to 0 for no validation set"
        )
    if empty:
        raise UserError(f"{documents} documents are too few for {settings.shards} training shards; lower --shards")


def _set_names(settings: BinarizeSettings) -> list[str]:
    names = [str(shard) for shard in range(settings.shards)]
    return [*names, VALID] if settings.valid_inputs or settings.valid_fraction > 0 else names


def _merge(
    settings: BinarizeSettings,
    tokenizer: Tokenizer,
    work: Path,
    count: int,
    totals: dict[str, Counts],
    bad: BadLines,
    plan: dict[str, Any],
) -> dict[str, Any]:
    """Join the units, in order, into the final files; info.json comes last and marks the directory as finished."""
    output = settings.output
    (output / INFO_NAME).unlink(missing_ok=True)
    names = _set_names(settings)
    directories = [output] if settings.shards == 1 else [output / f"shard{i}" for i in range(settings.shards)]
    places = {str(shard): directory / TRAIN for shard, directory in enumerate(directories)}
    places[VALID] = directories[0] / VALID
    dtype = token_dtype(len(tokenizer))
    with ExitStack() as stack:
        writers = {name: stack.enter_context(TokenFileWriter(places[name], dtype)) for name in names}
        for number in progress(range(count), "merge", unit=PIECES):
            for name, part in load_unit(_unit_path(work, number), _digest(plan)).parts.items():
                writers[name].add_items(part.tokens, part.sizes)
    for directory in directories:
        tokenizer.save(directory)
        if directory != directories[0] and VALID in names:
            for suffix in (".bin", ".idx"):
                shutil.copyfile(f"{places[VALID]}{suffix}", f"{directory / VALID}{suffix}")
    info = {
        "format": FORMAT_VERSION,
        "plan": plan,
        "inputs": [each.spec for each in settings.inputs],
        "valid_inputs": [each.spec for each in settings.valid_inputs],
        "valid_fraction": settings.valid_fraction,
        "vocabulary": {"size": len(tokenizer), "sha256": tokenizer.fingerprint},
        "dtype": dtype.name,
        "sets": {_set_label(name, settings.shards): _summary(totals[name]) for name in names},
        "bad_lines": dict(bad.counts),
        "bad_line_examples": bad.examples,
        "sha256": {
            str(path.relative_to(output)): sha256_of(path)
            for directory in directories
            for path in sorted(directory.iterdir())
            if path.is_file() and not path.name.startswith(".")  # to read the lock would release it
        },
    }
    write_json(output / INFO_NAME, info)
    return info


def _set_label(name: str, shards: int) -> str:
    if name == VALID:
        return VALID
    return TRAIN if shards == 1 else f"shard{name}/{TRAIN}"


def _summary(counts: Counts) -> dict[str, Any]:
    return vars(counts) | {"unknown_rate": counts.unknown / max(counts.tokens - counts.items, 1)}
