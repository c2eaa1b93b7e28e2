"""Units of work decoded into documents: lists of paragraphs, with what was wrong counted.

One rule for all formats: a line end (LF or CRLF) ends a paragraph, and nothing else does. Other characters that some
programs take for line ends (VT, FF, FS, U+0085, U+2028, ...) are white space within it. Between documents stands an
empty line in .txt; the other formats have a document per row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from metro_t0.data.sources import Unit
from metro_t0.text_files import NUL, parse_json

MAX_EXAMPLES = 3
NOT_UTF8 = "not UTF-8"
HAS_NUL = "NUL bytes"
NOT_JSON = "not JSON"
NO_FIELD = "field missing or not a string"
NO_TEXT = "rows without text"
NUL_ESCAPE = rb"\u0000"


@dataclass
class BadLines:
    """How many lines were skipped, by reason, and where the first ones are."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, reason: str, unit: Unit, offset: int) -> None:
        """Count line `offset` (from 0) of a unit."""
        self.counts[reason] += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{unit.origin}:{unit.first_line + offset}: {reason}")

    def merge(self, counts: dict[str, int], examples: list[str]) -> None:
        """Add the counts of another unit."""
        self.counts.update(counts)
        self.examples = (self.examples + examples)[:MAX_EXAMPLES]


def documents(unit: Unit, bad: BadLines) -> Iterator[list[str]]:
    """The documents of a unit, each a list of its non-empty lines. Lines that cannot be read are counted in `bad`."""
    if unit.kind == "text":
        yield from _text_documents(unit, bad)
        return
    for text in _jsonl_texts(unit, bad) if unit.kind == "jsonl" else _row_texts(unit, bad):
        if lines := [line for line in text.split("\n") if line and not line.isspace()]:
            yield lines


def _text_documents(unit: Unit, bad: BadLines) -> Iterator[list[str]]:
    lines = list(_decoded_lines(unit, bad))
    blank = [number for number, line in enumerate(lines) if not line or line.isspace()]
    for start, end in pairwise([-1, *blank, len(lines)]):
        if end - start > 1:
            yield lines[start + 1 : end]


def _decoded_lines(unit: Unit, bad: BadLines) -> Iterator[str]:
    """Lines as text; a line that is not text is counted and left out, it does not end a document."""
    assert isinstance(unit.content, bytes)
    try:
        text = unit.content.decode("utf-8")
    except UnicodeDecodeError:
        text = NUL
    if NUL not in text:
        yield from text.split("\n")
        return
    for offset, line in enumerate(unit.content.split(b"\n")):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            bad.add(NOT_UTF8, unit, offset)
            continue
        if NUL in text:
            bad.add(HAS_NUL, unit, offset)
        else:
            yield text


def _jsonl_texts(unit: Unit, bad: BadLines) -> Iterator[str]:
    assert isinstance(unit.content, bytes)
    for offset, line in enumerate(unit.content.split(b"\n")):
        if not line.strip():
            continue
        try:
            row: Any = parse_json(line.decode("utf-8"))
        except UnicodeDecodeError:
            bad.add(NOT_UTF8, unit, offset)
            continue
        except ValueError:
            bad.add(HAS_NUL if NUL_ESCAPE in line or NUL.encode() in line else NOT_JSON, unit, offset)
            continue
        text = row.get(unit.field) if isinstance(row, dict) else None
        if isinstance(text, str):
            yield text
        else:
            bad.add(NO_FIELD, unit, offset)


def _row_texts(unit: Unit, bad: BadLines) -> Iterator[str]:
    for offset, text in enumerate(unit.content):
        assert isinstance(text, str)
        if NUL in text:
            bad.add(HAS_NUL, unit, offset)
        elif text:
            yield text
        else:
            bad.add(NO_TEXT, unit, offset)
