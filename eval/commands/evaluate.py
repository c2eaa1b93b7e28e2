"""`metro-t0-eval t0`, `mmlu` and `tasks`: score a model on a task set."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.distributed import processes
from eval.loading import DTYPES, ModelSettings, load_model
from eval.mmlu import load_passages, question_key, with_passages
from eval.report import write_report
from eval.results import ResultsDirectory
from eval.runner import ChoiceScorer, EditSource, Evaluation, ScoringSettings, task_templates
from eval.summary import Summary, summarize_directory, write_summary
from eval.tables import task_rows
from eval.tasks import TaskSet, built_in_tasks, load_tasks
from metro_t0.errors import UserError
from metro_t0.files import sha256_of
from metro_t0.prompts.names import EMBEDDED_NAME

# Where time per token stops falling; on a CPU smaller batches of closer lengths save padding.
MAX_TOKENS = {"cuda": 65536, "mps": 8192, "cpu": 1024}

T0_EXAMPLES = """examples:
  metro-t0-eval t0 --model bigscience/T0_3B --dtype bfloat16 --output results/t0_3b
  metro-t0-eval t0 --model my_model/ --data-dir data/tasks --output results/mine --only rte copa
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


def register(subcommands: Any) -> None:
    """Add the three commands."""
    t0 = subcommands.add_parser("t0", help="the 11 data sets of T0 Eval", epilog=T0_EXAMPLES)
    _add_common(t0)
    t0.set_defaults(body=_evaluate_t0)

    mmlu = subcommands.add_parser("mmlu", help="the 57 subjects of MMLU", epilog=MMLU_EXAMPLES)
    _add_common(mmlu)
    mmlu.add_argument("--split", default="validation", choices=["validation", "test"], help="1,531 or 14,042 questions")
    mmlu.add_argument("--passages", type=Path, help="passages per question, from `metro-t0-eval retrieve`")
    mmlu.add_argument("--top-k", type=int, default=5, help="passages added to a prompt (the paper: 5)")
    mmlu.set_defaults(body=_evaluate_mmlu)

    tasks = subcommands.add_parser("tasks", help="data sets of your own choice", epilog=TASKS_EXAMPLES)
    tasks.add_argument(
        "--tasks", required=True, help="YAML file that lists data sets and templates, or `embedded` (no download)"
    )
    _add_common(tasks)
    tasks.set_defaults(body=_evaluate_tasks)


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="directory or Hugging Face Hub id of a sequence-to-sequence model")
    add("--output", type=Path, required=True, help="directory of the results; a second run computes what is missing")
    add("--revision", help="branch, tag or commit of a Hub model")
    add("--dtype", default="float32", choices=list(DTYPES), help="of weights and activations; log-softmax is float32")
    add("--device", help="cuda, cuda:1, mps or cpu (default: the best present)")
    add("--trust-remote-code", action="store_true", help="run the Python code that comes with the model")
    add(
        "--data-dir", type=Path, help="local data sets, NAME[/SUBSET]/SPLIT.{jsonl,jsonl.gz,parquet} (default: the Hub)"
    )
    add(
        "--templates",
        type=Path,
        metavar="DIR",
        help="template files, NAME[/SUBSET]/templates.yaml (default: promptsource)",
    )
    add("--only", nargs="+", metavar="TASK", help="only these tasks of the set")
    add("--limit", type=int, metavar="ROWS", help="only the first rows of each task, for a quick look")
    add(
        "--max-tokens",
        type=int,
        help="tokens per batch (default: on {})".format(", ".join(f"{k} {v}" for k, v in MAX_TOKENS.items())),
    )
    add("--max-source-length", type=int, default=512, help="tokens of a prompt (default: 512)")
    add("--max-choice-length", type=int, default=256, help="tokens of an answer choice (default: 256)")
    add("--length-normalize", action="store_true", help="report the mean per token beside the sum")
    add("--save-predictions", action="store_true", help="keep the log-probabilities of every example")
    add("--seed", type=int, default=0, help="of templates that draw at random (default: 0)")


def _evaluate_t0(options: argparse.Namespace) -> int:
    return evaluate(options, built_in_tasks("t0"))


def _evaluate_tasks(options: argparse.Namespace) -> int:
    if options.tasks == EMBEDDED_NAME:
        return evaluate(options, built_in_tasks(EMBEDDED_NAME))
    return evaluate(options, load_tasks(Path(options.tasks)))


def _evaluate_mmlu(options: argparse.Namespace) -> int:
    if options.passages is None:
        return evaluate(options, built_in_tasks("mmlu", options.split), {"split": options.split})
    if options.top_k < 1:
        raise UserError(f"--top-k {options.top_k}: give at least 1")
    passages = load_passages(options.passages)

    def add_passages(row: Mapping[str, Any], source: str) -> str:
        key = question_key(row)
        if key not in passages:
            raise UserError(
                f"{options.passages}: no passages for the question {row['question'][:80]!r}; retrieve again"
            )
        return with_passages(source, passages[key][: options.top_k])

    what = {"split": options.split, "passages": sha256_of(options.passages)[:16], "top_k": options.top_k}
    return evaluate(options, built_in_tasks("mmlu", options.split), what, add_passages)


def evaluate(
    options: argparse.Namespace,
    task_set: TaskSet,
    more_settings: Mapping[str, Any] | None = None,
    edit_source: EditSource | None = None,
) -> int:
    """Score, write summary and report, print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    selected = task_set.selected(options.only)
    settings = ScoringSettings(options.max_source_length, options.max_choice_length, options.seed, options.limit)
    for name in ("max_source_length", "max_choice_length", "limit", "max_tokens"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: give at least 1")
    with processes() as group:
        loaded = load_model(
            ModelSettings(options.model, options.revision, options.dtype, options.device, options.trust_remote_code)
        )
        run = {"task_set": task_set.name, **loaded.identity, **asdict(settings), **(more_settings or {})}
        directory = ResultsDirectory(options.output)
        if group.is_first:
            directory.claim(run)
            directory.plan = {t.name: [p.name for p in task_templates(t, options.templates)] for t in task_set.tasks}
        max_tokens = options.max_tokens or MAX_TOKENS[loaded.model.device.type]
        evaluation = Evaluation(
            scorer=ChoiceScorer(loaded, settings, max_tokens),
            settings=settings,
            results=directory,
            processes=group,
            run=run,
            data_dir=options.data_dir,
            templates_dir=options.templates,
            save_predictions=options.save_predictions,
            edit_source=edit_source,
        )
        reasons = {task.name: "not selected (--only)" for task in task_set.tasks if task not in selected.tasks}
        reasons |= evaluation.evaluate(selected)
        if group.is_first:
            _finish(directory, reasons, options.length_normalize)
    return 0


def _finish(directory: ResultsDirectory, reasons: dict[str, str], length_normalize: bool) -> None:
    summary = summarize_directory(directory, reasons)
    write_summary(directory, summary)
    shown = [summary, summary.with_length_normalization()] if length_normalize else [summary]
    report = write_report(directory.path, shown)
    print_table(shown)
    print(f"report: {report}")


def print_table(summaries: Sequence[Summary]) -> None:
    """The table for the person at the terminal."""
    header, rows = task_rows(summaries)
    table = Table(title=f"{summaries[0].task_set}: accuracy in percent +- standard error")
    for i, column in enumerate(header):
        table.add_column(column, justify="right" if i else "left")
    for row in rows[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1])
    Console().print(table)
    for name, reason in summaries[0].missing.items():
        print(f"not scored: {name}: {reason}")
