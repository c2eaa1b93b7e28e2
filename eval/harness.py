"""lm-evaluation-harness with this project's model class: `python -m eval.harness` takes the arguments of `lm_eval`.

Needed for versions up to 0.4.13, which know their own models only; later ones find `--model metro-t0` by the package's
entry point, under their own command.
"""

from __future__ import annotations

import sys

from metro_t0.command import run
from metro_t0.errors import UserError


def main() -> int:
    """Run the harness's command with the process's arguments."""
    return run("eval.harness", _evaluate)


def _evaluate() -> None:
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        raise UserError("lm-evaluation-harness is not installed: pip install 'lm_eval>=0.4.13'") from None
    import eval.lm_eval_model  # noqa: F401  registers metro-t0

    cli_evaluate()


if __name__ == "__main__":
    sys.exit(main())
