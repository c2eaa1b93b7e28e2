"""Collections of prompt templates, read as data from promptsource's YAML files.

promptsource's own Python code is not imported: it needs packages and functions that no longer exist.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml

from metro_t0.errors import UserError, nearest
from metro_t0.files import read_yaml
from metro_t0.prompts import MAX_VARIABLE_LENGTH
from metro_t0.prompts.names import EMBEDDED_NAME, DatasetName, task_name
from metro_t0.prompts.rendering import (
    HiddenLabelError,
    MissingColumnError,
    Rendered,
    RenderError,
    Template,
)
from metro_t0.shapes import expect, field

__all__ = [
    "DatasetName",
    "HiddenLabelError",
    "MissingColumnError",
    "RenderError",
    "Rendered",
    "Template",
    "find_template",
    "load_templates",
    "templated_datasets",
]

FILE_NAME = "templates.yaml"
EMBEDDED_DIRECTORY = Path(__file__).parent / "embedded_templates"


class _DataLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML in which promptsource's two object tags are plain mappings."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[str, Any]:
    mapping: dict[str, Any] = loader.construct_mapping(node, deep=True)
    return mapping


for _tag in ("!Template", "!TemplateMetadata"):
    _DataLoader.add_constructor(_tag, _mapping)


def load_templates(
    name: str,
    subset: str | None = None,
    templates_dir: Path | None = None,
    max_variable_length: int | None = MAX_VARIABLE_LENGTH,
) -> dict[str, Template]:
    """All templates of a data set by template name, in alphabetical order.

    templates_dir: a directory laid out as promptsource's (`NAME[/SUBSET]/templates.yaml`), which is searched first; a
        data set that has no file there has those of the installed promptsource package (of this package, if embedded).
    max_variable_length: see `Template`.
    Raises `UserError` for a data set without templates (with the nearest names) or a malformed file.
    """
    dataset = DatasetName(name, subset)
    path = _template_file(dataset, templates_dir)
    entries = _read_entries(path)
    by_name: dict[str, Template] = {}
    tasks: dict[str, str] = {}
    for key, entry in entries.items():
        template = _parse_template(path, key, entry, dataset, max_variable_length)
        other = tasks.setdefault(task_name(dataset, template.name), template.name)
        if template.name in by_name or other != template.name:
            task = task_name(dataset, template.name)
            raise UserError(
                f"{path}: templates {other!r} and {template.name!r} are one task, {task}; rename one of them"
            )
        by_name[template.name] = template
    return dict(sorted(by_name.items()))


def find_template(templates: dict[str, Template], name: str) -> Template:
    """One template by name. Raises `UserError` with the nearest names."""
    if name in templates:
        return templates[name]
    dataset = next(iter(templates.values())).dataset
    hint = nearest(name, templates)
    raise UserError(f"no template {name!r} for {dataset}{hint}")


def templated_datasets(templates_dir: Path | None = None) -> list[DatasetName]:
    """Every data set that has a template file, sorted: the user's, the embedded ones and promptsource's."""
    found = set()
    for directory in _directories(templates_dir):
        for path in directory.rglob(FILE_NAME):
            found.add(DatasetName.parse(path.parent.relative_to(directory).as_posix()))
    return sorted(found, key=str)


@cache
def promptsource_directory() -> Path | None:
    """The `templates` directory of the installed promptsource package, found without importing the package."""
    spec = importlib.util.find_spec("promptsource")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "templates"


def _directories(templates_dir: Path | None) -> list[Path]:
    """Where template files are looked for, in this order."""
    if templates_dir is not None and not templates_dir.is_dir():
        raise UserError(f"{templates_dir}: no such directory (--templates)")
    return [path for path in (templates_dir, EMBEDDED_DIRECTORY, promptsource_directory()) if path is not None]


def _template_file(dataset: DatasetName, templates_dir: Path | None) -> Path:
    directories = _directories(templates_dir)
    for directory in directories:
        if (path := directory / str(dataset) / FILE_NAME).is_file():
            return path
    hint = nearest(str(dataset), map(str, templated_datasets(templates_dir)))
    if promptsource_directory() is None and dataset.name != EMBEDDED_NAME:
        hint += (
            "; promptsource is not installed: run `pip install --no-deps --ignore-requires-python promptsource==0.2.3` "
            "or give a directory of template files with --templates"
        )
    raise UserError(f"{', '.join(map(str, directories))}: no templates for data set {dataset}{hint}")


class TemplateEntry(TypedDict):
    """What a template file says of a template."""

    name: str
    jinja: str
    answer_choices: NotRequired[str | None]
    metadata: NotRequired[dict[str, Any] | None]


def _read_entries(path: Path) -> dict[str | int, TemplateEntry]:
    content = field(read_yaml(path, dict[Any, Any], _DataLoader), "templates", dict, str(path))
    if not content:
        raise UserError(f"{path}: field 'templates' must be a mapping of at least one template")
    # Only the names inside the entries count; people number the keys.
    entries: dict[str | int, TemplateEntry] = expect(content, dict[str | int, TemplateEntry], f"{path}: template")
    return entries


def _parse_template(
    path: Path, key: str | int, entry: TemplateEntry, dataset: DatasetName, max_variable_length: int | None
) -> Template:
    metadata = entry.get("metadata") or {}
    metrics = field(metadata, "metrics", list[str] | None, f"{path}: template {key}", None)
    return Template(
        name=entry["name"],
        dataset=str(dataset),
        jinja=entry["jinja"],
        answer_choices=entry.get("answer_choices"),
        original_task=bool(metadata.get("original_task")),
        choices_in_prompt=bool(metadata.get("choices_in_prompt")),
        metrics=tuple(metrics or ()),
        max_variable_length=max_variable_length,
    )
