"""`metro-t0-eval`: zero-shot evaluation by rank classification."""

from __future__ import annotations

import sys

from eval.commands import evaluate, generate, lm_eval_tasks, report, retrieve, templates
from metro_t0.command import Parser, run

PROGRAM = "metro-t0-eval"
COMMANDS = (evaluate, templates, report, retrieve, lm_eval_tasks, generate)


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: that of the process) and give its exit status."""
    parser = Parser(
        prog=PROGRAM, description="Zero-shot evaluation of sequence-to-sequence models by rank classification."
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(subcommands)
    options = parser.parse_args(argv)
    return run(PROGRAM, lambda: options.body(options))


if __name__ == "__main__":
    sys.exit(main())
