"""Markdown tables in the layout of the METRO-T0 paper, its own rows beside ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eval.scores import Score
from eval.summary import Summary
from metro_t0.paper_tables import printed_table

NO_VALUE = "-"
NOTE = (
    "Accuracy in percent, +- one standard error. A choice's score is the sum of its tokens' log-probabilities "
    "(their mean where length-normalized); a task's score is the mean over its templates. Chance: uniform guess; "
    "majority: always the most frequent answer."
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


PAPER_TABLES = {
    "t0": (("T0 Eval (paper, table 2)", "table2_t0_eval"),),
    "mmlu": (
        ("MMLU (paper, table 3)", "table3_mmlu"),
        ("MMLU by prompt (paper, table 8)", "table8_mmlu_templates"),
    ),
}


def read_paper_table(title: str, file: str) -> PaperTable:
    """A printed table: group, model, params, then a column per data set."""
    header, rows = printed_table("metro_t0", file)
    return PaperTable(
        title,
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        header[3:],
        [row[3:] for row in rows],
    )


def results_markdown(summaries: Sequence[Summary]) -> str:
    """All tables of the results of one or more models on one task set."""
    parts = [task_table(summaries), NOTE]
    for title, file in PAPER_TABLES.get(summaries[0].task_set, ()):
        parts.append(paper_layout(summaries, read_paper_table(title, file)))
    parts.append(missing_note(summaries))
    return "\n\n".join(part for part in parts if part) + "\n"


def task_table(summaries: Sequence[Summary]) -> str:
    """One row per task and the average, in Markdown."""
    header, rows = task_rows(summaries)
    rows[-1] = [f"**{cell}**" if cell else "" for cell in rows[-1]]
    return markdown(header, rows)


def task_rows(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header, and one row per task (baselines, then accuracy +- standard error per model); the last is the average."""
    names = list(dict.fromkeys(task.name for summary in summaries for task in summary.tasks))
    header = ["task", "templates", "n", "chance", "majority", *(summary.model for summary in summaries)]
    rows = []
    for name in names:
        found = [next((t for t in summary.tasks if t.name == name), None) for summary in summaries]
        first = next(task for task in found if task is not None)
        facts = [
            str(len(first.results)),
            str(first.score.n),
            f"{100 * first.chance:.2f}",
            f"{100 * first.majority:.2f}",
        ]
        rows.append([name, *facts, *(NO_VALUE if task is None else percent(task.score) for task in found)])
    labels = list(dict.fromkeys(summary.average_label for summary in summaries))
    average = [percent(summary.average) for summary in summaries]
    if len(labels) > 1:
        average = [f"{value} ({summary.average_label})" for value, summary in zip(average, summaries, strict=True)]
    rows.append([labels[0] if len(labels) == 1 else "mean", "", "", "", "", *average])
    return header, rows


def paper_layout(summaries: Sequence[Summary], table: PaperTable) -> str:
    """The paper's table with our rows under it, in Markdown."""
    header, rows = paper_rows(summaries, table)
    for row in rows[-len(summaries) :]:
        row[1] = f"**{row[1]}**"
    return f"### {table.title}\n\n{markdown(header, rows)}"


def paper_rows(summaries: Sequence[Summary], table: PaperTable) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the paper's table, ours last. Our average stands only where the whole set was scored."""
    header = ["", "model", "params", *table.columns]
    rows = []
    for i, cells in enumerate(zip(table.models, table.params, table.values, strict=True)):
        model, params, values = cells
        repeated = i > 0 and table.groups[i - 1] == table.groups[i]
        rows.append(["" if repeated else table.groups[i], model, params, *values])
    for number, summary in enumerate(summaries):
        average = f"{100 * summary.average.value:.2f}"
        if not summary.is_complete:
            average += f" ({summary.average_label})"
        by_column = {task.name: f"{100 * task.score.value:.2f}" for task in summary.tasks}
        by_column |= {"average": average, "mmlu": average}
        values = [by_column.get(column, NO_VALUE) for column in table.columns]
        rows.append(["" if number else "Measured here", summary.model, "", *values])
    return header, rows


def missing_note(summaries: Sequence[Summary]) -> str:
    """Which tasks have no data, and why."""
    lines = [
        f"- {summary.model}: {name}: {reason}" for summary in summaries for name, reason in summary.missing.items()
    ]
    return "Not scored:\n\n" + "\n".join(lines) if lines else ""


def percent(score: Score) -> str:
    """`65.18 +- 1.20`; `-` for a mean over nothing."""
    if math.isnan(score.value):
        return NO_VALUE
    error = "" if score.standard_error is None else f" +- {100 * score.standard_error:.2f}"
    return f"{100 * score.value:.2f}{error}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right, the first column to the left."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[i]) for row in escaped)) for i in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in escaped]
    rule = (
        "|"
        + "|".join((":" if i == 0 else "-") + "-" * w + ("-" if i == 0 else ":") for i, w in enumerate(widths))
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])
