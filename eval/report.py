"""The report of one or more results directories: Markdown tables, figures and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.summary import Summary
from eval.tables import results_markdown
from metro_t0.files import write_text


def write_report(directory: Path, summaries: Sequence[Summary]) -> Path:
    """Write `table.md`. Returns its path."""
    path = directory / "table.md"
    write_text(path, results_markdown(summaries))
    return path
