"""Sequences of rows over files, which keep bytes or Arrow columns in memory and make dicts on access."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metro_t0.data.json_columns import json_reader
from metro_t0.errors import UserError, first_line
from metro_t0.text_files import open_text, parse_json

Row = dict[str, Any]
ROWS_PER_BATCH = 1000


class JsonLines(Sequence[Row]):
    """The rows of a JSONL file: the decompressed text plus the place of each good line."""

    def __init__(self, content: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64], num_bad: int) -> None:
        self._content = content
        self._starts = starts
        self._ends = ends
        self.num_bad = num_bad
        """Lines that are no JSON objects; they are left out."""

    @classmethod
    def read(cls, path: Path) -> JsonLines:
        """Read and check a whole file. Raises `UserError` where no line is a JSON object."""
        with open_text(path) as stream:
            content = stream.read()
        spans = []
        num_bad = start = 0
        while start < len(content):
            end = content.find(b"\n", start)
            end = len(content) if end < 0 else end
            line = content[start:end].strip()
            if line:
                if _is_object(line):
                    spans.append((start, end))
                else:
                    num_bad += 1
            start = end + 1
        if not spans:
            raise UserError(f"{path}: no line is a JSON object ({num_bad} bad lines)")
        places = np.array(spans, dtype=np.int64)
        return cls(content, places[:, 0], places[:, 1], num_bad)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row: Row = parse_json(self._content[self._starts[index] : self._ends[index]])
        return row


class ParquetRows(Sequence[Row]):
    """The rows of an Arrow table, as plain Python values."""

    num_bad = 0

    def __init__(self, table: pa.Table, columns: Mapping[str, str] | None = None) -> None:
        """columns: new name -> name in the table, for columns to rename; the rest keep theirs."""
        old_to_new = {old: new for new, old in (columns or {}).items()}
        self._table = table.rename_columns([old_to_new.get(name, name) for name in table.column_names])
        self._readers = {field.name: reader for field in self._table.schema if (reader := json_reader(field.type))}

    @classmethod
    def read(cls, path: Path, convert: Callable[[pa.Table], pa.Table] = lambda table: table) -> ParquetRows:
        """Read a whole parquet file, as `convert` makes it. Raises `UserError` where it is not one."""
        try:
            return cls(convert(pq.read_table(path)))
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: not a parquet file ({first_line(error)})") from None

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Row]:
        for batch in self._table.to_batches(max_chunksize=ROWS_PER_BATCH):
            yield from self._rows(batch)

    def _rows(self, part: pa.Table | pa.RecordBatch) -> list[Row]:
        rows: list[Row] = part.to_pylist()
        for name, reader in self._readers.items():
            for row in rows:
                row[name] = reader(row[name])
        return rows

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        start, stop, step = (index, index + 1, 1) if isinstance(index, int) else index.indices(len(self))
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(index)
            start %= len(self)
            return self._rows(self._table.slice(start, 1))[0]
        if step == 1:
            return self._rows(self._table.slice(start, max(stop - start, 0)))
        return [self[i] for i in range(start, stop, step)]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:  # also bad UTF-8
        return False
