"""A task pack for lm-evaluation-harness: the same prompts, choices and answers as `multiple_choice` tasks.

The harness adds no end token to a choice, so the choices of the pack carry it in text: for tokenizers that read it
there its score of a choice is then the same sum as ours, and its `acc` our accuracy. For METRO's, which does not, and
for any other there is the model class of `eval.lm_eval_model`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eval.examples import Example, build_examples
from eval.results import file_name
from eval.runner import task_rows, task_templates
from eval.settings import PackSettings
from eval.tasks import task_set_of
from metro_t0.errors import UserError
from metro_t0.files import atomic_path, write_text
from metro_t0.progress import progress
from metro_t0.randomness import sample_indices


@dataclass
class PackSummary:
    """What was written."""

    group: str
    num_tasks: int = 0
    num_examples: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    """Tasks without data, with the reason."""


def write_pack(settings: PackSettings) -> PackSummary:
    """Write `NAME.yaml` and `data/NAME.jsonl` per template, and groups.

    Group `metro_SET_TASK` has the mean over the templates of a task. Group `metro_SET` holds those groups and has no
    number of its own: the harness would average over all templates, not over the tasks.
    Raises `UserError` where no task has data, or, for a user's own task set, where one has none.
    """
    task_set = task_set_of(settings.tasks).selected(settings.only)
    group_of_set = f"metro_{identifier(task_set.name)}"
    summary = PackSummary(group_of_set)
    directory, limit, seed = settings.output, settings.limit, settings.seed
    groups = []
    for task in progress(task_set.tasks, "write", unit="tasks"):
        templates = task_templates(task, settings.templates_dir)
        try:
            rows = task_rows(task, settings.data_dir)
        except UserError as error:
            if not task_set.built_in:
                raise
            summary.missing[task.name] = str(error)
            continue
        members = []
        indices = sample_indices(len(rows), limit, "limit", seed, task.name)
        for template in templates:
            built = build_examples(task, template, rows, indices, seed)
            if not built.examples:
                raise UserError(f"{template.title}: no row can be scored: {dict(built.skipped)}")
            name = f"{group_of_set}_{identifier(task.name)}_{identifier(file_name(template.name))}"
            if name in members:
                raise UserError(f"{template.title}: another template is task {name}, too; rename one of them")
            data = directory.resolve() / "data" / f"{name}.jsonl"
            _write_data(data, built.examples, settings.end_token)
            write_text(directory / f"{name}.yaml", task_yaml(name, data))
            members.append(name)
            summary.num_tasks += 1
            summary.num_examples += len(built.examples)
        groups.append(f"{group_of_set}_{identifier(task.name)}")
        write_text(directory / f"{groups[-1]}.yaml", group_yaml(groups[-1], members, has_mean=True))
    if not groups:
        raise UserError(f"no data for any task of {task_set.name}: {next(iter(summary.missing.values()))}")
    write_text(directory / f"{group_of_set}.yaml", group_yaml(group_of_set, groups, has_mean=False))
    return summary


def task_yaml(name: str, data: Path) -> str:
    """One template of one data set as a harness task."""
    return _dump(
        {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "source",
            "doc_to_choice": "choices",
            "doc_to_target": "label",
            "target_delimiter": "",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
    )


def group_yaml(name: str, members: Sequence[str], has_mean: bool) -> str:
    """A harness group; with a mean, that of its members' accuracies, each counting the same."""
    group: dict[str, Any] = {"group": name, "task": list(members)}
    if has_mean:
        group["aggregate_metric_list"] = [{"metric": "acc", "aggregation": "mean", "weight_by_size": False}]
    return _dump({**group, "metadata": {"version": 1.0}})


def identifier(name: str) -> str:
    """A harness task name: letters, digits and underscores."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")


def _write_data(path: Path, examples: Sequence[Example], end_token: str) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for example in examples:
            choices = [choice + end_token for choice in example.choices]
            record = {"source": example.source, "choices": choices, "label": example.gold}
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def _dump(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
