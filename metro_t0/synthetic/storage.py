"""Examples as files: one per task and split, in fairseq's format, as TSV or as parquet; read back for checking."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from metro_t0.claims import REMEDY, check_dictionary, check_owner, lock
from metro_t0.data.mixture_files import MIXTURE_FILE, SETTINGS_FILE, is_written, side_prefixes
from metro_t0.errors import UserError, first_line
from metro_t0.files import atomic_path, read_json, write_json, write_text
from metro_t0.progress import progress
from metro_t0.synthetic.ragged import Examples
from metro_t0.synthetic.settings import BLOCK, Format, Order, Profile, StreamSettings
from metro_t0.synthetic.stream import SPLITS, Split, TaskMixture, TaskStream
from metro_t0.synthetic.vocabulary import SyntheticVocabulary, load_vocabulary

MANIFEST = "manifest.json"
DUPLICATES = "duplicates"
"""In the manifest, written last: how many examples of each task were left out."""
FRUITLESS_BLOCKS = 100
LINE = re.compile(r"^\[(\d+(?:, \d+)*)?\]\t\[(\d+(?:, \d+)*)?\]$")
Row = tuple[list[int], list[int]]


def path_of(directory: Path, kind: Format, split: Split, task: str) -> Path:
    """fairseq's files (a prefix) close every source and target with the end-of-sequence token, the others do not."""
    return directory / split / (task if kind == "fairseq" else f"{task}.{kind}")


def generate(
    directory: Path, kind: Format, mixture: TaskMixture, counts: dict[Split, int], deduplicate: bool
) -> dict[str, int]:
    """Write every task of a mixture; return duplicates left out per task. Files appear whole or not at all.

    Where all of them are there already, nothing is done.
    counts: examples per task of each split. deduplicate: of examples with one source the first is kept, and drawing
    goes on until there are enough.
    """
    manifest = {**mixture.describe(), "format": kind, **{f"{split}_examples": counts[split] for split in SPLITS}}
    manifest |= {"deduplicate": deduplicate, "vocabulary_name": mixture.vocabulary.fingerprint}
    write = {"fairseq": _write_fairseq, "tsv": _write_tsv, "parquet": _write_parquet}[kind]
    dropped = {stream.task.name: 0 for stream in mixture.streams}
    dictionary = dict_text(mixture.vocabulary)
    parts = [
        (stream, split, path_of(directory, kind, split, stream.task.name))
        for stream, split in itertools.product(mixture.streams, counts)
    ]
    with lock(directory):
        if (directory / MANIFEST).is_file():
            before = read_json(directory / MANIFEST, dict[str, Any])
            duplicates: dict[str, int] | None = before.pop(DUPLICATES, None)
            check_owner(directory, before, manifest)
            if duplicates is not None and all(_is_there(path, kind) for _, _, path in parts):
                return duplicates
        elif (directory / SETTINGS_FILE).is_file():
            raise UserError(f"{directory}: holds a mixture of metro-t0-prompts build; {REMEDY}")
        else:
            check_dictionary(directory, hashlib.sha256(dictionary.encode()).hexdigest())
        for stream, split, path in parts:
            blocks = _selected(stream, split, counts[split], deduplicate, dropped)
            blocks = progress(blocks, f"{stream.task.name} {split}", -(-counts[split] // BLOCK), "blocks")
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, blocks, mixture.vocabulary.eos)
        write_text(directory / "dict.txt", dictionary)
        if kind == "fairseq" and mixture.vocabulary.bos is not None:
            # What the fairseq task `prompt_finetuning` reads. With T5's ids it would take its </s> for padding.
            write_json(directory / MIXTURE_FILE, {"tasks": _task_entries(mixture, counts["train"])})
        write_json(directory / MANIFEST, {**manifest, DUPLICATES: dropped})
    return dropped


def _is_there(path: Path, kind: Format) -> bool:
    return is_written(path) if kind == "fairseq" else path.is_file()


def _task_entries(mixture: TaskMixture, examples: int) -> list[dict[str, Any]]:
    """What mixture.json says of the tasks: of each an epoch takes as many examples as its rate says, at most all."""
    highest = max(mixture.rates)
    return [
        {
            "name": (name := stream.task.name),
            "dataset": "synthetic",
            **dict.fromkeys(("subset", "template"), name),
            "examples": examples,
            "cap": max(int(examples * rate / highest), 1),
        }
        for stream, rate in zip(mixture.streams, mixture.rates, strict=True)
    ]


def dict_text(vocabulary: SyntheticVocabulary) -> str:
    """The tokenizer's dict.txt, or one of placeholder pieces: line k is id 4 + k, as fairseq counts (T5: 3 + k)."""
    if vocabulary.dictionary is not None:  # checkpoints know their dictionary by its bytes
        return vocabulary.dictionary
    first = 4 if vocabulary.pad == 1 else 3
    return "".join(f"<id{token}> 1\n" for token in range(first, vocabulary.size))


def _selected(
    stream: TaskStream, split: Split, count: int, deduplicate: bool, dropped: dict[str, int]
) -> Iterator[Examples]:
    """The blocks of a stream up to `count` examples; counts what is left out as duplicate.

    Raises `UserError` where hardly a source is left that is not one of them.
    """
    seen: set[bytes] = set()
    last_new = 0
    for number in itertools.count():
        block = stream.block(split, number)
        if deduplicate:
            new = []
            for key in block.sources.row_bytes():
                new.append(key not in seen)
                seen.add(key)
            dropped[stream.task.name] += new.count(False)
            block = block.take(np.array(new))
            last_new = number if any(new) else last_new
            if number - last_new >= FRUITLESS_BLOCKS:
                raise UserError(
                    f"task {stream.task.name} with these length bounds and this vocabulary has hardly more than "
                    f"{len(seen)} different sources to {split} on; ask for fewer, longer sequences or more tokens"
                )
        block = block.take(np.arange(min(count, len(block))))
        yield block
        count -= len(block)
        if not count:
            return


def _write_fairseq(path: Path, blocks: Iterator[Examples], end: int) -> None:
    from metro_t0.data.token_files import TokenFileWriter

    source_prefix, target_prefix = side_prefixes(path)
    with TokenFileWriter(source_prefix) as source, TokenFileWriter(target_prefix) as target:
        for block in blocks:
            for writer, rows in ((source, block.sources), (target, block.targets)):
                writer.add_items(np.insert(rows.values, np.cumsum(rows.lengths), np.uint16(end)), rows.lengths + 1)


def _write_tsv(path: Path, blocks: Iterator[Examples], end: int) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for block in blocks:
            rows = zip(block.sources.lists(), block.targets.lists(), strict=True)
            stream.writelines(f"{source}\t{target}\n" for source, target in rows)


def _write_parquet(path: Path, blocks: Iterator[Examples], end: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.uint16())
    schema = pa.schema({"source": kind, "target": kind})
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for block in blocks:
            columns = []
            for rows in (block.sources, block.targets):
                offsets = np.append(rows.starts, len(rows.values)).astype(np.int32)
                columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.values)).cast(kind))
            writer.write_table(pa.table(columns, schema=schema))


def read_rows(path: Path, kind: Format, stream: TaskStream) -> Iterator[Row]:
    """(source, target) of every example of a file, in order.

    Raises `UserError` with the line where a file does not hold what its format says.
    """
    if kind == "fairseq":
        return _read_fairseq(path, stream.distribution.vocabulary.eos)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return read_tsv(path) if kind == "tsv" else _read_parquet(path)


def read_tsv(path: Path) -> Iterator[Row]:
    """Lines `[i1, i2, ...]<TAB>[o1, o2, ...]`, the layout of the authors' data."""
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            if not LINE.match(line.rstrip("\n")):
                raise UserError(f"{path}: line {number} is not two lists of ids with a tab between them")
            source, target = line.split("\t")
            yield json.loads(source), json.loads(target)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches():
            columns = (batch.column("source").to_pylist(), batch.column("target").to_pylist())
            yield from zip(*columns, strict=True)
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise UserError(f"{path}: not a parquet file of sources and targets ({first_line(error)})") from None


def _read_fairseq(path: Path, end: int) -> Iterator[Row]:
    from metro_t0.data.token_files import TokenFile

    source, target = map(TokenFile, side_prefixes(path))
    if len(source) != len(target):
        raise UserError(f"{path}: {len(source)} sources but {len(target)} targets")
    for number in range(len(source)):
        pair = source[number].tolist(), target[number].tolist()
        for side, tokens in zip(("source", "target"), pair, strict=True):
            if not tokens or tokens[-1] != end:
                raise UserError(f"{path}.{side}: example {number + 1} does not end with the end-of-sequence token")
        yield pair[0][:-1], pair[1][:-1]


class Manifest(TypedDict):
    """What a manifest.json is read for."""

    format: Format
    vocabulary_name: str
    vocabulary: dict[str, Any]
    train_examples: int
    valid_examples: int
    seed: int
    profile: Profile
    order: Order
    length_min: int
    length_max: int
    prefixes: dict[str, list[int]]


def open_directory(directory: Path, vocabulary_name: str | None) -> tuple[Manifest, TaskMixture]:
    """What the manifest says and the stream that the files are of.

    vocabulary_name: where the vocabulary lies, if the manifest's own name for it (t5, compact:N) does not say.
    Raises `UserError` where the manifest is missing, or was made with another vocabulary.
    """
    manifest: Manifest = read_json(directory / MANIFEST, Manifest)
    name, _, limit = manifest["vocabulary_name"].partition("/")
    if vocabulary_name is None and name.startswith("dictionary:"):
        raise UserError(f"{directory}: made with a tokenizer's vocabulary; name its directory with --vocabulary")
    tasks = manifest["prefixes"]
    vocabulary = load_vocabulary(vocabulary_name or name, tasks, int(limit) if limit else None)
    if vocabulary.describe != manifest["vocabulary"]:
        raise UserError(f"{directory}: was generated with vocabulary {name}, not with {vocabulary.fingerprint}")
    bounds = (manifest["length_min"], manifest["length_max"])
    settings = StreamSettings(
        ",".join(tasks), manifest["seed"], manifest["profile"], *bounds, manifest["order"], any(tasks.values())
    )
    return manifest, settings.mixture(vocabulary)


def verify_directory(directory: Path, vocabulary: str | None) -> int:
    """Check all files of a directory that `generate` wrote; return 1 at the first wrong example, or 0."""
    manifest, mixture = open_directory(directory, vocabulary)
    kind, counts = manifest["format"], {"train": manifest["train_examples"], "valid": manifest["valid_examples"]}
    for split, stream in itertools.product(SPLITS, mixture.streams):
        path = path_of(directory, kind, split, stream.task.name)
        if path.parent.is_dir() and verify_rows(path, read_rows(path, kind, stream), stream, counts[split]):
            return 1
    return 0


def verify_rows(path: Path, rows: Iterator[Row], stream: TaskStream, expected: int | None = None) -> int:
    """Check rows; print the first wrong one and return 1, or print how many are right and return 0.

    expected: how many there must be, where that is known.
    """
    count = 0
    for source, target in progress(rows, str(path), unit="examples"):
        count += 1
        defect = stream.task.defect(source, target, stream.distribution)
        if defect is not None:
            print(f"{path}: line {count}: {defect}")
            return 1
    if expected not in (None, count):
        print(f"{path}: {count} examples, {MANIFEST} says {expected}")
        return 1
    print(f"{path}: {count} examples of {stream.task.name}, all right")
    return 0
