"""`metro-t0-eval`: zero-shot evaluation by rank classification."""

from __future__ import annotations

from eval.commands.evaluate import T0, Mmlu, Tasks
from eval.commands.generate import Generate
from eval.commands.lm_eval_tasks import LmEvalTasks
from eval.commands.report import Report
from eval.commands.retrieve import Retrieve
from eval.commands.templates import Templates
from eval.commands.track import Track
from metro_t0.command import Program

PROGRAM = "metro-t0-eval"
EXAMPLES = """examples:
  metro-t0-eval t0 --model bigscience/T0_3B --output results/t0-3b
  metro-t0-eval t0 --model runs/model --data-dir data --output results/mine --save-predictions
  metro-t0-eval mmlu --model google/flan-t5-base --output results/flan
  metro-t0-eval report results/mine results/t0-3b --output report
  metro-t0-eval COMMAND --help"""
main = Program(
    PROGRAM,
    "Zero-shot evaluation of sequence-to-sequence models by rank classification.",
    (T0, Mmlu, Tasks, Templates, Report, Track, Retrieve, LmEvalTasks, Generate),
    EXAMPLES,
)

if __name__ == "__main__":
    raise SystemExit(main())
