"""`metro-t0-eval report`: the report of one results directory, or several side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from eval.commands.evaluate import print_table
from eval.report import write_report
from eval.results import ResultsDirectory
from eval.summary import summarize_directory
from metro_t0.errors import UserError

EXAMPLES = """examples:
  metro-t0-eval report results/mine                                         # again, into the same directory
  metro-t0-eval report results/t5 results/metro --output results/compared   # the first is the reference
"""


def register(subcommands: Any) -> None:
    """Add the command."""
    parser = subcommands.add_parser(
        "report", help="tables, figures and page of one or more results directories", epilog=EXAMPLES
    )
    parser.add_argument(
        "results", type=Path, nargs="+", help="results directories; further ones are compared with the first"
    )
    parser.add_argument("--output", type=Path, help="directory of the report (needed for several results)")
    parser.add_argument("--length-normalize", action="store_true", help="report the mean per token beside the sum")
    parser.set_defaults(body=_report)


def _report(options: argparse.Namespace) -> int:
    if options.output is None and len(options.results) > 1:
        raise UserError("--output is needed: several results need a directory of their own for the report")
    summaries = [summarize_directory(ResultsDirectory(path)) for path in options.results]
    sets = {summary.task_set for summary in summaries}
    if len(sets) > 1:
        raise UserError(f"these are results of different task sets ({', '.join(sorted(sets))}); report each set alone")
    names = [summary.model for summary in summaries]
    if len(set(names)) < len(names):
        summaries = [summary.named(str(path)) for summary, path in zip(summaries, options.results, strict=True)]
    if options.length_normalize:
        summaries += [summary.with_length_normalization() for summary in summaries]
    page = write_report(options.output or options.results[0], summaries)
    print_table(summaries)
    print(f"report: {page}")
    return 0
