"""`metro-t0-prompts list`: what there is."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.mixtures import Mixture, load_mixture, mixture_index
from metro_t0.errors import UserError
from metro_t0.prompts.hub import hub_sources
from metro_t0.prompts.names import EMBEDDED_NAME, DatasetName, task_name
from metro_t0.prompts.templates import Template, load_templates

PLAIN_WIDTH = 200  # where the output is no terminal, lines are not folded to 80 columns


def list_mixtures(templates_dir: Path | None) -> None:
    """Named mixtures with their numbers of data sets and of tasks."""
    table = Table("mixture", "data sets", "tasks", "what it is")
    for name in mixture_index():
        mixture = load_mixture(name)
        tasks = sum(len(_templates(mixture, dataset, templates_dir)) for dataset in mixture.train)
        table.add_row(name, str(len(mixture.train)), str(tasks), escape(mixture.title))
    _console().print(table)


def list_datasets(mixture: Mixture, templates_dir: Path | None) -> None:
    """The data sets of a mixture, their templates and where the hub has them."""
    table = Table("data set", "templates", "original task", "on the hub")
    sources = hub_sources()
    for dataset in mixture.train:
        templates = _templates(mixture, dataset, templates_dir)
        original = sum(template.original_task for template in templates)
        source = sources.get(dataset)
        place = "embedded" if dataset.name == EMBEDDED_NAME else source.id if source else "(local only)"
        table.add_row(str(dataset), str(len(templates)), str(original), place)
    _console().print(table)


def list_templates(dataset: DatasetName, templates_dir: Path | None) -> None:
    """The templates of a data set."""
    table = Table("template", "task", "original task", "choices", "columns", "metrics")
    for template in load_templates(dataset.name, dataset.subset, templates_dir).values():
        table.add_row(
            escape(template.name),
            task_name(dataset, template.name),
            "yes" if template.original_task else "no",
            escape(template.answer_choices or ""),
            ", ".join(sorted(template.required_columns)),
            ", ".join(template.metrics),
        )
    _console().print(table)


def _templates(mixture: Mixture, dataset: DatasetName, templates_dir: Path | None) -> list[Template]:
    try:
        templates = load_templates(dataset.name, dataset.subset, templates_dir)
    except UserError:  # a user's template directory need not cover every named mixture
        return []
    return [t for t in templates.values() if task_name(dataset, t.name) not in mixture.excluded_tasks]


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
