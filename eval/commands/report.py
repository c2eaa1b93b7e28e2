"""`metro-t0-eval report`: the report of one results directory, or several side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eval.commands.evaluate import print_summaries
from metro_t0.command import Command
from metro_t0.errors import UserError
from metro_t0.options import option

EXAMPLES = """examples:
  metro-t0-eval report results/mine                                         # again, into the same directory
  metro-t0-eval report results/t5 results/metro --output results/compared   # the first is the reference
"""


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Tables, figures and page of one or more results directories."""

    name: ClassVar[str] = "report"
    examples: ClassVar[str] = EXAMPLES
    results: tuple[Path, ...] = option(
        help="results directories; further ones are compared with the first", positional=True, metavar="DIR"
    )
    output: Path | None = option(None, "directory of the report (needed for several results)", metavar="DIR")
    length_normalize: bool = option(False, "report the mean per token beside the sum")

    def run(self) -> None:
        from eval.report import write_report
        from eval.results import ResultsDirectory
        from eval.summary import summarize_directory

        if self.output is None and len(self.results) > 1:
            raise UserError("--output is needed: several results need a directory of their own for the report")
        summaries = [summarize_directory(ResultsDirectory(path)) for path in self.results]
        sets = {summary.task_set for summary in summaries}
        if len(sets) > 1:
            raise UserError(
                f"these are results of different task sets ({', '.join(sorted(sets))}); report each set alone"
            )
        names = [summary.model for summary in summaries]
        if len(set(names)) < len(names):
            summaries = [summary.named(str(path)) for summary, path in zip(summaries, self.results, strict=True)]
        if self.length_normalize:
            summaries += [summary.with_length_normalization() for summary in summaries]
        page = write_report(self.output or self.results[0], summaries)
        print_summaries(summaries)
        print(f"report: {page}")
