"""Where text comes from: files of several formats, streamed data sets, the embedded corpus; cut into units of work.

A unit is a few megabytes of whole documents. Reading is sequential and cheap; decoding, parsing and tokenizing a unit
is the work of one process. The units of an input are the same in every run, which makes runs resumable.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from metro_t0.data import hub, python_docs
from metro_t0.data.hub import HubData
from metro_t0.errors import UserError, first_line
from metro_t0.files import read_json, write_json
from metro_t0.text_files import COMPRESSIONS, open_bytes, open_text

UNIT_BYTES = 4 << 20
PIECES = f"pieces of {UNIT_BYTES >> 20} MB"
"""What progress counts."""
# A document longer than this is cut at a line end and counts as several; a longer line is cut at a space.
MAX_DOCUMENT_BYTES = 32 << 20
MAX_ROW_BYTES = 1 << 30  # half a line of JSON is none
FORMATS = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
BUILTIN_PREFIX = "builtin:"
LOCAL_INPUTS = "local_inputs"
"""Under which records keep `local_states`."""

UnitKind = Literal["text", "jsonl", "rows"]


@dataclass(frozen=True)
class Unit:
    """Some whole documents of one input, not yet decoded.

    kind: "text" (paragraph lines, an empty line between documents), "jsonl" (a document per line) or "rows" (a
    document per string). first_line counts from 1 within the input; rows count as lines.
    """

    kind: UnitKind
    content: bytes | list[str]
    origin: str
    first_line: int
    field: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of text, for progress and speed."""
        return len(self.content) if isinstance(self.content, bytes) else sum(map(len, self.content))


@dataclass(frozen=True)
class Section:
    """What can be read without the rest of its input: a file of a data set on the hub, any other input as a whole.

    rows: the `datasets.IterableDataset` of the file; None for the others.
    """

    spec: str
    field: str
    origin: str
    rows: Any = None

    def units(self) -> Iterator[Unit]:
        """The units of this section, in order. Raises `UserError` where it cannot be read."""
        if self.rows is not None:
            yield from _row_units(hub.column(self.rows, self.spec, self.field), self.origin)
        elif self.spec.startswith(BUILTIN_PREFIX):
            yield from _units_of_documents(python_docs.documents(self.spec), self.origin)
        else:
            yield from _file_units(self.spec, self.field)


@dataclass(frozen=True)
class Input:
    """One file, streamed data set or embedded corpus. found: of a data set on the hub, where it is known already."""

    spec: str
    field: str
    found: HubData | None = None

    @property
    def is_on_hub(self) -> bool:
        """Whether it is a data set, of the hub or in its form."""
        return self.spec.startswith(hub.PREFIX)

    def identity(self) -> list[Any]:
        """What tells whether an input changed between runs."""
        if self.spec.startswith((hub.PREFIX, BUILTIN_PREFIX)):
            return [self.spec, self.field]
        status = os.stat(self.spec)
        return [os.path.abspath(self.spec), self.field, status.st_size, status.st_mtime_ns]

    def sections(self) -> list[Section]:
        """The sections of this input, in order. Raises `UserError` where it cannot be read."""
        if not self.is_on_hub:
            return [Section(self.spec, self.field, self.spec)]
        files = hub.files(self.spec, self.found or hub.find(self.spec))
        return [
            Section(self.spec, self.field, self.spec if len(files) == 1 else f"{self.spec} file {number}", rows)
            for number, rows in enumerate(files, start=1)
        ]

    def units(self) -> Iterator[Unit]:
        """The units of all sections. Raises `UserError` where it cannot be read."""
        for section in self.sections():
            yield from section.units()


def resolve_inputs(specs: Iterable[str], field: str) -> list[Input]:
    """Check inputs and expand globs (sorted). Raises `UserError` for a missing file or an unknown format."""
    inputs: list[Input] = []
    for spec in specs:
        if spec.startswith(BUILTIN_PREFIX):
            python_docs.check_spec(spec)
            inputs.append(Input(spec, field))
        elif spec.startswith(hub.PREFIX):
            inputs.append(Input(spec, field))
        else:
            inputs += [Input(path, field) for path in _expand(spec)]
    if not inputs:
        raise UserError("no input given; name files, hf:NAME or builtin:python-docs")
    return inputs


def local_states(inputs: Iterable[Input]) -> dict[str, str]:
    """States of data sets that are local directories, by spec. A finished result is of one state.

    An interrupted run goes on with another, so that a damaged file can be replaced.
    """
    states = {each.spec: hub.local_state(each.spec) for each in inputs if each.is_on_hub}
    return {spec: state for spec, state in states.items() if state}


def pinned(inputs: Iterable[Input], path: Path) -> dict[str, HubData]:
    """The commits of the hub by spec that all runs of these inputs read: found by the first, which writes `path`."""
    specs = [each.spec for each in inputs if each.is_on_hub]
    if not specs:
        return {}
    if not path.is_file():
        write_json(path, {spec: vars(hub.find(spec)) for spec in specs})
    return {spec: HubData(**found) for spec, found in read_json(path, dict[str, dict[str, Any]]).items()}


def _expand(spec: str) -> list[str]:
    paths = [spec] if os.path.exists(spec) else sorted(glob.glob(spec, recursive=True))
    if not paths:
        raise UserError(f"{spec}: no such file")
    for path in paths:
        if not os.path.isfile(path):
            raise UserError(f"{path}: not a file; name the files in it, for example '{path}/*.txt'")
        _file_format(path)
        if not os.path.getsize(path):
            raise UserError(f"{path}: empty file")
    return paths


def _file_format(path: str) -> str:
    name = Path(path)
    while name.suffix in COMPRESSIONS:
        name = name.with_suffix("")
    if name.suffix not in FORMATS:
        raise UserError(
            f"{path}: unknown format {name.suffix or 'without suffix'!r}; known are {', '.join(FORMATS)}, "
            f"each plain or {' or '.join(COMPRESSIONS)}"
        )
    return FORMATS[name.suffix]


def _file_units(path: str, field: str) -> Iterator[Unit]:
    kind = _file_format(path)
    if kind == "parquet":
        yield from _row_units(_parquet_rows(path, field), path)
        return
    with open_text(path) as stream:
        line = 1
        for content in _blocks(stream, path, is_text=kind == "text"):
            yield Unit("text" if kind == "text" else "jsonl", content, path, line, field)
            line += content.count(b"\n")


def _blocks(stream: BinaryIO, path: str, is_text: bool) -> Iterator[bytes]:
    """Cut a stream into blocks of about UNIT_BYTES: text between documents, JSON lines between lines."""
    rest = b""
    longest = MAX_DOCUMENT_BYTES if is_text else MAX_ROW_BYTES
    while block := stream.read(UNIT_BYTES):
        rest += block
        cut = max(rest.rfind(b"\n\n"), rest.rfind(b"\n\r\n")) if is_text else rest.rfind(b"\n")
        if cut < 0 and len(rest) >= longest:
            cut = (max(rest.rfind(b"\n"), 0) or rest.rfind(b" ")) if is_text else -1
            if cut < 0:
                raise UserError(f"{path}: over {longest >> 20} MB without a line end; is it text?")
        if cut >= 0:
            yield rest[: cut + 1]
            rest = rest[cut + 1 :]
    if rest:
        yield rest


def _row_units(rows: Iterable[Any], origin: str) -> Iterator[Unit]:
    """Collect strings (or, for rows without text, empty strings) into units."""
    batch: list[str] = []
    size, line = 0, 1
    for row in rows:
        batch.append(row if isinstance(row, str) else "")
        size += len(batch[-1])
        if size >= UNIT_BYTES:
            yield Unit("rows", batch, origin, line)
            line += len(batch)
            batch, size = [], 0
    if batch:
        yield Unit("rows", batch, origin, line)


def _units_of_documents(documents: Iterable[list[str]], origin: str) -> Iterator[Unit]:
    return _row_units(("\n".join(lines) for lines in documents), origin)


def _parquet_rows(path: str, field: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    from metro_t0.data.json_columns import json_reader

    with tempfile.TemporaryDirectory() as directory:
        plain = path
        if path.endswith(COMPRESSIONS):  # parquet is read from its end, a compressed stream is not
            plain = os.path.join(directory, "plain.parquet")
            with open_bytes(path) as packed, open(plain, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, UNIT_BYTES)
        try:
            table = parquet.ParquetFile(plain)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a parquet file ({first_line(error)})") from None
        if field not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names)
            raise UserError(f"{path}: no column {field!r}; --field is one of {names}")
        try:
            for batch in table.iter_batches(batch_size=256, columns=[field]):
                values, read = batch.column(0).to_pylist(), json_reader(batch.schema.field(0).type)
                yield from map(read, values) if read else values
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: damaged ({first_line(error)}); fetch the file again") from None
