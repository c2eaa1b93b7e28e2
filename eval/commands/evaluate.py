"""`metro-t0-eval t0`, `mmlu` and `tasks`: score a model on a task set."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from eval.settings import ModelSettings, ScoringSettings
from metro_t0.command import Command
from metro_t0.common_options import (
    MOST_TOKENS,
    data_dir_option,
    only_option,
    output_option,
    templates_option,
)
from metro_t0.errors import UserError, printable
from metro_t0.options import option
from metro_t0.tables import print_table

if TYPE_CHECKING:
    from eval.results import ResultsDirectory
    from eval.runner import EditSource
    from eval.summary import Summary
    from eval.tasks import TaskSet

# Where time per token stops falling; on a CPU smaller batches of closer lengths save padding.
MAX_TOKENS = {"cuda": 65536, "mps": 8192, "cpu": 1024}
BY_DEVICE = ", ".join(f"{device} {tokens}" for device, tokens in MAX_TOKENS.items())

T0_EXAMPLES = """examples:
  metro-t0-eval t0 --model bigscience/T0_3B --dtype bfloat16 --output results/t0_3b
  metro-t0-eval t0 --model my_model/ --data-dir data/tasks --output results/mine --only rte,copa
  torchrun --nproc-per-node 8 -m eval.cli t0 --model google/flan-t5-xl --output results/flan_t5_xl

The license of Story Cloze asks every user for a form: put your copy of the 2016 validation set into
DATA_DIR/story_cloze/2016/validation.jsonl (see docs/evaluation.md). A data set that is absent is reported, and the
average is then marked as a mean over k of 11.
"""
MMLU_EXAMPLES = """examples:
  metro-t0-eval mmlu --model google/flan-t5-base --output results/flan_mmlu
  metro-t0-eval mmlu --model my_model/ --split test --data-dir data/tasks --output results/mine_mmlu
  metro-t0-eval mmlu --model my_model/ --passages passages.jsonl --top-k 5 --output results/mine_mmlu_retrieval
"""
TASKS_EXAMPLES = """examples:
  metro-t0-eval tasks --tasks my_tasks.yaml --model my_model/ --output results/mine
  metro-t0-eval tasks --tasks embedded --model my_model/ --output results/embedded

my_tasks.yaml:
  tasks:
    - {dataset: super_glue/boolq}                                # every template with answer choices
    - {dataset: imdb, split: test, templates: [Reviewer Opinion bad good choices]}
"""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """What all three commands are told."""

    model: ModelSettings
    scoring: ScoringSettings
    output: Path = output_option("directory of the results; a second run computes what is missing")
    data_dir: Path | None = data_dir_option()
    templates_dir: Path | None = templates_option()
    only: tuple[str, ...] = only_option("tasks of the set")
    max_tokens: int | None = option(
        None, f"tokens per batch (default: by device, {BY_DEVICE})", at_least=1, at_most=100 * MOST_TOKENS
    )
    length_normalize: bool = option(False, "report the mean per token beside the sum")
    save_predictions: bool = option(False, "keep the log-probabilities of every example")


@dataclass(frozen=True, kw_only=True)
class T0(Evaluate):
    """The 11 data sets of T0 Eval."""

    name: ClassVar[str] = "t0"
    examples: ClassVar[str] = T0_EXAMPLES

    def run(self) -> None:
        from eval.tasks import built_in_tasks

        evaluate(self, built_in_tasks("t0"))


@dataclass(frozen=True, kw_only=True)
class Mmlu(Evaluate):
    """The 57 subjects of MMLU."""

    name: ClassVar[str] = "mmlu"
    examples: ClassVar[str] = MMLU_EXAMPLES
    split: Literal["validation", "test"] = option("validation", "1,531 or 14,042 questions")
    passages: Path | None = option(None, "passages per question, of metro-t0-eval retrieve", metavar="FILE")
    top_k: int = option(5, "passages added to a prompt (the paper: 5)", at_least=1, at_most=1000)

    def run(self) -> None:
        from eval.mmlu import load_passages, question_key, with_passages
        from eval.tasks import built_in_tasks
        from metro_t0.files import sha256_of

        if self.passages is None:
            return evaluate(self, built_in_tasks("mmlu", self.split), {"split": self.split})
        passages = load_passages(self.passages)

        def add_passages(row: Mapping[str, Any], source: str) -> str:
            key = question_key(row)
            if key not in passages:
                raise UserError(
                    f"{self.passages}: no passages for the question {row['question'][:80]!r}; retrieve again"
                )
            return with_passages(source, passages[key][: self.top_k])

        what = {"split": self.split, "passages": sha256_of(self.passages)[:16], "top_k": self.top_k}
        return evaluate(self, built_in_tasks("mmlu", self.split), what, add_passages)


@dataclass(frozen=True, kw_only=True)
class Tasks(Evaluate):
    """Data sets of your own choice."""

    name: ClassVar[str] = "tasks"
    examples: ClassVar[str] = TASKS_EXAMPLES
    tasks: str = option(
        help="task set by name (btzsc, embedded), or a YAML file that lists data sets and templates", metavar="TASKS"
    )

    def run(self) -> None:
        from eval.tasks import task_set_of

        evaluate(self, task_set_of(self.tasks))


def evaluate(
    options: Evaluate,
    task_set: TaskSet,
    more_settings: Mapping[str, Any] | None = None,
    edit_source: EditSource | None = None,
) -> None:
    """Score, write summary and report, print the table."""
    from eval.distributed import processes
    from eval.loading import open_model
    from eval.results import ResultsDirectory
    from eval.runner import Evaluation, find_data, task_templates
    from eval.scorer import ChoiceScorer

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    selected = task_set.selected(options.only)
    plan = {t.name: [p.name for p in task_templates(t, options.templates_dir)] for t in task_set.tasks}
    model = open_model(options.model)
    found, missing = find_data(selected, options.data_dir, options.templates_dir)
    run = {"task_set": task_set.name, **model.identity, **asdict(options.scoring), **(more_settings or {})}
    with processes() as group, ExitStack() as held:
        directory = ResultsDirectory(options.output)
        if group.is_first:
            held.enter_context(directory.claimed(run))
            directory.plan = plan

        def load() -> ChoiceScorer:
            loaded = model.load()
            return ChoiceScorer(loaded, options.scoring, options.max_tokens or MAX_TOKENS[loaded.model.device.type])

        evaluation = Evaluation(
            load=load,
            settings=options.scoring,
            results=directory,
            processes=group,
            run=run,
            save_predictions=options.save_predictions,
            edit_source=edit_source,
        )
        reasons = {task.name: "not selected (--only)" for task in task_set.tasks if task not in selected.tasks}
        reasons |= missing | evaluation.evaluate(found)
        if group.is_first:
            _finish(directory, reasons, options.length_normalize)


def _finish(directory: ResultsDirectory, reasons: dict[str, str], length_normalize: bool) -> None:
    from eval.report import write_report
    from eval.summary import summarize_directory, write_summary

    summary = summarize_directory(directory, reasons)
    write_summary(directory, summary)
    shown = [summary, summary.with_length_normalization()] if length_normalize else [summary]
    report = write_report(directory.path, shown)
    print_summaries(shown)
    print(f"report: {report}")


def print_summaries(summaries: Sequence[Summary]) -> None:
    """The table for the person at the terminal."""
    from eval.tables import task_rows

    header, rows = task_rows(summaries)
    print_table(header, rows, title=f"{summaries[0].task_set}: accuracy in percent +- standard error", last=1)
    for name, reason in summaries[0].missing.items():
        print(printable(f"not scored: {name}: {reason}"))


COMMANDS = (T0, Mmlu, Tasks)
