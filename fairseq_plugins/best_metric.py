"""The --best-checkpoint-metric: one that validation does not have, and another one than the checkpoint was chosen by.

- fairseq asks for it between the first validation and the checkpoint, and fails with the name alone. Here the run ends
  in one line, after its checkpoint.
- fairseq goes on with the best value of the other metric, which may never be reached: no checkpoint would be the best
  any more, and --patience would end the run.
"""

from __future__ import annotations

import functools
from typing import Any

from fairseq import checkpoint_utils
from fairseq.logging import metrics
from omegaconf import OmegaConf

from fairseq_plugins import run as runs
from fairseq_plugins.before_training import training_modules
from fairseq_plugins.differences import DATA_FILES
from fairseq_plugins.errors import agree
from fairseq_plugins.finished import PATIENCE
from metro_t0.errors import UserError, nearest

CHOSEN_BY = ("best_checkpoint_metric", "maximize_best_checkpoint_metric")


def install() -> None:
    """Look after fairseq's validations, and what it loads."""
    for module in training_modules():
        if not getattr(module.validate, "patched", False):
            module.validate = _saving(module.validate)  # type: ignore[attr-defined]
    load = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(load, "compares", False):
        return

    @functools.wraps(load)
    def load_checkpoint_to_cpu(*arguments: Any, **settings: Any) -> Any:
        state = load(*arguments, **settings)
        if runs.current is not None:
            forget_other_best(state, runs.current.cfg.checkpoint)
        return state

    load_checkpoint_to_cpu.compares = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


def forget_other_best(state: dict[str, Any], options: Any) -> None:
    """Leave out of a checkpoint what a run with these options cannot compare its validations with.

    That is the best value of another metric, and what --patience has seen where fairseq leaves the best value out, too.
    """
    trained = state.get("cfg") or OmegaConf.create()
    before = {name: OmegaConf.select(trained, f"checkpoint.{name}", default=options[name]) for name in CHOSEN_BY}
    extra = state["extra_state"]
    is_other = any(before[name] != options[name] for name in CHOSEN_BY)
    if is_other:
        extra.pop("best", None)
    if is_other or options.reset_optimizer or options.reset_meters:
        for of_task in (value for value in extra.values() if isinstance(value, dict) and DATA_FILES in value):
            for name in PATIENCE:
                of_task.pop(name, None)


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
