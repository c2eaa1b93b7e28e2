"""Text to a fairseq data directory: units encoded by all cores, kept on disk, then merged in order.

A run that was killed leaves finished units in OUTPUT/.binarize; the same command goes on after them, and does not read
sections again of which it has all units. What is written depends on the inputs and the settings alone, not on the
number of processes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from metro_t0.claims import OR_OVERWRITE, check_dictionary, check_owner, claimed
from metro_t0.data.documents import BadLines
from metro_t0.data.hub import HubFailed
from metro_t0.data.record import DICT_NAME, INFO_NAME
from metro_t0.data.shares import Share, check_no_share_is_running, share_of_work
from metro_t0.data.sources import (
    LOCAL_INPUTS,
    MAX_DOCUMENT_BYTES,
    PIECES,
    UNIT_BYTES,
    Input,
    Section,
    Unit,
    local_states,
    pinned,
)
from metro_t0.data.token_files import TokenFileWriter, token_dtype
from metro_t0.data.units import VALID, Counts, Split, encode_unit, load_unit, save_unit
from metro_t0.errors import UserError
from metro_t0.files import read_json, sha256_of, write_json
from metro_t0.parallel import WorkerDied, workers
from metro_t0.progress import progress
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.tokenizer import TOKENIZER_NAME

WORK_NAME = ".binarize"
PLAN_NAME = "plan.json"
FILES_NAME = "files.json"
"""Files of this data set and of those that it replaces, while it is merged."""
OF_DATA_SET = re.compile(r"(shard\d+/)?(train\.(bin|idx)|valid\.(bin|idx)|dict\.txt|tokenizer\.json)")
WORTH = [f"{WORK_NAME}/{names}" for names in ("unit-*.npy", "section-*.json")]
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

    def at_one_commit(self, work: Path, digest: str) -> BinarizeSettings:
        """The settings with the commits of the hub that the first run of them found, which `work` keeps."""
        pins = pinned(self.inputs + self.valid_inputs, work / f"hub-{digest[:16]}.json")
        groups = (self.inputs, self.valid_inputs)
        inputs, valid_inputs = ([replace(each, found=pins.get(each.spec)) for each in group] for group in groups)
        return replace(self, inputs=inputs, valid_inputs=valid_inputs)

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
    output = settings.output
    if (finished := _finished(settings, plan)) is not None:
        return finished
    if not settings.overwrite:
        check_dictionary(output, tokenizer.fingerprint, OR_OVERWRITE)
    check_no_share_is_running(output / WORK_NAME)
    with claimed(output, plan, f"{WORK_NAME}/{PLAN_NAME}", WORTH, OR_OVERWRITE, settings.overwrite):
        # Another run may have finished it just before.
        return _finished(settings, plan) or _binarize(settings, tokenizer, processes, plan)


def encode_share(settings: BinarizeSettings, tokenizer: Tokenizer, processes: int, share: Share) -> int:
    """Encode one share of the units into the directory, for `binarize` to join; returns how many. See `data.shares`.

    Raises `WorkerDied`, after which the same call goes on, and `UserError`.
    """
    if settings.overwrite:
        raise UserError("--part goes on with what is there, so it does not go with --overwrite; remove the directory")
    plan, work = settings.plan(tokenizer), settings.output / WORK_NAME
    if _finished(settings, plan) is not None:
        return 0
    with share_of_work(settings.output, work, plan, PLAN_NAME, share):
        settings = settings.at_one_commit(work, _digest(plan))
        encoded = _encode_all(settings, tokenizer, work, processes, _digest(plan), share)
        return sum(1 for _ in progress(encoded, f"binarize, part {share.number}/{share.of}", unit=PIECES))


def _binarize(settings: BinarizeSettings, tokenizer: Tokenizer, processes: int, plan: dict[str, Any]) -> dict[str, Any]:
    work, local_inputs = settings.output / WORK_NAME, local_states(settings.inputs + settings.valid_inputs)
    try:
        bad = BadLines()
        totals: dict[str, Counts] = {}
        units: list[Path] = []
        settings = settings.at_one_commit(work, _digest(plan))
        encoded = _encode_all(settings, tokenizer, work, processes, _digest(plan))
        for head in progress(encoded, "binarize", unit=PIECES):
            units.append(head.path)
            bad.merge(head.bad.counts, head.bad.examples)
            for name, counts in head.parts.items():
                totals.setdefault(name, Counts()).add(counts)
        _check_sets(settings, totals, bad)
        info = _merge(settings, tokenizer, units, totals, bad, plan, local_inputs)
    except (WorkerDied, HubFailed):
        raise  # the finished units are kept for the next run
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work)
    return info


def _finished(settings: BinarizeSettings, plan: dict[str, Any]) -> dict[str, Any] | None:
    """info.json of a finished data set with this plan; None where there is none, or not all of it."""
    output = settings.output
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output names a directory")
    if not (path := output / INFO_NAME).is_file() or settings.overwrite:
        return None
    info: dict[str, Any] = read_json(path, dict[str, Any])
    before, state = info.get("plan"), local_states(settings.inputs + settings.valid_inputs)
    found = before if isinstance(before, dict) else {"format": info.get("format")}
    found = {**found, LOCAL_INPUTS: info.get(LOCAL_INPUTS, state)}
    check_owner(output, found, {**plan, LOCAL_INPUTS: state}, OR_OVERWRITE)
    files = filter(OF_DATA_SET.fullmatch, info.get("sha256", ()))
    return info if all((output / name).is_file() for name in files) else None


def _digest(plan: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Head:
    """What the parent process needs to know of a finished unit."""

    path: Path
    parts: dict[str, Counts]
    bad: BadLines


@dataclass(frozen=True)
class _Place:
    """Where the units of one section are kept. number: of the section, over all inputs."""

    work: Path
    number: int
    split: Split
    plan: str

    def unit(self, index: int) -> Path:
        return self.work / f"unit-{self.number:06d}-{index:06d}.npy"

    @property
    def mark(self) -> Path:
        """The file that says that all units of the section are there, and how many."""
        return self.work / f"section-{self.number:06d}.json"


@dataclass(frozen=True)
class _Done:
    """What a job returns. mark: a section of which all units are there when this is received, and their number."""

    heads: list[_Head]
    mark: tuple[_Place, int] | None = None


def _encode_all(
    settings: BinarizeSettings,
    tokenizer: Tokenizer,
    work: Path,
    processes: int,
    plan: str,
    share: Share = Share(1, 1),  # noqa: B008 - immutable
) -> Iterator[_Head]:
    """The heads of all units of the share, in order."""

    def jobs() -> Iterator[Callable[[], _Done]]:
        numbers = count()
        for inputs, split in settings.splits():
            for each in inputs:
                sections = each.sections()
                # Each file of a data set is read by one machine and there by the process that encodes it. Where there
                # are too few, all machines read, or this process does, so that the others have something to encode.
                whole = share.of == 1 or (each.is_on_hub and len(sections) >= share.of)
                apart = each.is_on_hub and len(sections) >= share.of * processes
                for section in sections:
                    place = _Place(work, next(numbers), split, plan)
                    if not whole:
                        yield from _unit_jobs(section, place, share)
                    elif share.has(place.number):
                        yield from _section_jobs(section, place, apart)

    with workers(processes, partial(_set_tokenizer, tokenizer), fork=True) as pool:
        for done in pool.in_order(_run, jobs()):
            if done.mark:
                place, units = done.mark
                write_json(place.mark, {"plan": plan, "units": units})
            yield from done.heads


def _section_jobs(section: Section, place: _Place, apart: bool) -> Iterator[Callable[[], _Done]]:
    """A whole section: as it is if it is finished, else read by a process of its own (`apart`) or by this one."""
    if place.mark.is_file() and (mark := read_json(place.mark, dict[str, Any]))["plan"] == place.plan:
        yield partial(_load_section, place, mark["units"])
    elif apart:
        yield partial(_encode_section, section, place)
    else:
        units = 0
        for job in _unit_jobs(section, place):
            units += 1
            yield job
        yield partial(_Done, [], (place, units))


def _unit_jobs(section: Section, place: _Place, share: Share | None = None) -> Iterator[Callable[[], _Done]]:
    for index, unit in enumerate(section.units()):
        if share is None or share.has(place.number + index):
            # A finished unit is not sent to another process.
            yield partial(_encode_unit, None if place.unit(index).is_file() else unit, place, index)


_tokenizers: list[Tokenizer] = []  # of this process, see `metro_t0.parallel`


def _set_tokenizer(tokenizer: Tokenizer) -> None:
    _tokenizers[:] = [tokenizer]


def _run(job: Callable[[], _Done]) -> _Done:
    return job()


def _encode_unit(unit: Unit | None, place: _Place, index: int) -> _Done:
    return _Done([_head(unit, place, index)])


def _encode_section(section: Section, place: _Place) -> _Done:
    heads = [_head(unit, place, index) for index, unit in enumerate(section.units())]
    return _Done(heads, (place, len(heads)))


def _load_section(place: _Place, units: int) -> _Done:
    return _Done([_head(None, place, index) for index in range(units)])


def _head(unit: Unit | None, place: _Place, index: int) -> _Head:
    """Encode a unit, unless it is finished already, and keep it. unit: None where it must be finished."""
    path = place.unit(index)
    if unit is None or path.is_file():
        encoded = load_unit(path, place.plan)
    else:
        encoded = encode_unit(unit, _tokenizers[0], place.split)
        save_unit(encoded, path, place.plan)
    return _Head(path, {name: part.counts for name, part in encoded.parts.items()}, encoded.bad)


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
    units: list[Path],
    totals: dict[str, Counts],
    bad: BadLines,
    plan: dict[str, Any],
    local_inputs: dict[str, str],
) -> dict[str, Any]:
    """Join the units, in order, into the final files; info.json comes last and marks the directory as finished."""
    output, names = settings.output, _set_names(settings)
    directories = [output] if settings.shards == 1 else [output / f"shard{i}" for i in range(settings.shards)]
    places = {str(shard): directory / TRAIN for shard, directory in enumerate(directories)}
    places[VALID] = directories[0] / VALID
    files = [DICT_NAME, TOKENIZER_NAME, *_token_files(TRAIN), *(_token_files(VALID) if VALID in names else ())]
    written = [directory / name for directory in directories for name in sorted(files)]
    before = _begin_files(output, written)
    dtype = token_dtype(len(tokenizer))
    with ExitStack() as stack:
        writers = {name: stack.enter_context(TokenFileWriter(places[name], dtype)) for name in names}
        for path in progress(units, "merge", unit=PIECES):
            for name, part in load_unit(path, _digest(plan)).parts.items():
                writers[name].add_items(part.tokens, part.sizes)
    for directory in directories:
        tokenizer.save(directory)
        if directory != directories[0] and VALID in names:
            for suffix in (".bin", ".idx"):
                shutil.copyfile(f"{places[VALID]}{suffix}", f"{directory / VALID}{suffix}")
    _remove_rest(before - {*written})
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
        "sha256": {str(path.relative_to(output)): sha256_of(path) for path in written},
    }
    if revisions := {i.spec: i.found.revision for i in settings.valid_inputs + settings.inputs if i.found}:
        info["hub_revisions"] = revisions
    if local_inputs:
        info[LOCAL_INPUTS] = local_inputs
    write_json(output / INFO_NAME, info)
    return info


def _token_files(name: str) -> list[str]:
    return [f"{name}.bin", f"{name}.idx"]


def _begin_files(output: Path, written: list[Path]) -> set[Path]:
    """The files of this data set and of what it replaces, also where merging was stopped. Removes the old info.json."""
    note, info = output / WORK_NAME / FILES_NAME, output / INFO_NAME
    names = {str(path.relative_to(output)) for path in written}
    names |= {*(read_json(note, list[str]) if note.is_file() else ())}
    names |= {*(read_json(info, dict[str, Any]).get("sha256", ()) if info.is_file() else ())}
    names = {name for name in names if OF_DATA_SET.fullmatch(name)}  # earlier versions wrote down whatever was there
    write_json(note, sorted(names))
    info.unlink(missing_ok=True)
    return {output / name for name in names}


def _remove_rest(files: set[Path]) -> None:
    """Without them nobody trains or validates on a shard or a set that only the replaced data set had."""
    for path in files:
        path.unlink(missing_ok=True)
    for directory in {path.parent for path in files}:
        with suppress(OSError):  # something else is in it
            directory.rmdir()


def _set_label(name: str, shards: int) -> str:
    if name == VALID:
        return VALID
    return TRAIN if shards == 1 else f"shard{name}/{TRAIN}"


def _summary(counts: Counts) -> dict[str, Any]:
    return vars(counts) | {"unknown_rate": counts.unknown / max(counts.tokens - counts.items, 1)}
