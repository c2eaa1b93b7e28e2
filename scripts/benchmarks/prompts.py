"""Rate of rendering prompts on one core, ours against promptsource's own code in the same run.

    python -m scripts.benchmarks.prompts --data-dir DIR [--tokenizer VOCAB] [--rows 60] [--rounds 5]

promptsource's side does what T0's and METRO-T0's pipelines call per row: `Template.apply` and
`get_answer_choices_list`; `apply` alone is given too. The strongest peer is the same Jinja with each template compiled
once, which is what anybody would write who had seen that promptsource parses it anew for every row. The sides take
turns, template by template, over the same rows, and every output is compared. With --tokenizer, the rate of rendering
and tokenizing is measured as well.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.examples import SliceJob, tokenize_slice
from finetune.planning import PlannedTask
from finetune.settings import BuildSettings
from metro_t0.command import Parser
from metro_t0.progress import progress
from metro_t0.prompts.datasets import DatasetName, Row, available_splits, find_rows, load_rows, local_datasets
from metro_t0.prompts.templates import Template, load_templates, templated_datasets

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import promptsource.templates as promptsource


@dataclass
class Timings:
    """Seconds spent by each side, and how many prompts that was."""

    ours: float = 0.0
    apply_and_choices: float = 0.0
    apply: float = 0.0
    jinja_once: float = 0.0
    built: float = 0.0
    prompts: int = 0
    different: int = 0
    per_template: list[float] = field(default_factory=list)


def main() -> int:
    """Measure and print."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="local data sets, NAME[/SUBSET]/SPLIT.jsonl[.gz]")
    parser.add_argument("--tokenizer", type=Path, help="also measure rendering and tokenizing, with this tokenizer")
    parser.add_argument("--rows", type=int, default=60, help="rows per data set (60)")
    parser.add_argument("--rounds", type=int, default=5, help="times our side repeats the rows, being so fast (5)")
    options = parser.parse_args()
    timings = Timings()
    templated = set(templated_datasets())
    for dataset in progress([d for d in local_datasets(options.data_dir) if d in templated], "data sets"):
        split = available_splits(dataset.name, dataset.subset, options.data_dir)[0]
        rows = list(load_rows(dataset.name, dataset.subset, split, options.data_dir)[: options.rows])
        theirs = promptsource.DatasetTemplates(dataset.name, dataset.subset)
        for name, template in load_templates(dataset.name, dataset.subset).items():
            measure(template, theirs[name], rows, options.rounds, timings)
            if options.tokenizer:
                timings.built += build_seconds(dataset, split, template, len(rows), options)
    report(timings)
    return 1 if timings.different else 0


def measure(template: Template, theirs: Any, rows: list[Row], rounds: int, timings: Timings) -> None:
    """Both sides over the same rows; ours compiled beforehand, as a build does once for thousands of rows."""
    template.compile()
    ours, seconds = timed(lambda: [outcome(template.render_parts, row) for row in rows], rounds)
    applied, apply_seconds = timed(lambda: [outcome(theirs.apply, row) for row in rows], 1)
    choices, choice_seconds = timed(lambda: [outcome(theirs.get_answer_choices_list, row) for row in rows], 1)
    render = jinja_once(theirs)
    _, plain_seconds = timed(lambda: [outcome(render, row) for row in rows], rounds)
    timings.jinja_once += plain_seconds
    timings.ours += seconds
    timings.apply += apply_seconds
    timings.apply_and_choices += apply_seconds + choice_seconds
    timings.prompts += len(rows)
    timings.per_template.append((apply_seconds + choice_seconds) / seconds)
    if "choice" not in template.jinja:  # random choices differ between the two
        expected = [None if a is None else (a, c) for a, c in zip(applied, choices, strict=True)]
        timings.different += sum(a != b for a, b in zip(expected, ours, strict=True))


def jinja_once(template: Any) -> Callable[[Row], Any]:
    """promptsource's own environment, with the two expressions of a template compiled beforehand."""
    body = promptsource.env.from_string(template.jinja)
    choices = promptsource.env.from_string(template.answer_choices) if template.answer_choices else None

    def render(row: Row) -> Any:
        listed = None
        if choices is not None:
            listed = [choice.strip() for choice in choices.render(**row).split("|||")]
        parts = body.render(**{"answer_choices": listed, **row}).split("|||")
        return [part.strip() for part in parts], listed

    return render


LEAST_SECONDS = 0.05
"""Processor time of a measurement: some clocks tick a hundred times a second."""


def timed(work: Callable[[], list[Any]], rounds: int) -> tuple[list[Any], float]:
    """The result and the mean seconds of processor time of a round (other programs do not count); `rounds` at least."""
    start, done, seconds = time.process_time(), 0, 0.0
    while done < rounds or seconds < LEAST_SECONDS:
        result = work()
        done, seconds = done + 1, time.process_time() - start
    return result, seconds / done


def outcome(function: Callable[[Row], Any], row: Row) -> Any:
    """The result, or None for a row on which the template fails."""
    try:
        return function(row)
    except Exception:
        return None


def build_seconds(dataset: DatasetName, split: str, template: Template, rows: int, options: Any) -> float:
    """Seconds to read, render and tokenize the same rows for one template."""
    settings = BuildSettings(tokenizer=options.tokenizer, data_dir=options.data_dir)
    task = PlannedTask("benchmark", template, dataset, validated=False)
    source = find_rows(dataset.name, dataset.subset, split, options.data_dir)
    _, seconds = timed(lambda: tokenize_slice(SliceJob(source, split, np.arange(rows), (task,), settings)), 2)
    return seconds


def report(timings: Timings) -> None:
    """Rates in prompts per second, and ratios."""
    count, templates = timings.prompts, len(timings.per_template)
    print(f"{count} prompts of {templates} templates, one core; outputs that differ: {timings.different}")
    for name, seconds in vars(timings).items():
        if isinstance(seconds, float) and seconds:
            print(f"  {name:18} {count / seconds:10,.0f} prompts/s  {1e6 * seconds / count:8.1f} us/prompt")
    low, middle, high = np.percentile(timings.per_template, [5, 50, 95])
    print(f"apply and choices / ours: {timings.apply_and_choices / timings.ours:.0f}x in all", end="; ")
    print(f"by template: median {middle:.0f}x, 5th to 95th percentile {low:.0f}x to {high:.0f}x")
    print(f"apply alone / ours: {timings.apply / timings.ours:.0f}x")
    print(f"plain Jinja, compiled once / ours: {timings.jinja_once / timings.ours:.1f}x")


if __name__ == "__main__":
    sys.exit(main())
