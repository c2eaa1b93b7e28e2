"""Tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.building import BuildReport
from finetune.examples import READ, RENDERED, SKIPPED, SOURCE_CUT, TARGET_CUT
from finetune.task_files import BUILT
from metro_t0.errors import printable
from metro_t0.intervals import wilson_interval
from metro_t0.tables import print_table

if TYPE_CHECKING:  # scoring loads torch, which building does not need
    from finetune.scoring import TaskScore


def print_build(report: BuildReport) -> None:
    """One line per task: rows read, rendered, skipped and why, cut; then the failures."""
    tasks = [task for record in report.records for task in record["tasks"]]
    header = ("task", "rows", "rendered", "skipped", "source cut", "target cut", "cap", "held out")
    print_table(header, [_build_cells(task) for task in tasks], title="Tasks")
    for task in tasks:
        if task["reason"] and task["status"] == BUILT:
            print(printable(f"note: {task['reason']}"))
    for name, reason in report.failures:
        print(printable(f"failed: {name}: {reason}"))


def _build_cells(task: dict[str, Any]) -> list[str]:
    counts = task["counts"]
    skipped = [f"{counts[why]:,} {why}" for why in SKIPPED if counts.get(why)]
    held_out = task["held_out"]
    cells = [task["name"]]
    cells += [f"{counts.get(key, 0):,}" for key in (READ, RENDERED)]
    cells.append(", ".join(skipped) or "0")
    cells += [f"{counts.get(key, 0):,}" for key in (SOURCE_CUT, TARGET_CUT)]
    cells.append("" if task["cap"] is None else f"{task['cap']:,}")
    cells.append(f"{held_out['counts'].get(RENDERED, 0):,}" if held_out else "")
    return cells


def print_scores(scores: list[TaskScore]) -> None:
    """One line per task: exact match with its 95% interval, the majority baseline, token accuracy; and the means."""
    rows = []
    for score in scores:
        low, high = wilson_interval(score.exact_match, score.examples)
        exact = f"{100 * score.exact_match:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        rows.append((score.name, f"{score.examples:,}", exact, *_percent(score.majority, score.token_accuracy)))
    means = [
        sum(values) / len(scores)
        for values in zip(*((s.exact_match, s.majority, s.token_accuracy) for s in scores), strict=True)
    ]
    rows.append((f"mean of {len(scores)} tasks", f"{sum(s.examples for s in scores):,}", *_percent(*means)))
    header = ("task", "examples", "exact match", "majority", "tokens")
    print_table(header, rows, title="Held-out examples, percent (95% Wilson interval)", last=1)


def _percent(*shares: float) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares]
