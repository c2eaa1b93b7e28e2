"""Arrow columns of several JSON types, which Hugging Face's `datasets` keeps as JSON text (its feature `Json`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from metro_t0.text_files import parse_json

Reader = Callable[[Any], Any]


def json_reader(kind: pa.DataType) -> Reader | None:
    """From what `to_pylist` gives of a column of this type to its values; None where no part of it is JSON text."""
    if isinstance(kind, pa.JsonType):
        return lambda text: None if text is None else parse_json(text)
    if pa.types.is_struct(kind):
        readers = {field.name: reader for field in kind if (reader := json_reader(field.type))}
        return _of_record(readers) if readers else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        reader = json_reader(kind.value_type)
        return _of_list(reader) if reader else None
    return None


def _of_record(readers: dict[str, Reader]) -> Reader:
    def read(record: dict[str, Any] | None) -> dict[str, Any] | None:
        return record and {**record, **{name: reader(record[name]) for name, reader in readers.items()}}

    return read


def _of_list(reader: Reader) -> Reader:
    return lambda values: values and list(map(reader, values))
