"""Result files: one JSON per (task, template), written atomically, in a directory that belongs to one model."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict, get_type_hints

from eval.scores import Score, accuracy
from metro_t0.claims import claimed
from metro_t0.errors import UserError
from metro_t0.files import atomic_path, read_json, write_json
from metro_t0.shapes import expect

RUN_FILE = "run.json"
PLAN_FILE = "plan.json"
MOST_NAME_CHARACTERS, PLAIN_CHARACTERS = 120, 80


@dataclass(frozen=True)
class Prediction:
    """What the model said about one example."""

    index: int
    """Row of the task."""
    gold: int
    predicted: int
    log_probabilities: list[float]
    """One sum per choice."""
    num_tokens: list[int]
    """Tokens per choice, end token included."""


@dataclass
class TemplateResult:
    """Everything that is kept of one prompt template on one data set."""

    task: str
    dataset: str
    split: str
    template: str
    template_hash: str
    """Of the template's text: a changed template is another template."""
    num_rows: int
    """Rows of the task, scored or not."""
    outcomes: str
    """One character per row: `1` right, `0` wrong, `-` not scored."""
    outcomes_length_normalized: str
    """The same where a choice's score is the mean, not the sum, over its tokens."""
    skipped: dict[str, int]
    """Rows without a place in the score, by reason."""
    truncated_sources: int
    """Prompts that filled the maximum length."""
    chance: float
    majority: float
    labels: list[str]
    """Names of the rows and columns of `confusion`: the choices, or their positions where choices differ by row."""
    confusion: list[list[int]]
    """Counts, `confusion[correct][predicted]`."""
    samples: list[dict[str, Any]]
    """A few right and wrong examples in text, for the report."""
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    """Model and settings, as in the run file."""
    rows_hash: str | None = None
    """Of the rows that were to be scored: other rows make another result. None: of an earlier version."""

    @property
    def score(self) -> Score:
        """Accuracy with standard error and n."""
        return accuracy(self.outcomes)

    @property
    def score_length_normalized(self) -> Score:
        """Accuracy where choices are compared by their mean log-probability per token."""
        return accuracy(self.outcomes_length_normalized)

    def to_json(self) -> dict[str, Any]:
        """The file's content: the figures a reader looks for first, then all fields."""
        score, normalized = self.score, self.score_length_normalized
        return {
            "accuracy": score.value,
            "standard_error": score.standard_error,
            "n": score.n,
            "accuracy_length_normalized": normalized.value,
            "standard_error_length_normalized": normalized.standard_error,
            "examples_per_second": score.n / self.seconds if self.seconds else None,
            **asdict(self),
        }


class RunFile(TypedDict):
    """What run.json is read for; it holds all settings."""

    model: str
    task_set: str
    limit: NotRequired[int | None]


class ResultsDirectory:
    """A directory of results of one model under one group of settings.

    OUTPUT/run.json, OUTPUT/plan.json, OUTPUT/results/TASK/TEMPLATE.json,
    OUTPUT/predictions/TASK/TEMPLATE.jsonl.gz.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def claimed(self, run: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Hold the directory for this model and these settings (see `metro_t0.claims`).

        A model may move; its fingerprint stays.
        """
        ignore = {"model", *unrecorded(self.path / RUN_FILE)}
        return claimed(self.path, run, RUN_FILE, ["results/*/*.json"], ignore=ignore)

    def has(self, task: str, template: str, template_hash: str, rows_hash: str, with_predictions: bool) -> bool:
        """Whether this template is done on these rows (with its predictions, if they are wanted)."""
        path = self._result_path(task, template)
        if not path.exists() or (with_predictions and not self.predictions_path(task, template).exists()):
            return False
        found = read_json(path, dict[str, Any])
        return found.get("template_hash") == template_hash and found.get("rows_hash") in (None, rows_hash)

    def save(self, result: TemplateResult, predictions: Sequence[Prediction] | None) -> None:
        """Write the result, after the predictions if they are given: a result file means that all is there."""
        path = self.predictions_path(result.task, result.template)
        if predictions is None:
            path.unlink(missing_ok=True)  # of an earlier template or other rows
        else:
            with atomic_path(path) as temporary, gzip.open(temporary, "wt", encoding="utf-8") as stream:
                stream.writelines(json.dumps(asdict(p), allow_nan=False) + "\n" for p in predictions)
        write_json(self._result_path(result.task, result.template), result.to_json())

    def discard(self, task: str, template: str) -> None:
        """Remove the result, before another takes its place or none can."""
        self._result_path(task, template).unlink(missing_ok=True)

    def load(self) -> list[TemplateResult]:
        """All results, by task and template. Raises `UserError` for a directory without any."""
        shapes = get_type_hints(TemplateResult)
        names = set(shapes)
        paths = sorted((self.path / "results").glob("*/*.json"))
        if not paths:
            raise UserError(f"{self.path}: no results in it; give the --output of an evaluation")
        results = []
        for path in paths:
            content = {"rows_hash": None, **read_json(path, dict[str, Any])}
            if not names <= content.keys():
                raise UserError(
                    f"{path}: not a result of this version (no {sorted(names - content.keys())[0]!r}); delete it"
                )
            for name, shape in shapes.items():
                expect(content[name], shape, f"{path}: {name}")
            results.append(TemplateResult(**{name: content[name] for name in names}))
        return results

    @property
    def plan(self) -> dict[str, list[str]]:
        """Template names of every task of the whole set, in its order."""
        path = self.path / PLAN_FILE
        content: dict[str, list[str]] = read_json(path, dict[str, list[str]])
        for task, templates in content.items():
            if not templates:
                raise UserError(f"{path}: {task}: has no templates; evaluate again into another directory")
        return content

    @plan.setter
    def plan(self, templates_of_task: Mapping[str, Sequence[str]]) -> None:
        write_json(self.path / PLAN_FILE, {task: list(names) for task, names in templates_of_task.items()})

    @property
    def run(self) -> dict[str, Any]:
        """Model and settings of the results."""
        content: dict[str, Any] = read_json(self.path / RUN_FILE, RunFile)
        return content

    def predictions_path(self, task: str, template: str) -> Path:
        """Where the predictions of a template go."""
        return self.path / "predictions" / file_name(task) / f"{file_name(template)}.jsonl.gz"

    def _result_path(self, task: str, template: str) -> Path:
        return self.path / "results" / file_name(task) / f"{file_name(template)}.json"


def unrecorded(path: Path) -> set[str]:
    """What an earlier version did not write about a model into this file of settings; it is not compared."""
    return {"files"} - read_json(path, dict[str, Any]).keys() if path.is_file() else set()


def read_predictions(path: Path) -> list[Prediction]:
    """Read a predictions file."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [Prediction(**json.loads(line)) for line in stream]


def file_name(name: str) -> str:
    """A file name for any task or template name; a hash keeps apart names that differ in odd characters only."""
    plain = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("_")
    plain = re.sub(r"^\.+", "_", plain)[:MOST_NAME_CHARACTERS]  # no hidden file, no step out of the directory
    return (
        plain
        if plain and plain == name
        else f"{plain[:PLAIN_CHARACTERS]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    )
