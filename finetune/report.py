"""Tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.building import BuildReport
from finetune.examples import READ, RENDERED, SKIPPED, SOURCE_CUT, TARGET_CUT
from finetune.task_files import BUILT

if TYPE_CHECKING:  # scoring loads torch, which building does not need
    from finetune.scoring import TaskScore


def print_build(report: BuildReport, console: Console) -> None:
    """One line per task: rows read, rendered, skipped and why, cut; then the failures."""
    table = Table(title="Tasks", title_justify="left")
    table.add_column("task", overflow="fold")
    for heading in ("rows", "rendered", "skipped", "source cut", "target cut", "cap", "held out"):
        table.add_column(heading, justify="right")
    for record in report.records:
        for task in record["tasks"]:
            table.add_row(*_build_cells(task))
    console.print(table)
    for record in report.records:
        for task in record["tasks"]:
            if task["reason"] and task["status"] == BUILT:
                console.print(f"note: {escape(task['reason'])}", soft_wrap=True)
    for name, reason in report.failures:
        console.print(f"[red]failed:[/red] {escape(name)}: {escape(reason)}", soft_wrap=True)


def _build_cells(task: dict[str, Any]) -> list[str]:
    counts = task["counts"]
    skipped = [f"{counts[why]:,} {why}" for why in SKIPPED if counts.get(why)]
    held_out = task["held_out"]
    cells = [escape(task["name"])]
    cells += [f"{counts.get(key, 0):,}" for key in (READ, RENDERED)]
    cells.append(", ".join(skipped) or "0")
    cells += [f"{counts.get(key, 0):,}" for key in (SOURCE_CUT, TARGET_CUT)]
    cells.append("" if task["cap"] is None else f"{task['cap']:,}")
    cells.append(f"{held_out['counts'].get(RENDERED, 0):,}" if held_out else "")
    return cells


def print_scores(scores: list[TaskScore], console: Console) -> None:
    """One line per task: exact match with its standard error, the majority baseline, token accuracy; and the means."""
    table = Table("task", title="Held-out examples, percent", title_justify="left")
    for heading in ("examples", "exact match", "majority", "tokens"):
        table.add_column(heading, justify="right")
    for score in scores:
        exact = f"{100 * score.exact_match:.1f} ± {100 * score.standard_error:.1f}"
        table.add_row(escape(score.name), f"{score.examples:,}", exact, *_percent(score.majority, score.token_accuracy))
    means = [
        sum(values) / len(scores)
        for values in zip(*((s.exact_match, s.majority, s.token_accuracy) for s in scores), strict=True)
    ]
    table.add_section()
    table.add_row(f"mean of {len(scores)} tasks", f"{sum(s.examples for s in scores):,}", *_percent(*means))
    console.print(table)


def _percent(*shares: float) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]
