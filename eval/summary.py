"""A results directory in numbers: scores per template and task, the average, and what is missing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.results import ResultsDirectory, TemplateResult
from eval.scores import Score, mean_over_tasks, mean_over_templates
from metro_t0.errors import UserError
from metro_t0.files import read_json, write_json
from metro_t0.shapes import field

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class TaskSummary:
    """One task over its templates."""

    name: str
    results: tuple[TemplateResult, ...]
    length_normalized: bool = False
    """Choices compared by the mean, not the sum, of their tokens' log-probabilities."""

    def outcomes(self) -> list[str]:
        """Right and wrong answers, one string per template."""
        return [r.outcomes_length_normalized if self.length_normalized else r.outcomes for r in self.results]

    def template_scores(self) -> list[Score]:
        """Accuracy of every template."""
        return [r.score_length_normalized if self.length_normalized else r.score for r in self.results]

    @property
    def score(self) -> Score:
        """Mean over the templates."""
        return mean_over_templates(self.outcomes())

    @property
    def median(self) -> float:
        """Median over the templates."""
        return statistics.median(score.value for score in self.template_scores())

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return statistics.fmean(r.chance for r in self.results)

    @property
    def majority(self) -> float:
        """Accuracy of always answering the most frequent position."""
        return statistics.fmean(r.majority for r in self.results)


@dataclass(frozen=True)
class Summary:
    """All results of one model."""

    run: dict[str, Any]
    tasks: tuple[TaskSummary, ...]
    """Tasks with results, in the order of their set."""
    missing: dict[str, str]
    """Tasks of the set that do not count, with the reason."""
    length_normalized: bool = False
    name: str | None = None
    """Another name than the model's, where two runs are of models of the same name."""

    @property
    def model(self) -> str:
        """Short name of the model, for tables."""
        name = self.name or Path(str(self.run["model"])).name or str(self.run["model"])
        return f"{name} (length-normalized)" if self.length_normalized else name

    def named(self, name: str) -> Summary:
        """The same results under another name."""
        return replace(self, name=name)

    def with_length_normalization(self) -> Summary:
        """The same results with choices compared by their mean log-probability per token."""
        tasks = tuple(replace(task, length_normalized=True) for task in self.tasks)
        return replace(self, tasks=tasks, length_normalized=True)

    @property
    def task_set(self) -> str:
        """Name of the task set."""
        return str(self.run["task_set"])

    @property
    def average(self) -> Score:
        """Mean over the tasks that have results."""
        return mean_over_tasks([task.score for task in self.tasks])

    @property
    def num_expected(self) -> int:
        """Tasks in the set."""
        return len(self.tasks) + len(self.missing)

    @property
    def is_complete(self) -> bool:
        """Whether the average is over the whole set, and over all rows."""
        return not self.missing and self.run.get("limit") is None

    @property
    def average_label(self) -> str:
        """What the average is a mean of; marked where it is not the set's."""
        limit = self.run.get("limit")
        rows = "" if limit is None else f", {limit} rows of each"
        if not self.missing:
            return f"mean over {self.num_expected}{rows}"
        return f"mean over {len(self.tasks)} of {self.num_expected}{rows}"


def summarize_directory(directory: ResultsDirectory, reasons: Mapping[str, str] | None = None) -> Summary:
    """Read a results directory. A task counts when all templates of the plan have results.

    reasons: why tasks have no results; default: what the directory's last summary says.
    Raises `UserError` for a directory without results.
    """
    if reasons is None:
        path = directory.path / SUMMARY_FILE
        reasons = field(read_json(path, dict[str, Any]), "missing", dict[str, str], str(path)) if path.exists() else {}
    found: dict[str, dict[str, TemplateResult]] = {}
    for result in directory.load():
        found.setdefault(result.task, {})[result.template] = result
    tasks, missing = [], {}
    for name, templates in directory.plan.items():
        results = [found[name][t] for t in templates if t in found.get(name, {})]
        if len({len(r.outcomes) for r in results}) > 1 or len({r.rows_hash for r in results} - {None}) > 1:
            missing[name] = "its templates were scored on different rows; run the evaluation again"
        elif len(results) == len(templates):
            tasks.append(TaskSummary(name, tuple(results)))
        elif results:
            done = f"{len(results)} of {len(templates)} templates are done; run the evaluation again"
            missing[name] = reasons.get(name, done)
        else:
            missing[name] = reasons.get(name, "not done yet; run the evaluation again")
    return Summary(directory.run, tuple(tasks), missing)


def summarize_directories(paths: Sequence[Path]) -> list[Summary]:
    """Results side by side, called by their directories where two models have the same name.

    Raises `UserError` where they are of different task sets.
    """
    summaries = [summarize_directory(ResultsDirectory(path)) for path in paths]
    sets = {summary.task_set for summary in summaries}
    if len(sets) > 1:
        raise UserError(f"these are results of different task sets ({', '.join(sorted(sets))}); report each set alone")
    if len({summary.model for summary in summaries}) < len(summaries):
        return [summary.named(str(path)) for summary, path in zip(summaries, paths, strict=True)]
    return summaries


def write_summary(directory: ResultsDirectory, summary: Summary) -> None:
    """Write `summary.json`."""
    write_json(
        directory.path / SUMMARY_FILE,
        {
            "run": summary.run,
            "average": {**summary.average.to_json(), "label": summary.average_label, "complete": summary.is_complete},
            "tasks": {
                task.name: {
                    **task.score.to_json(),
                    "median": task.median,
                    "chance": task.chance,
                    "majority": task.majority,
                    "templates": {
                        r.template: s.to_json() for r, s in zip(task.results, task.template_scores(), strict=True)
                    },
                    "skipped": {r.template: r.skipped for r in task.results if r.skipped},
                    "truncated_sources": {r.template: r.truncated_sources for r in task.results if r.truncated_sources},
                }
                for task in summary.tasks
            },
            "missing": summary.missing,
        },
    )
