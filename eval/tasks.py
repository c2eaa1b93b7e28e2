"""What is evaluated: task sets read from YAML. T0 Eval and MMLU are two such files; users bring their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from eval.mmlu import as_arc
from eval.statements import statements_of_a_text
from metro_t0.errors import UserError, nearest
from metro_t0.files import read_yaml
from metro_t0.prompts.datasets import DatasetName
from metro_t0.shapes import expect

BUILT_IN = Path(__file__).parent / "task_sets"
TEMPLATES = BUILT_IN / "templates"
"""Template files of built-in sets that promptsource has none for."""
ROW_FORMATS = {"mmlu_as_arc": as_arc}
"""Conversions that let the rows of one data set fill the templates of another."""
ROW_GROUPS = {"statements_of_a_text": statements_of_a_text}
"""Conversions of consecutive rows into one."""


@dataclass(frozen=True)
class EvalTask:
    """One data set (or part of one) whose score is the mean over its prompt templates."""

    name: str
    """Name in tables; unique in its set."""
    dataset: DatasetName
    split: str
    templates: tuple[str, ...] | None = None
    """Template names; None: every template of the data set that lists answer choices."""
    templates_of: DatasetName | None = None
    """The data set whose templates are used, where it is another one."""
    where: Mapping[str, Any] | None = None
    """Only rows with these column values."""
    row_format: str | None = None
    """One of `ROW_FORMATS`, applied to every row."""
    group: str | None = None
    """One of `ROW_GROUPS`, applied to all rows before anything else counts them."""


@dataclass(frozen=True)
class TaskSet:
    """Tasks that are scored together; the average is the mean over them."""

    name: str
    tasks: tuple[EvalTask, ...]
    built_in: bool = False

    def selected(self, names: Sequence[str]) -> TaskSet:
        """Only the tasks of these names, or all. Raises `UserError` for a name that is not there."""
        if not names:
            return self
        known = [task.name for task in self.tasks]
        for name in names:
            if name not in known:
                hint = nearest(name, known)
                raise UserError(f"no task {name!r} in {self.name}{hint}")
        return TaskSet(self.name, tuple(t for t in self.tasks if t.name in names), self.built_in)


def built_in_tasks(name: str, split: str | None = None) -> TaskSet:
    """The task set of this package called `name` (t0, mmlu), on its own split or another one."""
    return load_tasks(BUILT_IN / f"{name}.yaml", split, built_in=True)


def task_set_of(name: str) -> TaskSet:
    """The task set of that name (t0, mmlu, embedded), or that of a YAML file."""
    known = sorted(path.stem for path in BUILT_IN.glob("*.yaml"))
    if name in known:
        return built_in_tasks(name)
    if not Path(name).exists():
        raise UserError(f"{name}: no such file{nearest(name, known)}")
    return load_tasks(Path(name))


class TaskEntry(TypedDict):
    """A task of a task file, the defaults filled in."""

    dataset: str
    split: str
    name: NotRequired[str]
    templates: NotRequired[list[str] | None]
    templates_of: NotRequired[str | None]
    where: NotRequired[dict[str, Any] | None]
    row_format: NotRequired[str | None]
    group: NotRequired[str | None]


class TaskFile(TypedDict):
    """A task file."""

    tasks: list[Any]
    name: NotRequired[str]
    defaults: NotRequired[dict[str, Any] | None]


def load_tasks(path: Path, split: str | None = None, built_in: bool = False) -> TaskSet:
    """Read a task file.

    The file has `name` (optional), `defaults` (optional, fields that all tasks share) and `tasks`, a list of
    mappings with the fields of `EvalTask`; `dataset` is written NAME or NAME/SUBSET. Raises `UserError`.
    """
    content = read_yaml(path, TaskFile)
    if not content["tasks"]:
        raise UserError(f"{path}: needs a list 'tasks' of at least one data set, see docs/evaluation.md")
    defaults = content.get("defaults") or {}
    override = {} if split is None else {"split": split}
    tasks = tuple(_task(path, entry, defaults, override) for entry in content["tasks"])
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: two tasks are called {twice!r}; give one of them another 'name'")
    return TaskSet(str(content.get("name", path.stem)), tasks, built_in)


def _task(path: Path, entry: Any, defaults: dict[str, Any], override: dict[str, Any]) -> EvalTask:
    if isinstance(entry, str):
        entry = {"dataset": entry}
    if not isinstance(entry, dict):
        raise UserError(f"{path}: {entry!r} in 'tasks' is neither a data set name nor a mapping")
    merged = {"split": "validation", **defaults, **entry, **override}
    known = [field.name for field in fields(EvalTask)]
    for key in merged:
        if key not in known:
            raise UserError(f"{path}: unknown field {key!r} in 'tasks'{nearest(key, known)}")
    expect(merged, TaskEntry, f"{path}: tasks")
    dataset = DatasetName.parse(merged["dataset"])
    templates = merged.get("templates")
    if templates is not None and not templates:
        raise UserError(f"{path}: 'templates' of {dataset} must be a list of names; leave it out for all templates")
    for name, count in Counter(templates or ()).items():
        if count > 1:
            raise UserError(f"{path}: 'templates' of {dataset} names {name!r} twice; leave one out")
    for key, known_values in (("row_format", ROW_FORMATS), ("group", ROW_GROUPS)):
        if (value := merged.get(key)) is not None and value not in known_values:
            raise UserError(f"{path}: unknown {key} {value!r}; there is: {', '.join(known_values)}")
    templates_of = merged.get("templates_of")
    return EvalTask(
        name=str(merged.get("name", dataset)),
        dataset=dataset,
        split=str(merged["split"]),
        templates=None if templates is None else tuple(templates),
        templates_of=None if templates_of is None else DatasetName.parse(templates_of),
        where=merged.get("where"),
        row_format=merged.get("row_format"),
        group=merged.get("group"),
    )
