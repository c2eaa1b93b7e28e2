"""Pairs of source and target text, as fine-tuning and generation read them: JSONL or TSV, plain, .gz or .zst."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metro_t0.errors import UserError
from metro_t0.shapes import expect, field, json_value
from metro_t0.text_files import COMPRESSIONS, read_lines

FORMATS = (".jsonl", ".tsv")
SUFFIXES = tuple(f"{kind}{packing}" for kind in FORMATS for packing in ("", *COMPRESSIONS))


@dataclass(frozen=True)
class Pair:
    """One source and its admissible targets, of which training takes the first."""

    source: str
    references: tuple[str, ...]


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """The pairs of a file: lines `SOURCE<tab>TARGET`, or {"source": text, "target": text} ("references": a list).

    Where a line has both, the target is the first reference. Every line counts: raises `UserError` with the place of
    the first that is no pair of texts that are not empty.
    """
    kinds = [suffix for suffix in Path(path).suffixes if suffix in FORMATS]
    parse = _tsv_pair if kinds[-1:] == [".tsv"] else _json_pair
    pairs = [parse(text, place) for place, text in read_lines(path)]
    if not pairs:
        raise UserError(f"{os.fspath(path)}: no examples")
    return pairs


def _tsv_pair(line: str, place: str) -> Pair:
    parts = line.split("\t")
    if len(parts) != 2:
        raise UserError(f"{place}: has {len(parts) - 1} tabs; a source, one tab and a target are needed")
    return _checked(parts[0], [parts[1]], place)


def _json_pair(line: str, place: str) -> Pair:
    row = expect(json_value(line, place), dict[str, Any], place)
    references = field(row, "references", list[str], place, None) or []
    if row.get("target") is not None or not references:
        target = field(row, "target", str, place)
        references = references if references[:1] == [target] else [target, *references]
    return _checked(field(row, "source", str, place), references, place)


def _checked(source: str, references: list[str], place: str) -> Pair:
    if not all(text.strip() for text in (source, *references)):
        raise UserError(f"{place}: source and target must be texts that are not empty")
    return Pair(source, tuple(references))
