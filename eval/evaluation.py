"""A model on a task set, from its files to the report."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.distributed import processes
from eval.loading import open_model
from eval.report import write_report
from eval.results import ResultsDirectory
from eval.runner import EditSource, Evaluation, find_data, task_templates
from eval.scorer import ChoiceScorer
from eval.settings import EvaluationSettings
from eval.summary import Summary, summarize_directory, write_summary
from eval.tables import task_rows
from eval.tasks import TaskSet
from metro_t0.errors import printable
from metro_t0.tables import print_table


def evaluate(
    settings: EvaluationSettings,
    task_set: TaskSet,
    more_settings: Mapping[str, Any] | None = None,
    edit_source: EditSource | None = None,
) -> None:
    """Score, write summary and report, print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    selected = task_set.selected(settings.only)
    plan = {t.name: [p.name for p in task_templates(t, settings.templates_dir)] for t in task_set.tasks}
    model = open_model(settings.model)
    found, missing = find_data(selected, settings.data_dir, settings.templates_dir)
    run = {"task_set": task_set.name, **model.identity, **asdict(settings.scoring), **(more_settings or {})}
    with processes() as group, ExitStack() as held:
        directory = ResultsDirectory(settings.output)
        if group.is_first:
            held.enter_context(directory.claimed(run))
            directory.plan = plan
        evaluation = Evaluation(
            load=lambda: ChoiceScorer(model.load(), settings.scoring, settings.max_tokens),
            settings=settings.scoring,
            results=directory,
            processes=group,
            run=run,
            save_predictions=settings.save_predictions,
            edit_source=edit_source,
        )
        reasons = {task.name: "not selected (--only)" for task in task_set.tasks if task not in selected.tasks}
        reasons |= missing | evaluation.evaluate(found)
        if group.is_first:
            summary = summarize_directory(directory, reasons)
            write_summary(directory, summary)
            report(directory.path, [summary], settings.length_normalize)


def report(directory: Path, summaries: Sequence[Summary], length_normalize: bool) -> None:
    """Write the report into the directory, and print the table for the person at the terminal."""
    shown = [*summaries, *(summary.with_length_normalization() for summary in summaries if length_normalize)]
    page = write_report(directory, shown)
    header, rows = task_rows(shown)
    print_table(header, rows, title=f"{shown[0].task_set}: accuracy in percent +- standard error", last=1)
    for name, reason in shown[0].missing.items():
        print(printable(f"not scored: {name}: {reason}"))
    print(f"report: {page}")
