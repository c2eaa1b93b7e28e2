"""Run a task set: every template that has no result yet is rendered, scored and written down."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

from eval.distributed import Processes
from eval.examples import Example, build_examples
from eval.ranking import ChoiceScore, check_finite, predict
from eval.results import Prediction, ResultsDirectory, TemplateResult
from eval.scorer import ChoiceScorer
from eval.scores import ABSENT, RIGHT, WRONG, chance, majority
from eval.settings import ScoringSettings
from eval.tasks import ROW_GROUPS, TEMPLATES, EvalTask, TaskSet
from metro_t0.errors import UserError
from metro_t0.prompts.datasets import load_rows
from metro_t0.prompts.templates import Template, find_template, load_templates
from metro_t0.randomness import sample_indices

logger = logging.getLogger(__name__)

SAMPLES_PER_OUTCOME = 4
MOST_LABELS = 20
EditSource = Callable[[Mapping[str, Any], str], str]


@dataclass(frozen=True)
class TaskData:
    """A task with its templates and rows."""

    task: EvalTask
    templates: list[Template]
    rows: Sequence[Mapping[str, Any]]


def find_data(
    task_set: TaskSet, data_dir: Path | None, templates_dir: Path | None
) -> tuple[list[TaskData], dict[str, str]]:
    """Templates and rows of all tasks, and the tasks whose data could not be had, with the reason.

    Only the built-in sets may have missing data sets; for a user's own file that is an error.
    """
    missing: dict[str, str] = {}
    found: list[TaskData] = []
    for task in task_set.tasks:
        templates = task_templates(task, templates_dir)
        try:
            found.append(TaskData(task, templates, task_rows(task, data_dir)))
        except UserError as error:
            if not task_set.built_in:
                raise
            missing[task.name] = str(error)
    if not found:
        raise UserError(f"no data for any task of {task_set.name}: {next(iter(missing.values()))}")
    return found, missing


@dataclass
class Evaluation:
    """One run over a task set."""

    load: Callable[[], ChoiceScorer]
    """Called once, when something is left to score."""
    settings: ScoringSettings
    results: ResultsDirectory
    processes: Processes
    run: dict[str, Any]
    """Model and settings, written into every result."""
    save_predictions: bool = False
    edit_source: EditSource | None = None

    @cached_property
    def scorer(self) -> ChoiceScorer:
        """The loaded model."""
        return self.load()

    def evaluate(self, found: Sequence[TaskData]) -> dict[str, str]:
        """Compute what is missing. Returns the tasks that have no score, with the reason.

        A task none of whose rows can be scored (all labels hidden) has no score, and the others keep theirs.
        """
        missing: dict[str, str] = {}
        for data in found:
            task = data.task
            chosen = sample_indices(len(data.rows), self.settings.limit, "limit", self.settings.seed, task.name)
            rows = rows_hash(task, data.rows, chosen)
            for template in data.templates:
                done = self.results.has(task.name, template.name, template_hash(template), rows, self.save_predictions)
                if not self.processes.from_first(done):
                    if self.processes.is_first:
                        self.results.discard(task.name, template.name)
                    reason = self._evaluate_template(data, template, chosen, rows)
                    if reason := self.processes.from_first(reason):
                        missing[task.name] = reason
                        break
        if len(missing) == len(found):
            raise UserError(f"no task can be scored: {next(iter(missing.values()))}")
        return missing

    def _evaluate_template(self, data: TaskData, template: Template, chosen: list[int], rows_hash: str) -> str | None:
        """Score and write down. Returns why there is no score, where no row can be scored (in the first process)."""
        task, num_rows = data.task, len(chosen)
        mine = chosen[self.processes.rank :: self.processes.count]
        start = time.perf_counter()
        built = build_examples(task, template, data.rows, mine, self.settings.seed, self.edit_source)
        title = f"{task.name}: {template.name}" if self.processes.is_first else None
        scores, lengths = self.scorer.score(
            [e.source for e in built.examples], [e.choices for e in built.examples], title
        )
        truncated = sum(length >= self.settings.max_source_tokens for length in lengths)
        gathered = self.processes.gather((built.examples, scores, built.skipped, truncated))
        if not self.processes.is_first:
            return None
        pairs = [pair for examples, rows_scores, _, _ in gathered for pair in zip(examples, rows_scores, strict=True)]
        pairs.sort(key=lambda pair: pair[0].index)
        skipped: dict[str, int] = {}
        for _, _, counts, _ in gathered:
            for reason, count in counts.items():
                skipped[reason] = skipped.get(reason, 0) + count
        for reason, count in skipped.items():
            logger.info("%s: %s: %d of %d rows skipped: %s", task.name, template.name, count, num_rows, reason)
        if not pairs:
            reasons = ", ".join(f"{count} times: {reason}" for reason, count in skipped.items())
            return f"{template.title}: none of {num_rows} rows of {task.split} can be scored ({reasons})"
        check_finite(f"{template.title}, {task.split}", [scores for _, scores in pairs], self.scorer.model.dtype)
        result = summarize(task, template, chosen, pairs, skipped)
        result.truncated_sources = sum(part[3] for part in gathered)
        result.seconds = time.perf_counter() - start
        result.versions, result.run, result.rows_hash = versions(), self.run, rows_hash
        self.results.save(result, [prediction_of(*pair) for pair in pairs] if self.save_predictions else None)
        return None


def task_rows(task: EvalTask, data_dir: Path | None) -> Sequence[Mapping[str, Any]]:
    """The rows of a task. Raises `UserError` where there are none or the data set cannot be had."""
    rows: Sequence[Mapping[str, Any]] = load_rows(task.dataset.name, task.dataset.subset, task.split, data_dir)
    if task.where:
        wanted = task.where.items()
        rows = [row for row in rows if all(row.get(key) == value for key, value in wanted)]
    if task.group:
        try:
            rows = ROW_GROUPS[task.group](rows)
        except KeyError as error:
            raise UserError(f"{task.dataset} {task.split}: no column {error}, which {task.group} needs") from None
    if len(rows) == 0:
        where = " and ".join(f"{key} = {value!r}" for key, value in (task.where or {}).items())
        raise UserError(f"{task.dataset} {task.split}: no rows for task {task.name}{where and f' where {where}'}")
    return rows


def task_templates(task: EvalTask, templates_dir: Path | None) -> list[Template]:
    """The templates of a task. Raises `UserError` for an unknown name or a data set without answer choices."""
    of = task.templates_of or task.dataset
    known = load_templates(of.name, of.subset, templates_dir or TEMPLATES)
    if task.templates is not None:
        return [find_template(known, name) for name in task.templates]
    with_choices = [template for template in known.values() if template.has_choices]
    if not with_choices:
        raise UserError(f"no template of {of} has answer choices, so there is nothing to rank")
    return with_choices


def template_hash(template: Template) -> str:
    """Changes with the template's text."""
    text = f"{template.jinja}\0{template.answer_choices}\0{template.max_variable_length}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rows_hash(task: EvalTask, rows: Sequence[Mapping[str, Any]], chosen: Sequence[int]) -> str:
    """Changes with any of the chosen rows of a task, and with how they become rows of its templates."""
    digest = hashlib.sha256(str(task.row_format).encode())
    for index in chosen:
        digest.update(json.dumps(rows[index], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def prediction_of(example: Example, scores: Sequence[ChoiceScore]) -> Prediction:
    """The record of one example."""
    return Prediction(
        index=example.index,
        gold=example.gold,
        predicted=predict(scores),
        log_probabilities=[score.log_probability for score in scores],
        num_tokens=[score.num_tokens for score in scores],
    )


def summarize(
    task: EvalTask,
    template: Template,
    chosen: Sequence[int],
    pairs: Sequence[tuple[Example, Sequence[ChoiceScore]]],
    skipped: dict[str, int],
) -> TemplateResult:
    """Accuracies, baselines, confusion and samples of one template; timing is the caller's.

    chosen: the rows of the task that were to be scored, in order.
    """
    examples = [example for example, _ in pairs]
    predicted = [predict(scores) for _, scores in pairs]
    normalized = [predict(scores, length_normalized=True) for _, scores in pairs]
    labels, confusion = _confusion(examples, predicted)
    return TemplateResult(
        task=task.name,
        dataset=str(task.dataset),
        split=task.split,
        template=template.name,
        template_hash=template_hash(template),
        num_rows=len(chosen),
        outcomes=_outcomes(examples, predicted, chosen),
        outcomes_length_normalized=_outcomes(examples, normalized, chosen),
        skipped=skipped,
        truncated_sources=0,
        chance=chance([len(example.choices) for example in examples]),
        majority=majority([example.gold for example in examples]),
        labels=labels,
        confusion=confusion,
        samples=list(_samples(pairs)),
        seconds=0.0,
    )


def _outcomes(examples: Sequence[Example], predicted: Sequence[int], chosen: Sequence[int]) -> str:
    outcomes = dict.fromkeys(chosen, ABSENT)
    for example, choice in zip(examples, predicted, strict=True):
        outcomes[example.index] = RIGHT if choice == example.gold else WRONG
    return "".join(outcomes.values())


def _confusion(examples: Sequence[Example], predicted: Sequence[int]) -> tuple[list[str], list[list[int]]]:
    most = max(len(example.choices) for example in examples)
    same = all(example.choices == examples[0].choices for example in examples)
    labels = examples[0].choices if same else [f"choice {i}" for i in range(1, most + 1)]
    counts = [[0] * len(labels) for _ in labels]
    for example, choice in zip(examples, predicted, strict=True):
        counts[example.gold][choice] += 1
    return (labels, counts) if most <= MOST_LABELS else ([], [])


def _samples(pairs: Sequence[tuple[Example, Sequence[ChoiceScore]]]) -> Iterator[dict[str, Any]]:
    """The first few right and wrong examples, in the order of the rows."""
    left = {True: SAMPLES_PER_OUTCOME, False: SAMPLES_PER_OUTCOME}
    for example, scores in pairs:
        right = predict(scores) == example.gold
        if left[right]:
            left[right] -= 1
            yield {
                **asdict(example),
                "predicted": predict(scores),
                "log_probabilities": [round(score.log_probability, 4) for score in scores],
            }


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
