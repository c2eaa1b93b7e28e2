"""A --best-checkpoint-metric that validation does not have ends the run in one line, after its checkpoint.

fairseq asks for it between the first validation and the checkpoint, and fails with the name alone.
"""

from __future__ import annotations

import functools
from typing import Any

from fairseq import checkpoint_utils
from fairseq.logging import metrics

from fairseq_plugins import run as runs
from fairseq_plugins.before_training import training_modules
from fairseq_plugins.errors import agree
from metro_t0.errors import UserError, nearest


def install() -> None:
    """Look after fairseq's validations."""
    for module in training_modules():
        if not getattr(module.validate, "patched", False):
            module.validate = _saving(module.validate)  # type: ignore[attr-defined]


def _saving(validate: Any) -> Any:
    @functools.wraps(validate)
    def validate_or_save(cfg: Any, trainer: Any, task: Any, batches: Any, subsets: Any) -> Any:
        try:
            return validate(cfg, trainer, task, batches, subsets)
        except KeyError as error:
            if error.args != (cfg.checkpoint.best_checkpoint_metric,):
                raise
        checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, batches, None)
        agree(lambda: _refuse(cfg.checkpoint))

    validate_or_save.patched = True  # type: ignore[attr-defined]
    return validate_or_save


def _refuse(options: Any) -> None:
    run, metric = runs.current, options.best_checkpoint_metric
    assert run is not None
    names = sorted(name for name in metrics.get_smoothed_values("valid") if not name.startswith("_"))
    option = run.option("checkpoint", "best_checkpoint_metric")
    there = nearest(metric, names) or f"; there are {', '.join(names)}"
    raise UserError(f"{option} {metric}: validation has no such number{there}. {options.save_dir} is saved")
