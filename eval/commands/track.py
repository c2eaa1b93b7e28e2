"""`metro-t0-eval track`: the scores of a results directory into the run of an experiment tracker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from metro_t0.command import Command
from metro_t0.options import option

EXAMPLES = """examples:
  metro-t0-eval track results/mine --update 20000 --to tensorboard:runs/mine/tb   # that of --tensorboard-logdir
  metro-t0-eval track results/mine --update 20000 --to wandb:PROJECT/ID           # WANDB_MODE=offline keeps it here
  metro-t0-eval track results/mine --update 20000 --to mlflow:RUN_ID              # MLFLOW_TRACKING_URI names the store
  metro-t0-eval track results/mine --update 20000 --to trackio:PROJECT/NAME
"""


@dataclass(frozen=True, kw_only=True)
class Track(Command):
    """Log the scores to the run that training logged to."""

    name: ClassVar[str] = "track"
    examples: ClassVar[str] = EXAMPLES
    results: Path = option(help="results directory", positional=True, metavar="DIR")
    to: str = option(help="tracker and run, see below", metavar="TRACKER:PLACE")
    update: int = option(help="updates of the checkpoint that was evaluated", at_least=0, at_most=10**12)

    def run(self) -> None:
        from eval.results import ResultsDirectory
        from eval.summary import summarize_directory
        from eval.tracking import log_scores

        metrics = log_scores(self.to, summarize_directory(ResultsDirectory(self.results)), self.update)
        print(f"{self.to}: {len(metrics)} scores at update {self.update}")
