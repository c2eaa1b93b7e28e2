"""`metro-t0-prompts list`: what there is."""

from __future__ import annotations

from pathlib import Path

from finetune.mixtures import Mixture, load_mixture, mixture_index
from metro_t0.errors import UserError
from metro_t0.prompts.hub import hub_sources
from metro_t0.prompts.names import EMBEDDED_NAME, DatasetName, task_name
from metro_t0.prompts.templates import Template, load_templates
from metro_t0.tables import print_table


def list_mixtures(templates_dir: Path | None) -> None:
    """Named mixtures with their numbers of data sets and of tasks."""
    rows = []
    for name in mixture_index():
        mixture = load_mixture(name)
        tasks = sum(len(_templates(mixture, dataset, templates_dir)) for dataset in mixture.train)
        rows.append((name, str(len(mixture.train)), str(tasks), mixture.title))
    print_table(("mixture", "data sets", "tasks", "what it is"), rows, left=(3,))


def list_datasets(mixture: Mixture, templates_dir: Path | None) -> None:
    """The data sets of a mixture, their templates and where the hub has them."""
    rows = []
    sources = hub_sources()
    for dataset in mixture.train:
        templates = _templates(mixture, dataset, templates_dir)
        original = sum(template.original_task for template in templates)
        source = sources.get(dataset)
        place = "embedded" if dataset.name == EMBEDDED_NAME else source.id if source else "(local only)"
        rows.append((str(dataset), str(len(templates)), str(original), place))
    print_table(("data set", "templates", "original task", "on the hub"), rows, left=(3,))


def list_templates(dataset: DatasetName, templates_dir: Path | None) -> None:
    """The templates of a data set."""
    rows = [
        (
            template.name,
            task_name(dataset, template.name),
            "yes" if template.original_task else "no",
            template.answer_choices or "",
            ", ".join(sorted(template.required_columns)),
            ", ".join(template.metrics),
        )
        for template in load_templates(dataset.name, dataset.subset, templates_dir).values()
    ]
    print_table(
        ("template", "task", "original task", "choices", "columns", "metrics"), rows, left=range(6), title=str(dataset)
    )


def _templates(mixture: Mixture, dataset: DatasetName, templates_dir: Path | None) -> list[Template]:
    try:
        templates = load_templates(dataset.name, dataset.subset, templates_dir)
    except UserError:  # a user's template directory need not cover every named mixture
        return []
    return [t for t in templates.values() if task_name(dataset, t.name) not in mixture.excluded_tasks]
