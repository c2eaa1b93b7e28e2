"""Markdown tables in the layout of the METRO-T0 paper, its own rows beside ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval.scores import Score
from eval.summary import Summary
from metro_t0.intervals import wilson_interval
from metro_t0.paper_tables import printed_table
from metro_t0.tables import markdown_table

NO_VALUE = "-"
PARTIAL = "*"
AVERAGES = ("average", "mmlu")
"""Columns of the paper's tables that hold the average of the set."""
NOTE = (
    "Accuracy in percent, +- one standard error. A choice's score is the sum of its tokens' log-probabilities "
    "(their mean where length-normalized); a task's score is the mean over its templates. Chance: uniform guess; "
    "majority: always the most frequent answer. Where all rows are right or all are wrong: the 95% Wilson interval."
)


@dataclass(frozen=True)
class PaperTable:
    """A table printed in the paper."""

    title: str
    groups: list[str]
    """First column: heading of the row's group ("" for none)."""
    models: list[str]
    params: list[str]
    columns: list[str]
    values: list[list[str]]
    note: str = ""


CARDS = (
    "As the model cards say: huggingface.co/HuggingFaceTB/SmolLM2-360M and SmolLM2-135M (lighteval, answer texts), "
    "huggingface.co/Tiiny/SmallThinker-4BA0.6B-Instruct (Qwen3-0.6B, thinking aloud). Other prompts and, for the last, "
    "another way to score than here; all are decoders."
)
PAPER_TABLES = {
    "t0": (("T0 Eval (paper, table 2)", "metro_t0", "table2_t0_eval", ""),),
    "mmlu": (
        ("MMLU (paper, table 3)", "metro_t0", "table3_mmlu", ""),
        ("MMLU by prompt (paper, table 8)", "metro_t0", "table8_mmlu_templates", ""),
        ("MMLU of later models under a billion parameters", "model_cards", "mmlu_under_1b", CARDS),
    ),
}


def paper_tables_of(task_set: str) -> list[PaperTable]:
    """The printed tables that belong to a task set."""
    return [read_paper_table(*table) for table in PAPER_TABLES.get(task_set, ())]


def read_paper_table(title: str, source: str, file: str, note: str = "") -> PaperTable:
    """A printed table: group, model, params, then a column per data set."""
    header, rows = printed_table(source, file)
    return PaperTable(
        title,
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        header[3:],
        [row[3:] for row in rows],
        note,
    )


def results_markdown(summaries: Sequence[Summary]) -> str:
    """All tables of the results of one or more models on one task set."""
    parts = [task_table(summaries), partial_note(summaries), NOTE]
    parts += [paper_layout(summaries, table) for table in paper_tables_of(summaries[0].task_set)]
    parts.append(missing_note(summaries))
    return "\n\n".join(part for part in parts if part) + "\n"


def task_table(summaries: Sequence[Summary]) -> str:
    """One row per task and the average, in Markdown."""
    header, rows = task_rows(summaries)
    rows[-1] = [f"**{cell}**" if cell else "" for cell in rows[-1]]
    return markdown_table(header, rows).rstrip()


def task_rows(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header, and one row per task: accuracy +- standard error per model, then baselines and sizes; last the average.

    Averages over different parts of the set are marked, see `partial_note`.
    """
    names = list(dict.fromkeys(task.name for summary in summaries for task in summary.tasks))
    header = ["task", *(summary.model for summary in summaries), "majority", "chance", "n", "templates"]
    rows = []
    for name in names:
        found = [next((t for t in summary.tasks if t.name == name), None) for summary in summaries]
        first = next(task for task in found if task is not None)
        facts = [f"{100 * first.majority:.2f}", f"{100 * first.chance:.2f}"]
        facts += [str(first.score.n), str(len(first.results))]
        rows.append([name, *(NO_VALUE if task is None else percent(task.score) for task in found), *facts])
    labels = list(dict.fromkeys(summary.average_label for summary in summaries))
    alike = len(labels) == 1 and all(len(summary.tasks) == len(names) for summary in summaries)
    average = [percent(s.average, of_rows=False) + ("" if alike or s.is_complete else PARTIAL) for s in summaries]
    rows.append([labels[0] if alike else "mean", *average, "", "", "", ""])
    return header, rows


def paper_layout(summaries: Sequence[Summary], table: PaperTable) -> str:
    """The paper's table with our rows under it, in Markdown."""
    header, rows = paper_rows(summaries, table)
    for row in rows[-len(summaries) :]:
        row[1] = f"**{row[1]}**"
    parts = [
        f"### {table.title}",
        markdown_table(header, rows, left=(1,)).rstrip(),
        table.note,
        partial_note(summaries),
    ]
    return "\n\n".join(part for part in parts if part)


def paper_rows(summaries: Sequence[Summary], table: PaperTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paper's table, ours last; the average is the first of its numbers.

    Our average over a part of the set is marked, see `partial_note`.
    """
    columns = [c for c in table.columns if c in AVERAGES] + [c for c in table.columns if c not in AVERAGES]
    header = ["", "model", "params", *columns]
    rows = []
    for i, cells in enumerate(zip(table.models, table.params, table.values, strict=True)):
        model, params, values = cells
        repeated = i > 0 and table.groups[i - 1] == table.groups[i]
        by_column = dict(zip(table.columns, values, strict=True))
        rows.append(["" if repeated else table.groups[i], model, params, *(by_column[c] for c in columns)])
    for number, summary in enumerate(summaries):
        average = NO_VALUE if math.isnan(summary.average.value) else f"{100 * summary.average.value:.2f}"
        by_column = {task.name: f"{100 * task.score.value:.2f}" for task in summary.tasks}
        by_column |= dict.fromkeys(AVERAGES, average if summary.is_complete else average + PARTIAL)
        values = [by_column.get(column, NO_VALUE) for column in columns]
        rows.append(["" if number else "Measured here", summary.model, "", *values])
    return header, rows


def partial_note(summaries: Sequence[Summary]) -> str:
    """What the marked averages are means over; empty where none is marked."""
    parts = [f"{summary.model}: {summary.average_label}" for summary in summaries if not summary.is_complete]
    return f"{PARTIAL} not the average of the set: {'; '.join(parts)}" if parts else ""


def missing_note(summaries: Sequence[Summary]) -> str:
    """Which tasks have no data, and why."""
    lines = [
        f"- {summary.model}: {name}: {reason}" for summary in summaries for name, reason in summary.missing.items()
    ]
    return "Not scored:\n\n" + "\n".join(lines) if lines else ""


def percent(score: Score, of_rows: bool = True) -> str:
    """`65.18 +- 1.20`; `-` for a mean over nothing; where all rows are right or all wrong, the 95% Wilson interval.

    of_rows: whether n counts rows; a mean over tasks that are all right or all wrong has no interval.
    """
    if math.isnan(score.value):
        return NO_VALUE
    value = f"{100 * score.value:.2f}"
    if score.standard_error is None:
        return value
    if score.standard_error == 0 and score.value in (0.0, 1.0):  # all rows alike: no error is not what that shows
        low, high = wilson_interval(score.value, score.n)
        return f"{value} ({100 * low:.0f} to {100 * high:.0f})" if of_rows else value
    return f"{value} +- {100 * score.standard_error:.2f}"
