"""The table of all variants in the layout of paper table 4, with the paper's numbers beside."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.steps import Job
from ablation.variants import MIXTURES, Variant
from metro_t0.analysis.figures import write_csv
from metro_t0.errors import UserError
from metro_t0.files import read_json, write_text
from metro_t0.tables import markdown_table, print_table

ABSENT = "-"
TRIVIAL = {"guessing": "chance", "majority": "majority"}
PAPER_TASKS = 11


@dataclass(frozen=True)
class Cell:
    """Mean over seeds, in percent, and how sure it is."""

    mean: float
    deviation: float
    """Standard deviation over seeds; with one seed the standard error of the evaluation."""

    def __str__(self) -> str:
        return f"{self.mean:.2f} +- {self.deviation:.2f}"


@dataclass(frozen=True)
class Row:
    """One variant's scores over its finished seeds."""

    variant: Variant
    average: Cell
    tasks: dict[str, Cell]
    seeds: int
    updates: tuple[int, ...]
    """Pretraining updates of each seed."""
    held_out: Cell | None = None
    """Exact match on held-out rows of the fine-tuning mixture, mean over its tasks."""


def collect(jobs: Sequence[Job]) -> tuple[list[Row], dict[str, dict[str, float]]]:
    """Rows of the variants that have at least one finished seed, and the trivial predictors (percent by task)."""
    rows = []
    trivial: dict[str, dict[str, float]] = {}
    finished = [job for job in jobs if (job.work / "evaluate.done.json").is_file()]
    _check_tasks(finished)
    for variant in dict.fromkeys(job.variant.name for job in jobs):
        mine = [job for job in jobs if job.variant.name == variant]
        done = [job for job in mine if job in finished]
        summaries = [read_json(job.results / "summary.json") for job in done]
        if not summaries:
            continue
        tasks = {name: _cell([s["tasks"][name] for s in summaries]) for name in summaries[0]["tasks"]}
        average = _cell([s["average"] for s in summaries])
        held_out = [held_out_of(job) for job in done if job.scores.is_file()]
        updates = tuple(updates_of(job) for job in done)
        row = Row(mine[0].variant, average, tasks, len(done), updates, _cell(held_out) if held_out else None)
        rows.append(row)
        for title, key in TRIVIAL.items():
            found = {name: 100 * task[key] for name, task in summaries[0]["tasks"].items() if key in task}
            trivial |= {title: found} if found else {}
    return rows, trivial


def _check_tasks(jobs: Sequence[Job]) -> None:
    """Averages over other tasks or rows compare nothing. Raises `UserError`: data changed between two evaluations."""
    tasks = {job.work: read_json(job.results / "summary.json")["tasks"] for job in jobs}
    again = "evaluate.done.json beside it, and give the same command again"
    for work, own in tasks.items():
        if lacking := set[str]().union(*tasks.values()) - own.keys():
            raise UserError(
                f"{work}/eval: lacks task {min(lacking)}, which other variants or seeds have; remove it and {again}"
            )
    for name in next(iter(tasks.values()), {}):
        if len(rows := {own[name]["n"] for own in tasks.values()}) > 1:
            raise UserError(
                f"task {name} was scored on {' and on '.join(map(str, sorted(rows)))} rows; remove the folder eval of "
                f"every variant and seed with {again}"
            )


def updates_of(job: Job) -> int:
    """Pretraining updates; 0 for random weights."""
    marker = job.directory / "pretrain.done.json"
    return read_json(marker)["updates"] if marker.is_file() else 0


def held_out_of(job: Job) -> dict[str, float]:
    """Mean exact match over tasks, and the standard error that the rows of the tasks leave in it."""
    tasks = read_json(job.scores)
    error = sum(task["standard_error"] ** 2 for task in tasks) ** 0.5 / len(tasks)
    return {"value": statistics.fmean(task["exact_match"] for task in tasks), "standard_error": error}


def _cell(scores: Sequence[Mapping[str, Any]]) -> Cell:
    values = [100 * score["value"] for score in scores]
    if len(values) > 1:
        return Cell(statistics.fmean(values), statistics.stdev(values))
    return Cell(values[0], 100 * (scores[0]["standard_error"] or 0.0))


def write_table(jobs: Sequence[Job], output: Path) -> list[Path]:
    """Print the table and write OUTPUT/table.md and OUTPUT/table.csv; returns the paths, none without results."""
    rows, trivial = collect(jobs)
    if not rows:
        return []
    header, lines = _lines(rows, trivial)
    print_table(header, lines, title=_title(rows))
    paths = [output / "table.md", output / "table.csv"]
    write_text(paths[0], f"{_title(rows)}\n\n{markdown_table(header, lines)}")
    write_csv(paths[1], [dict(zip(header, line, strict=True)) for line in lines])
    return paths


def _title(rows: Sequence[Row]) -> str:
    updates = sorted({count for row in rows for count in row.updates if count}) or [0]
    of_updates = f"{updates[0]:,}" if len(updates) == 1 else f"{updates[0]:,} to {updates[-1]:,}"
    return (
        f"Zero-shot accuracy in percent after {of_updates} pretraining updates; +- standard deviation over seeds, "
        "or with one seed the standard error of the evaluation. "
        f"Average over {len(rows[0].tasks)} tasks; the paper's is over {PAPER_TASKS}."
    )


def _lines(rows: Sequence[Row], trivial: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    tasks = list(rows[0].tasks)
    scored = any(row.held_out for row in rows)
    held_out = ["held-out rows"] if scored else []
    header = ["variant", "seeds", *held_out, "average", *tasks, *(f"paper {mixture}" for mixture in MIXTURES)]
    lines = [
        [
            row.variant.title, str(row.seeds), *([str(row.held_out or ABSENT)] if scored else []), str(row.average),
            *(str(row.tasks[task]) for task in tasks),
            *(f"{value:.2f}" for value in row.variant.paper or ()),
        ]
        for row in rows
    ]  # fmt: skip
    for title, by_task in trivial.items():
        values = [f"{statistics.fmean(by_task.values()):.2f}", *(f"{by_task[task]:.2f}" for task in tasks)]
        lines.append([title, ABSENT, *([ABSENT] if scored else []), *values])
    return header, [line + [ABSENT] * (len(header) - len(line)) for line in lines]
