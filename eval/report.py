"""The report of one or more results directories: Markdown tables, figures and one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from eval.figures import bar_plot, dot_plot, find_task, save_figure, task_names
from eval.significance import LEVEL, Comparison, compare
from eval.summary import Summary
from eval.tables import (
    NO_VALUE,
    NOTE,
    paper_rows,
    paper_tables_of,
    partial_note,
    results_markdown,
    task_rows,
)
from metro_t0.files import write_json, write_text
from metro_t0.tables import markdown_table

TEMPLATE_FILE = "report.html"


@dataclass(frozen=True)
class ShownTable:
    """A table of the page."""

    title: str
    header: list[str]
    rows: list[list[str]]
    num_ours: int = 0
    """Rows at the end that are measured, not printed in the paper."""
    note: str = ""
    """Text under the table."""


def write_report(directory: Path, summaries: Sequence[Summary]) -> Path:
    """Write `table.md`, `figures/*.{png,svg}`, `comparison.json` (two models or more) and `report.html`.

    Returns the path of the page, which needs no other file and no network.
    """
    comparisons = {
        f"{other.model} - {summaries[0].model}": compare(summaries[0], other)
        for other in summaries[1:]
        if not other.length_normalized
    }
    text = results_markdown(summaries)
    if comparisons:
        tables = (f"### {t.title}\n\n{markdown_table(t.header, t.rows)}" for t in comparison_tables(comparisons))
        text += "\n" + "\n".join(tables)
        write_json(directory / "comparison.json", comparison_json(comparisons))
    write_text(directory / "table.md", text)
    figures = {
        "Accuracy per prompt template": save_figure(dot_plot(summaries), directory / "figures", "templates"),
        "Mean over templates; whiskers span the templates": save_figure(
            bar_plot(summaries), directory / "figures", "tasks"
        ),
    }
    page = directory / "report.html"
    write_text(page, render_page(summaries, comparisons, figures))
    return page


def render_page(
    summaries: Sequence[Summary], comparisons: Mapping[str, Sequence[Comparison]], figures: Mapping[str, str]
) -> str:
    """The HTML page. figures: SVG elements by caption."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(TEMPLATE_FILE).render(
        summaries=summaries,
        tables=[
            ShownTable("Scores", *task_rows(summaries), note=notes(summaries)),
            *comparison_tables(comparisons),
            *paper_tables(summaries),
        ],
        figures={caption: Markup(svg) for caption, svg in figures.items()},
        confusions=confusions(summaries),
        samples=Markup(json.dumps(samples(summaries), ensure_ascii=False).replace("<", "\\u003c")),
    )


def notes(summaries: Sequence[Summary]) -> str:
    """What stands under the table of scores."""
    return ". ".join(part for part in (partial_note(summaries), NOTE) if part)


def paper_tables(summaries: Sequence[Summary]) -> list[ShownTable]:
    """The paper's tables of this task set with our rows at the end."""
    shown = []
    for table in paper_tables_of(summaries[0].task_set):
        note = ". ".join(part.rstrip(".") for part in (partial_note(summaries), table.note) if part)
        shown.append(ShownTable(table.title, *paper_rows(summaries, table), num_ours=len(summaries), note=note))
    return shown


def comparison_tables(comparisons: Mapping[str, Sequence[Comparison]]) -> list[ShownTable]:
    """Differences with intervals and p-values, a table per pair of models."""
    header = ["task", "difference", "95% interval", "p (bootstrap)", f"templates with McNemar p < {LEVEL}"]
    tables = []
    for title, rows in comparisons.items():
        cells = []
        for row in rows:
            significant = sum(p < LEVEL for p in row.mcnemar.values())
            cells.append(
                [
                    row.name,
                    f"{100 * row.difference:+.2f}",
                    f"{100 * row.low:+.2f} to {100 * row.high:+.2f}",
                    f"{row.p_value:.4f}",
                    f"{significant} of {len(row.mcnemar)}" if row.mcnemar else NO_VALUE,
                ]
            )
        tables.append(ShownTable(f"Paired comparison: {title}", header, cells))
    return tables


def comparison_json(comparisons: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """The comparisons as data."""
    return {
        title: {row.name: {k: v for k, v in vars(row).items() if k != "name"} for row in rows}
        for title, rows in comparisons.items()
    }


def confusions(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Per task, model and template: the counts of (correct, predicted)."""
    shown = []
    for name in task_names(summaries):
        for summary in summaries:
            task = find_task(summary, name)
            if task is None or summary.length_normalized:
                continue
            matrices = [
                {"template": r.template, "labels": r.labels, "rows": r.confusion, "most": max(map(max, r.confusion))}
                for r in task.results
                if r.labels
            ]
            if matrices:
                shown.append({"task": name, "model": summary.model, "matrices": matrices})
    return shown


def samples(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """The examples that the page lets one browse."""
    return [
        {"model": summary.model, "task": task.name, "template": result.template, **sample}
        for summary in summaries
        if not summary.length_normalized
        for task in summary.tasks
        for result in task.results
        for sample in result.samples
    ]
