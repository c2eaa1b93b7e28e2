"""Rows and a prompt template to multiple-choice examples in text; what cannot be scored is counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.tasks import ROW_FORMATS, EvalTask
from metro_t0.errors import UserError
from metro_t0.prompts.templates import HiddenLabelError, MissingColumnError, RenderError, Template

NO_TARGET = "template gives no target for the row"
HIDDEN_LABEL = "label of the row is hidden"
TARGET_NOT_A_CHOICE = "target is not among the answer choices"
RENDER_FAILED = "template fails on the row"

Passages = Callable[[Mapping[str, Any]], Sequence[str]]


@dataclass(frozen=True)
class Example:
    """One prompted multiple-choice question."""

    index: int
    """Position of the row in its task (after `EvalTask.where`), the same for all templates."""
    source: str
    choices: list[str]
    gold: int
    """Position of the correct choice."""


@dataclass
class Examples:
    """All examples that one process scores."""

    examples: list[Example] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """Rows that have no place in the score, by reason."""


def build_examples(
    task: EvalTask,
    template: Template,
    rows: Sequence[Mapping[str, Any]],
    indices: Sequence[int],
    seed: int,
    edit_source: Callable[[Mapping[str, Any], str], str] | None = None,
) -> Examples:
    """Render the rows at `indices`.

    edit_source: makes the final prompt of (row, rendered prompt), for instance adds passages.
    Raises `UserError` for a template without answer choices, or when a column is missing from the rows.
    """
    if not template.has_choices:
        raise UserError(
            f"{template.title} has no answer choices, so there is nothing to rank; choose one of "
            "`metro-t0-eval templates DATASET`"
        )
    convert = ROW_FORMATS[task.row_format] if task.row_format else dict
    built = Examples()
    for index in indices:
        row = rows[index]
        try:
            rendered = template.render(convert(row), (seed, str(task.dataset), template.name, index))
        except MissingColumnError:
            raise
        except KeyError as error:
            raise UserError(f"{task.dataset} {task.split}: no column {error}, which {task.row_format} needs") from None
        except HiddenLabelError:
            built.skipped[HIDDEN_LABEL] += 1
            continue
        except RenderError:
            built.skipped[RENDER_FAILED] += 1
            continue
        if rendered is None:
            built.skipped[NO_TARGET] += 1
            continue
        gold = position_of(rendered.target, rendered.choices or [])
        if gold is None:
            built.skipped[TARGET_NOT_A_CHOICE] += 1
            continue
        source = edit_source(row, rendered.source) if edit_source else rendered.source
        built.examples.append(Example(index, source, rendered.choices or [], gold))
    return built


def position_of(target: str, choices: Sequence[str]) -> int | None:
    """Where the target is among the choices; white space at the ends does not count. None: nowhere."""
    stripped = [choice.strip() for choice in choices]
    return stripped.index(target.strip()) if target.strip() in stripped else None
