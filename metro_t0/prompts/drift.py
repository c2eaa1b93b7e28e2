"""Does a data set still look as the table says? Columns and classes by name, numbers of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from metro_t0.errors import UserError
from metro_t0.prompts.hub import ClassNames, HubPlace, HubSource
from metro_t0.prompts.rendering import HIDDEN


class DriftError(UserError):
    """A data set that differs from what the table of sources says of it."""


@dataclass(frozen=True)
class Conversion:
    """How the columns of a source become the historical ones."""

    columns: tuple[tuple[str, str], ...] = ()
    """(historical name, name there), for those that differ."""
    classes: tuple[tuple[str, tuple[tuple[int | str | bool, int], ...]], ...] = ()
    """(historical name of a column, pairs of (value there, historical number)), for those that differ."""

    def apply(self, table: pa.Table) -> pa.Table:
        """An Arrow table with the historical names and numbers."""
        old_to_new = {old: new for new, old in self.columns}
        table = table.rename_columns([old_to_new.get(name, name) for name in table.column_names])
        for column, pairs in self.classes:
            place = table.column_names.index(column)
            values = table.column(place)
            there = pa.array([value for value, _ in pairs], type=values.type)
            numbers = pa.array([number for _, number in pairs], type=pa.int64())
            table = table.set_column(place, column, pc.take(numbers, pc.index_in(values, value_set=there)))
        return table

    def unknown_values(self, table: pa.Table) -> list[str]:
        """What the classes of a table (before `apply`) hold beyond the pairs, as clauses."""
        old_of = dict(self.columns)
        found = []
        for column, pairs in self.classes:
            known = {value for value, _ in pairs}
            there = pc.unique(table.column(old_of.get(column, column))).to_pylist()
            unknown = [value for value in there if value is not None and value not in known]
            if unknown:
                found.append(f"column {column} holds {_some(unknown)}, which is no class of the table")
        return found


def conversion(source: HubSource, place: HubPlace, features: Mapping[str, Any]) -> Conversion:
    """How to read a place whose columns are `features` (of `datasets`). Raises `DriftError` with all that differs.

    Hyphens in column names become underscores, which Jinja can read.
    """
    columns = {name.replace("-", "_"): name for name in features if "-" in name}
    columns |= {new: old for new, old in place.columns.items() if old in features or new not in features}
    classes = []
    differences = []
    for name, expected in source.columns.items():
        there = columns.get(name, name)
        if there not in features:
            differences.append(f"no column {there} (it has {', '.join(features)})")
        elif isinstance(expected, str):
            kind = kind_of(features[there])
            if kind != expected:
                differences.append(f"column {there} holds {kind}, not {expected}")
        else:
            pairs = _class_pairs(there, expected, features[there], differences)
            if any(value != number or isinstance(value, bool) for value, number in pairs):
                classes.append((name, (*pairs, (HIDDEN, HIDDEN)) if pairs[0][0].__class__ is int else pairs))
    if differences:
        raise DriftError("; ".join(differences))
    return Conversion(tuple(sorted(columns.items())), tuple(classes))


def local_conversion(source: HubSource, schema: pa.Schema) -> Conversion:
    """How to read a parquet file that was copied from the hub: its schema holds the names of its classes.

    Columns without names of classes are taken as they are. Raises `DriftError` where the classes are others.
    """
    if b"huggingface" not in (schema.metadata or {}):
        return Conversion()
    import datasets

    features = datasets.Features.from_arrow_schema(schema)
    for place in source.places:
        named = {
            name: expected
            for name, expected in source.columns.items()
            if isinstance(features.get(place.columns.get(name, name), features.get(name)), datasets.ClassLabel)
        }
        if named:
            return conversion(replace(source, columns=named), place, features)
    return Conversion()


def check_rows(source: HubSource, split: str, count: int) -> None:
    """Raises `DriftError` for another number of rows than the table's; a split that the table lacks is not checked."""
    right = source.rows.get(split)
    if right and count not in right:
        raise DriftError(f"split {split} has {count:,} rows, not {' or '.join(f'{number:,}' for number in right)}")


def kind_of(feature: Any) -> str:
    """text, number, flag, list, record (a mapping), records (a list of mappings) or classes."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return "number" if feature.names == [str(i) for i in range(feature.num_classes)] else "classes"
    if isinstance(feature, datasets.Value):
        if feature.dtype in ("string", "large_string", "string_view"):
            return "text"
        return "flag" if feature.dtype == "bool" else "number" if "int" in feature.dtype else feature.dtype
    if isinstance(feature, dict):
        return "record"
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return "records" if isinstance(inner, dict) else "list"


def _class_pairs(
    column: str, expected: ClassNames, feature: Any, differences: list[str]
) -> tuple[tuple[int | str | bool, int], ...]:
    """(value there, historical number) for every class; what is wrong goes to `differences`."""
    import datasets

    number_of = {name.casefold(): number for number, names in enumerate(expected) for name in names}
    kind = kind_of(feature)
    values: Sequence[int | str | bool]
    if isinstance(feature, datasets.ClassLabel):
        names, values = list(feature.names), range(len(feature.names))
    elif kind == "flag":
        names, values = ["False", "True"], [False, True]
    elif kind == "text":
        names = values = [name for names in expected for name in names]
    else:
        differences.append(f"column {column} holds {kind} without names of classes, so that their meaning is unknown")
        return ((0, 0),)
    unknown = [name for name in names if name.casefold() not in number_of]
    missing = [name for name in number_of if name not in {name.casefold() for name in names}]
    if unknown or missing:
        parts = [f"has {_some(unknown)} that the table lacks"] if unknown else []
        parts += [f"lacks {_some(missing)}"] if missing else []
        differences.append(f"column {column}: its classes differ ({', '.join(parts)})")
        return ((0, 0),)
    return tuple((value, number_of[name.casefold()]) for value, name in zip(values, names, strict=True))


def _some(items: Sequence[object], most: int = 5) -> str:
    shown = ", ".join(map(str, items[:most]))
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
