"""A table of a pretraining run: losses and accuracies on held-out text at start, middle and end, and what a trivial
predictor reaches.

    python scripts/pretraining_table.py runs/quickstart/pretrained --dict runs/quickstart/data/dict.txt

The first argument is the run's save_dir (its train.log is read), or a log file. Losses are in nats. Trivial
predictors: piece frequencies for MLM and CLM, the base rate of replaced tokens for RTD, the majority answer for
accuracies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from metro_t0.analysis.training_log import read_log, trivial_baselines
from metro_t0.command import Parser, run
from metro_t0.errors import UserError
from metro_t0.files import write_text
from metro_t0.objectives.losses import TITLES
from metro_t0.tables import markdown_table


def table_rows(records: list[dict[str, Any]], dict_path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table. Raises `UserError` where the log has no validation."""
    valid = [record for record in records if record["split"].startswith("valid")]
    if not valid:
        raise UserError("the log holds no validation record; train without --disable-validation")
    chosen = [valid[0], valid[len(valid) // 2], valid[-1]]
    trivial = trivial_baselines(dict_path, chosen[-1].get("replaced_share"), chosen[-1].get("replacement_rate"))
    header = ["on held-out text", *(f"update {record['updates']}" for record in chosen), "trivial predictor"]
    rows = [
        [title, *(_number(record.get(metric)) for record in chosen), _number(trivial.get(metric))]
        for metric, title in TITLES.items()
        if metric in chosen[-1]
    ]
    return header, rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main() -> int:
    """Print the table; with --output also write it as Markdown."""
    parser = Parser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--dict", type=Path, required=True, help="dict.txt with the counts of the pieces")
    parser.add_argument("--output", type=Path, help="Markdown file")
    options = parser.parse_args()

    def body() -> None:
        header, rows = table_rows(read_log(options.log), options.dict)
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        if options.output:
            write_text(options.output, markdown_table(header, rows))

    return run("pretraining_table", body)


if __name__ == "__main__":
    raise SystemExit(main())
