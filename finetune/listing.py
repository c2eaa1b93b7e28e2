"""`metro-t0-prompts list`: what there is."""

from __future__ import annotations

from pathlib import Path

from finetune.mixtures import Mixture, load_mixture, mixture_index
from metro_t0.errors import UserError
from metro_t0.prompts.datasets import is_local
from metro_t0.prompts.hub import hub_sources
from metro_t0.prompts.names import EMBEDDED_NAME, DatasetName, task_name
from metro_t0.prompts.templates import Template, load_templates
from metro_t0.tables import print_table

NONCOMMERCIAL_MARK = " *"


def list_mixtures(templates_dir: Path | None) -> None:
    """Named mixtures with their numbers of data sets and of tasks."""
    rows = []
    for name in mixture_index():
        mixture = load_mixture(name)
        tasks = sum(len(_templates(mixture, dataset, templates_dir)) for dataset in mixture.train)
        rows.append((name, str(len(mixture.train)), str(tasks), mixture.title))
    print_table(("mixture", "data sets", "tasks", "what it is"), rows, left=(3,))


def list_datasets(mixture: Mixture, templates_dir: Path | None, data_dir: Path | None = None) -> None:
    """The data sets of a mixture, their templates, where their rows are taken from, and their licenses."""
    rows = []
    noncommercial = 0
    for dataset in mixture.train:
        templates = _templates(mixture, dataset, templates_dir)
        original = sum(template.original_task for template in templates)
        source = hub_sources().get(dataset)
        noncommercial += bool(source and source.noncommercial)
        rows.append((str(dataset), str(len(templates)), str(original), _place(dataset, data_dir), license_of(dataset)))
    print_table(("data set", "templates", "original task", "rows from", "license"), rows, left=(3, 4))
    if noncommercial:
        print(f"{noncommercial} of {len(mixture.train)} data sets are for non-commercial use only (marked *)")


def license_of(dataset: DatasetName) -> str:
    """The license of a data set as the table of sources has it, with a mark where it allows no commercial use."""
    source = hub_sources().get(dataset)
    if source is None:
        return ""
    return source.license + (NONCOMMERCIAL_MARK if source.noncommercial else "")


def _place(dataset: DatasetName, data_dir: Path | None) -> str:
    if dataset.name == EMBEDDED_NAME:
        return "embedded"
    if is_local(dataset, data_dir):
        return str(data_dir)
    source = hub_sources().get(dataset)
    return "unknown" if source is None else source.places[0].id + (" (by hand)" if source.manual else "")


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
