"""Variants are data: a name, options of fairseq-train, and what the paper printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metro_t0.errors import UserError, unknown
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
    """Those of the given names, by default all that the paper's table has. Raises `UserError` with nearest names."""
    if not names:
        return [variant for variant in variants.values() if variant.paper]
    for name in names:
        if name not in variants:
            raise unknown("variant", name, variants)
    return [variants[name] for name in dict.fromkeys(names)]


def _read(path: Path) -> dict[str, Variant]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: give NAME: {{title: TEXT, options: {{task: ...}}}}")
    return {name: _variant(path, name, entry) for name, entry in content.items()}


def _variant(path: Path, name: str, entry: Any) -> Variant:
    optional = {"paper", "pretraining", "budget"}
    if not isinstance(entry, dict) or not {"title", "options"} <= entry.keys() <= {"title", "options"} | optional:
        raise UserError(
            f"{path}: variant {name} needs title and options, and may have paper (three numbers), pretraining (false: "
            "none) and budget (a multiple of the plan's updates)"
        )
    if "task" not in (entry["options"] or {}):
        raise UserError(f"{path}: variant {name}: options need a task (metro_pretraining or t5_pretraining)")
    paper = tuple(entry["paper"]) if "paper" in entry else None
    if paper is not None and len(paper) != len(MIXTURES):
        raise UserError(f"{path}: variant {name}: paper has {len(paper)} numbers; give one for each of {MIXTURES}")
    pretraining, budget = entry.get("pretraining", True), entry.get("budget", 1.0)
    if not isinstance(pretraining, bool):
        raise UserError(f"{path}: variant {name}: pretraining is {pretraining!r}; give true or false")
    if not isinstance(budget, int | float) or isinstance(budget, bool) or not 0 < budget < 1000:
        raise UserError(f"{path}: variant {name}: budget is {budget!r}; give a factor such as 1.5")
    return Variant(name, entry["title"], dict(entry["options"]), paper, pretraining, float(budget))
