"""Are command lines of fairseq-train right? `python -m fairseq_plugins.arguments < commands.json` says so.

Standard input: {"name": [argument, ...], ...}. Exit status 2 and one line for the first that fairseq, or the task, the
model or the criterion that it names, would refuse before reading data.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys

from fairseq import options, tasks
from fairseq.criterions import build_criterion
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY

from fairseq_plugins.errors import clear_errors
from fairseq_plugins.models.metro_t5 import MetroT5Model, model_config
from fairseq_plugins.ranges import check_numbers
from fairseq_plugins.run import Run


def problem_of(arguments: list[str]) -> str | None:
    """What fairseq's parser says against a command line, or None."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = options.parse_args_and_arch(options.get_training_parser(), input_args=arguments)
            cfg = convert_namespace_to_omegaconf(parsed)
            with clear_errors():
                check_numbers(Run(cfg, by_keys=False))
            task = tasks.setup_task(cfg.task)
            if issubclass(ARCH_MODEL_REGISTRY[parsed.arch], MetroT5Model):
                with clear_errors():
                    task.adapt_model(model_config(cfg.model, len(task.source_dictionary)))
            build_criterion(cfg.criterion, task)
    except (argparse.ArgumentError, ValueError, KeyError) as error:
        return str(error)
    except SystemExit:
        lines = said.getvalue().strip().splitlines()
        return lines[-1].partition("error: ")[2] or lines[-1] if lines else "cannot be read"
    return None


def main() -> int:
    """Check the command lines on standard input."""
    for name, arguments in json.load(sys.stdin).items():
        if (problem := problem_of(arguments)) is not None:
            print(f"{name}: {' '.join(problem.split())}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
