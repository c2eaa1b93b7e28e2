"""Collections of passages: files, and data sets in the forms that MS MARCO and BEIR have on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from metro_t0.data import hub
from metro_t0.errors import UserError
from metro_t0.files import read_json
from metro_t0.shapes import expect, field, json_value
from metro_t0.text_files import read_lines

ID_COLUMNS = ("_id", "id", "docid", "passage_id")
TEXT_COLUMNS = ("text", "passage")
TITLE_COLUMN = "title"


@dataclass(frozen=True)
class Passage:
    """One passage of a collection."""

    id: str
    text: str


class Collection(Protocol):
    """Passages in a fixed order."""

    @property
    def name(self) -> str: ...

    def settings(self) -> dict[str, Any]:
        """What an index of this collection belongs to."""

    def __iter__(self) -> Iterator[Passage]: ...

    def at(self, positions: set[int]) -> dict[int, Passage]:
        """The passages at these positions, from 0."""


class FileCollection:
    """A file of passages: TSV (id, text; as MS MARCO's) or JSONL (`text`, optionally `id`), plain, .gz or .zst."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def settings(self) -> dict[str, Any]:
        """Name and size."""
        return {"collection": self.path.name, "collection_bytes": self.path.stat().st_size}

    def __iter__(self) -> Iterator[Passage]:
        """Stream it. Raises `UserError` naming the first line that is neither TSV nor JSONL."""
        is_json = ".jsonl" in self.path.suffixes
        for place, text in read_lines(self.path):
            if is_json:
                entry = expect(json_value(text, place), dict[str, Any], place)
                yield Passage(str(entry.get("id", place.rpartition(":")[2])), field(entry, "text", str, place))
            elif "\t" in text:
                yield Passage(*text.split("\t", 1))
            else:
                raise UserError(f"{place}: is not id, tab, text")

    def at(self, positions: set[int]) -> dict[int, Passage]:
        """In one pass over the file."""
        return {i: passage for i, passage in enumerate(self) if i in positions}


class HubCollection:
    """A data set with a passage in each row, downloaded once; its rows stay on disk.

    manifest: of an index of this collection, whose commit of the hub is read again.
    Raises `UserError` where the hub or the data set cannot be read.
    """

    def __init__(self, spec: str, manifest: Path) -> None:
        self.name = spec
        before = read_json(manifest, dict[str, Any]) if manifest.is_file() else {}
        known = before.get("hub") if before.get("collection") == spec else None
        self.data = hub.HubData(**known) if known else hub.find(spec)

    def settings(self) -> dict[str, Any]:
        """The data set and its commit."""
        return {"collection": self.name, "hub": vars(self.data)}

    @cached_property
    def rows(self) -> Any:
        """The `datasets.Dataset`, memory-mapped."""
        with hub.failures_named(self.name):
            return self.data.load()

    def _passage(self, row: dict[str, Any], position: int) -> Passage:
        id = next((row[name] for name in ID_COLUMNS if name in row), position)
        text = next((row[name] for name in TEXT_COLUMNS if name in row), None)
        if not isinstance(text, str):
            raise UserError(
                f"{self.name}: row {position} has no text in {' or '.join(TEXT_COLUMNS)}, of {', '.join(row)}"
            )
        return Passage(str(id), f"{row.get(TITLE_COLUMN) or ''} {text}".strip())

    def __iter__(self) -> Iterator[Passage]:
        """In the order of the rows, the title before the text as BEIR has it."""
        for position, row in enumerate(self.rows):
            yield self._passage(row, position)

    def at(self, positions: set[int]) -> dict[int, Passage]:
        """Read directly."""
        return {position: self._passage(self.rows[position], position) for position in sorted(positions)}


def collection_of(name: str, manifest: Path) -> Collection:
    """The collection of a file name or `hf:NAME[/CONFIG][:SPLIT]`. Raises `UserError` where there is none."""
    if name.startswith(hub.PREFIX):
        return HubCollection(name, manifest)
    if not Path(name).is_file():
        raise UserError(f"{name}: no such file (--collection)")
    return FileCollection(Path(name))
