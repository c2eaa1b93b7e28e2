"""`metro-t0-eval`: zero-shot evaluation by rank classification."""

from __future__ import annotations

import sys

from eval.commands import evaluate, generate, lm_eval_tasks, report, retrieve, templates
from metro_t0.command import Parser, run

PROGRAM = "metro-t0-eval"
EXAMPLES = """examples:
  metro-t0-eval t0 --model bigscience/T0_3B --output results/t0-3b
  metro-t0-eval t0 --model runs/model --data-dir data --output results/mine --save-predictions
  metro-t0-eval mmlu --model google/flan-t5-base --output results/flan
  metro-t0-eval report results/mine results/t0-3b --output report
  metro-t0-eval COMMAND --help"""
COMMANDS = (evaluate, templates, report, retrieve, lm_eval_tasks, generate)


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and give its exit status."""
    description = "Zero-shot evaluation of sequence-to-sequence models by rank classification."
    parser = Parser(prog=PROGRAM, description=description, epilog=EXAMPLES)
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(subcommands)
    options = parser.parse_args(argv)
    return run(PROGRAM, lambda: options.body(options))


if __name__ == "__main__":
    sys.exit(main())
