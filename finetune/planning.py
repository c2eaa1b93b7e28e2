"""What is to be built of one data set: its templates as named tasks, and where their rows come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from finetune.mixtures import Mixture
from finetune.settings import BuildSettings
from metro_t0.errors import UserError
from metro_t0.prompts.datasets import available_splits, is_local
from metro_t0.prompts.hub import hub_sources
from metro_t0.prompts.names import DatasetName, task_name
from metro_t0.prompts.templates import Template, load_templates

P3_NAME = "bigscience/P3"
P3_TEXT = "{{ inputs_pretokenized }} ||| {{ targets_pretokenized }}"
P3_COLUMNS = ("inputs_pretokenized", "targets_pretokenized")
"""What is read of P3, whose rows have a column `answer_choices`, too, a name that templates reserve."""


@dataclass(frozen=True)
class PlannedTask:
    """One template of one data set."""

    name: str
    template: Template
    rows: DatasetName
    """The data set to read; the template's own, or one configuration of P3."""
    validated: bool
    """Whether it gets held-out examples."""


@dataclass(frozen=True)
class PlannedDataset:
    """All tasks made of one data set."""

    dataset: DatasetName
    tasks: tuple[PlannedTask, ...]
    num_templates: int
    """Templates of the data set before exclusions, the number that shares a cap."""
    source: str = ""
    """What the table of the hub says of the data set, where its rows are taken from there."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever a template, the choice of validated tasks or the place on the hub does."""
        parts: list[object] = [(task.name, task.template, str(task.rows), task.validated) for task in self.tasks]
        if self.source:
            parts.append(self.source)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def row_sources(self) -> dict[DatasetName, list[PlannedTask]]:
        """The tasks by the rows they read: one entry for promptsource, one per task for P3."""
        sources: dict[DatasetName, list[PlannedTask]] = {}
        for task in self.tasks:
            sources.setdefault(task.rows, []).append(task)
        return sources


def plan_dataset(mixture: Mixture, dataset: DatasetName, settings: BuildSettings) -> PlannedDataset:
    """The tasks of a data set, without the mixture's exclusions. Raises `UserError` where there are none."""
    templates = load_templates(dataset.name, dataset.subset, settings.templates_dir, settings.max_variable_length)
    tasks = []
    for template in templates.values():
        name = task_name(dataset, template.name)
        if name in mixture.excluded_tasks:
            continue
        rows = dataset
        if settings.source == "p3":
            rows = DatasetName(P3_NAME, name)
            template = ready_rendered(template)
        tasks.append(PlannedTask(name, template, rows, _is_validated(mixture, dataset, template, name, settings)))
    if not tasks:
        raise UserError(f"data set {dataset}: the mixture excludes all its templates")
    on_hub = settings.source == "promptsource" and not is_local(dataset, settings.data_dir)
    return PlannedDataset(dataset, tuple(tasks), len(templates), repr(hub_sources().get(dataset)) if on_hub else "")


def refuse_shared_tasks(mixture: Mixture, datasets: Iterable[DatasetName], settings: BuildSettings) -> None:
    """Raise `UserError` where templates of two data sets (`a`: "b c", `a/b`: "c") would be one task.

    Data sets that cannot be planned are passed over: their own failure is reported when they are built.
    """
    owners: dict[str, str] = {}
    for dataset in datasets:
        try:
            planned = plan_dataset(mixture, dataset, settings)
        except UserError:
            continue
        for task in planned.tasks:
            owner = owners.setdefault(task.name, task.template.title)
            if owner != task.template.title:
                raise UserError(f"{owner} and {task.template.title} are one task, {task.name}; rename one of them")


def ready_rendered(template: Template) -> Template:
    """The template that passes on the text which P3 holds already rendered."""
    return Template(
        name=template.name,
        dataset=template.dataset,
        jinja=P3_TEXT,
        original_task=template.original_task,
        choices_in_prompt=template.choices_in_prompt,
        metrics=template.metrics,
        max_variable_length=None,
    )


def held_out_split(rows: DatasetName, settings: BuildSettings) -> str | None:
    """`validation`, or `test` where there is no validation split, or None."""
    splits = available_splits(rows.name, rows.subset, settings.data_dir)
    return next((split for split in ("validation", "test") if split in splits), None)


def _is_validated(
    mixture: Mixture, dataset: DatasetName, template: Template, task: str, settings: BuildSettings
) -> bool:
    if settings.validation != "t0":
        return settings.validation == "all"
    skipped = {dataset.name, dataset.task_prefix} & mixture.validation_skipped_datasets
    return template.original_task and not skipped and task not in mixture.validation_excluded_tasks
