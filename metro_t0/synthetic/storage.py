"""Examples as files: one per task and split, in fairseq's format, as TSV or as parquet; read back for checking."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from metro_t0.claims import check_owner, lock
from metro_t0.data.mixture_files import MIXTURE_FILE, side_prefixes
from metro_t0.errors import UserError
from metro_t0.files import atomic_path, read_json, write_json, write_text
from metro_t0.progress import progress
from metro_t0.synthetic.law import Law
from metro_t0.synthetic.ragged import Examples
from metro_t0.synthetic.settings import BLOCK, Format, Order, Profile, StreamSettings
from metro_t0.synthetic.stream import Mixture, Split, TaskStream
from metro_t0.synthetic.tasks import get_task, task_law
from metro_t0.synthetic.vocabulary import Vocabulary, load_vocabulary

MANIFEST = "manifest.json"
LINE = re.compile(r"^\[(\d+(?:, \d+)*)?\]\t\[(\d+(?:, \d+)*)?\]$")
Row = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Files:
    """A directory of generated files: DIRECTORY/SPLIT/TASK.<suffix> beside manifest.json.

    fairseq files close every source and target with the end-of-sequence token; the others do not (the layout of the
    authors' data).
    """

    directory: Path
    format: Format

    def path(self, split: Split, task: str) -> Path:
        suffix = {"fairseq": "", "tsv": ".tsv", "parquet": ".parquet"}[self.format]
        return self.directory / split / f"{task}{suffix}"


def generate(
    files: Files, settings: StreamSettings, vocabulary: Vocabulary, train: int, valid: int, deduplicate: bool
) -> dict[str, int]:
    """Write every task of the settings; gives duplicates left out per task. Files appear whole or not at all.

    deduplicate: of examples with one source the first is kept, and drawing goes on until there are enough.
    """
    mixture = settings.mixture(vocabulary)
    manifest = {**mixture.describe(), "format": files.format, "train_examples": train, "valid_examples": valid}
    manifest |= {"deduplicate": deduplicate, "vocabulary_name": settings_name(vocabulary)}
    with lock(files.directory):
        if (files.directory / MANIFEST).is_file():
            check_owner(files.directory, read_json(files.directory / MANIFEST), manifest)
        return _generate(files, mixture, vocabulary, manifest)


def _generate(files: Files, mixture: Mixture, vocabulary: Vocabulary, manifest: dict[str, Any]) -> dict[str, int]:
    write_text(files.directory / "dict.txt", dict_text(vocabulary))
    dropped: dict[str, int] = {}
    for stream in mixture.streams:
        splits: tuple[Split, ...] = ("train", "valid")
        for split in splits:
            selected = _Selected(stream, split, manifest[f"{split}_examples"], manifest["deduplicate"])
            write_examples(files, split, stream, progress(selected, f"{stream.task.name} {split}", unit="examples"))
            dropped[stream.task.name] = dropped.get(stream.task.name, 0) + selected.dropped
    write_json(files.directory / MANIFEST, manifest)
    if files.format == "fairseq":
        _write_mixture(files.directory, [stream.task.name for stream in mixture.streams], manifest["train_examples"])
    return dropped


def _write_mixture(directory: Path, names: list[str], examples: int) -> None:
    """The description that the fairseq task `prompt_finetuning` reads."""
    tasks = [
        {"name": name, "dataset": "synthetic", "subset": name, "template": name, "examples": examples, "cap": examples}
        for name in names
    ]
    write_json(directory / MIXTURE_FILE, {"tasks": tasks})


def settings_name(vocabulary: Vocabulary) -> str:
    return vocabulary.fingerprint


def dict_text(vocabulary: Vocabulary) -> str:
    """A dict.txt of placeholder pieces: line k is id 4 + k, as fairseq counts (T5: line k is id 3 + k)."""
    first = 4 if vocabulary.pad == 1 else 3
    return "".join(f"<id{token}> 1\n" for token in range(first, vocabulary.size))


class _Selected:
    """The blocks of a stream up to `count` examples; counts what was left out as duplicate."""

    def __init__(self, stream: TaskStream, split: Split, count: int, deduplicate: bool) -> None:
        self.stream, self.split, self.count, self.deduplicate = stream, split, count, deduplicate
        self.dropped = 0

    def __len__(self) -> int:
        return -(-self.count // BLOCK)

    def __iter__(self) -> Iterator[Examples]:
        left, number = self.count, 0
        seen: set[bytes] = set()
        while left:
            block = self.stream.block(self.split, number)
            number += 1
            if self.deduplicate:
                new = np.zeros(len(block), dtype=bool)
                for row, source in enumerate(block.sources):
                    key = source.tobytes()
                    new[row] = key not in seen
                    seen.add(key)
                self.dropped += int((~new).sum())
                block = block.take(new)
            block = block.take(np.arange(min(left, len(block))))
            left -= len(block)
            yield block


def write_examples(files: Files, split: Split, stream: TaskStream, blocks: Iterator[Examples]) -> None:
    path = files.path(split, stream.task.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = {"fairseq": _write_fairseq, "tsv": _write_tsv, "parquet": _write_parquet}[files.format]
    writer(path, blocks, stream.law.vocabulary.eos)


def _write_fairseq(path: Path, blocks: Iterator[Examples], end: int) -> None:
    from metro_t0.data.token_files import TokenFileWriter

    source_prefix, target_prefix = side_prefixes(path)
    with TokenFileWriter(source_prefix) as source, TokenFileWriter(target_prefix) as target:
        for block in blocks:
            for writer, rows in ((source, block.sources), (target, block.targets)):
                compact = rows.compact()
                closed = np.insert(compact.values, np.cumsum(compact.lengths), np.uint16(end))
                writer.add_items(closed, compact.lengths + 1)


def _write_tsv(path: Path, blocks: Iterator[Examples], end: int) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for block in blocks:
            rows = zip(block.sources, block.targets, strict=True)
            stream.writelines(f"{source.tolist()}\t{target.tolist()}\n" for source, target in rows)


def _write_parquet(path: Path, blocks: Iterator[Examples], end: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.list_(pa.uint16())
    schema = pa.schema({"source": kind, "target": kind})
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for block in blocks:
            columns = []
            for rows in (block.sources.compact(), block.targets.compact()):
                offsets = np.append(rows.starts, rows.token_count).astype(np.int32)
                columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.values)).cast(kind))
            writer.write_table(pa.table(columns, schema=schema))


def read_rows(files: Files, split: Split, task: str, end: int) -> Iterator[Row]:
    """(source, target) of every example of a file, in order.

    Raises `UserError` with the line where a file does not hold what its format says.
    """
    path = files.path(split, task)
    if files.format == "tsv":
        yield from read_tsv(path)
    elif files.format == "parquet":
        yield from _read_parquet(path)
    else:
        yield from _read_fairseq(path, end)


def read_tsv(path: Path) -> Iterator[Row]:
    """Lines `[i1, i2, ...]<TAB>[o1, o2, ...]`, the layout of the authors' data."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with open(path, encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            if not LINE.match(line.rstrip("\n")):
                raise UserError(f"{path}: line {number} is not two lists of ids with a tab between them")
            source, target = line.split("\t")
            yield json.loads(source), json.loads(target)


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            columns = (batch.column("source").to_pylist(), batch.column("target").to_pylist())
            yield from zip(*columns, strict=True)
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise UserError(f"{path}: not a parquet file of sources and targets ({str(error).splitlines()[0]})") from None


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


@dataclass(frozen=True)
class Opened:
    """A generated directory with what is needed to recompute its targets."""

    files: Files
    laws: dict[str, Law]
    order: Order

    @property
    def splits(self) -> list[Split]:
        found: list[Split] = ["train", "valid"]
        return [split for split in found if (self.files.directory / split).is_dir()]


class Manifest(TypedDict):
    """What a manifest.json is read for."""

    format: Format
    vocabulary_name: str
    vocabulary: dict[str, Any]
    profile: Profile
    order: Order
    length_min: int
    length_max: int
    prefixes: dict[str, list[int]]
    tasks: dict[str, float]


def open_directory(directory: Path, vocabulary_name: str | None) -> Opened:
    """Read the manifest. Raises `UserError` where it is missing, or was made with another vocabulary.

    vocabulary_name: where the vocabulary lies, if the manifest's own name for it (t5, compact:N) does not say.
    """
    manifest = read_json(directory / MANIFEST, Manifest)
    name, _, limit = manifest["vocabulary_name"].partition("/")
    if vocabulary_name is None and name.startswith("dictionary:"):
        raise UserError(f"{directory}: made with a tokenizer's vocabulary; name its directory with --vocabulary")
    vocabulary = load_vocabulary(vocabulary_name or name, manifest["tasks"], int(limit) if limit else None)
    if vocabulary.describe != manifest["vocabulary"]:
        raise UserError(f"{directory}: was generated with vocabulary {name}, not with {vocabulary.fingerprint}")
    laws = {
        name: task_law(
            get_task(name),
            vocabulary,
            manifest["profile"],
            manifest["length_min"],
            manifest["length_max"],
            bool(manifest["prefixes"][name]),
        )
        for name in manifest["tasks"]
    }
    return Opened(Files(directory, manifest["format"]), laws, manifest["order"])
