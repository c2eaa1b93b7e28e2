"""Variants are data: a name, options of fairseq-train, and what the paper printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from metro_t0.errors import UserError, nearest, unknown
from metro_t0.files import read_yaml

BUILT_IN = Path(__file__).parent / "variants.yaml"
MIXTURES = ("T0", "T0+", "T0++")


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    title: str
    options: dict[str, Any]
    """Option of fairseq-train, without the dashes -> value; `true` for a flag."""
    paper: tuple[float, ...] | None = None
    """Printed averages after finetuning on T0, T0+, T0++."""
    pretraining: bool = True
    """False: fine-tuned from random weights, which shows what pretraining is worth."""
    budget: float = 1.0
    """Pretraining updates as a multiple of the plan's: a cheaper objective gets more for equal time."""

    def as_json(self) -> dict[str, Any]:
        """What the results depend on: all but how the table shows them."""
        return {"options": self.options, "pretraining": self.pretraining, "budget": self.budget}

    @property
    def arguments(self) -> list[str]:
        """The options as command-line arguments."""
        made: list[str] = []
        for name, value in self.options.items():
            made += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return made


def load_variants(path: Path | None = None) -> dict[str, Variant]:
    """The built-in variants and those of a file. Raises `UserError` for an entry that is none."""
    found = _read(BUILT_IN)
    return found | _read(path) if path else found


def choose(variants: dict[str, Variant], names: Sequence[str]) -> list[Variant]:
    """Those of the given names, by default all that the paper's table has.

    Raises `UserError` with nearest names, and for two of one title, which names them in table and figures.
    """
    for name in names:
        if name not in variants:
            raise unknown("variant", name, variants)
    chosen = [variants[name] for name in dict.fromkeys(names)] or [v for v in variants.values() if v.paper]
    by_title: dict[str, str] = {}
    for variant in chosen:
        if (other := by_title.setdefault(variant.title, variant.name)) != variant.name:
            raise UserError(f"variants {other} and {variant.name} both have the title {variant.title!r}; change one")
    return chosen


class Entry(TypedDict):
    """A variant of the file."""

    title: str
    options: dict[str, Any]
    paper: NotRequired[list[float]]
    """Three numbers."""
    pretraining: NotRequired[bool]
    """False: none."""
    budget: NotRequired[float]
    """A multiple of the plan's updates."""


def _read(path: Path) -> dict[str, Variant]:
    entries: dict[str, Entry] = read_yaml(path, dict[str, Entry])
    return {name: _variant(f"{path}: variant {name}", name, entry) for name, entry in entries.items()}


def _variant(place: str, name: str, entry: Entry) -> Variant:
    for key in entry.keys() - Entry.__annotations__.keys():
        raise UserError(f"{place}: unknown field {key}{nearest(key, Entry.__annotations__)}")
    if name in (".", "..") or "/" in name:
        raise UserError(f"{place}: is a directory's name below --output, too; write it without slashes")
    if "task" not in entry["options"]:
        raise UserError(f"{place}: options need a task (metro_pretraining or t5_pretraining)")
    paper = tuple(entry["paper"]) if "paper" in entry else None
    if paper is not None and len(paper) != len(MIXTURES):
        raise UserError(f"{place}: paper has {len(paper)} numbers; give one for each of {', '.join(MIXTURES)}")
    budget = entry.get("budget", 1.0)
    if not 0 < budget < 1000:
        raise UserError(f"{place}: budget is {budget}; give a factor such as 1.5")
    return Variant(name, entry["title"], entry["options"], paper, entry.get("pretraining", True), float(budget))
