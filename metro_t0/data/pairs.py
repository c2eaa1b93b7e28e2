"""Pairs of source and target text, as fine-tuning and generation read them: JSONL or TSV, plain, .gz or .zst."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from metro_t0.errors import UserError
from metro_t0.text_files import COMPRESSIONS, parse_json, read_lines

FORMATS = (".jsonl", ".tsv")
SUFFIXES = tuple(f"{kind}{packing}" for kind in FORMATS for packing in ("", *COMPRESSIONS))


@dataclass(frozen=True)
class Pair:
    """One source and its admissible targets, of which training takes the first."""

    source: str
    references: tuple[str, ...]


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """The pairs of a file: lines `SOURCE<tab>TARGET`, or {"source": text, "target": text} ("references": a list).

    Every line counts: raises `UserError` with the place of the first that is no pair of texts that are not empty.
    """
    parse = _tsv_pair if ".tsv" in Path(path).suffixes else _json_pair
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
    try:
        row = parse_json(line)
        references = row["references"] if "references" in row else [row["target"]]
        return _checked(row["source"], references, place)
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{place}: not {{"source": text, "target": text}} (or "references": a list)') from None


def _checked(source: object, references: object, place: str) -> Pair:
    texts = [source, *references] if isinstance(references, list) else []
    if len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{place}: source and target must be texts that are not empty")
    return Pair(str(source), tuple(map(str, texts[1:])))
