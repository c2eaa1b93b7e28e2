"""A finished run that is started again says so and changes nothing.

fairseq asks whether to stop only after an update, so it would train one more each time, and write checkpoints over
those of the run. It also forgets at every restart for how many validations --patience has waited and, in what it logs
as `wall`, the time before (or logs 0), takes the hours of the checkpoint that is fine-tuned for the run's own, and
begins at update 0 where a checkpoint has no optimizer state.
"""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from fairseq.logging import metrics

from fairseq_plugins import run as runs
from fairseq_plugins.before_training import training_modules
from fairseq_plugins.console import begin_file, say
from fairseq_plugins.errors import agree
from metro_t0.errors import UserError

PATIENCE = ("best", "num_runs")
"""What fairseq keeps, as attributes of a function, to stop early."""


def install() -> None:
    """Look at a run after its checkpoint was loaded, before anything is trained."""
    original = checkpoint_utils.load_checkpoint
    if getattr(original, "patched", False):
        return

    @functools.wraps(original)
    def load_checkpoint(options: Any, trainer: Any, **settings: Any) -> Any:
        state, batches = original(options, trainer, **settings)
        lost = state is not None and lost_updates(options, trainer)
        if lost:
            trainer.set_num_updates(lost)
        # Of several processes it is their mean, a tensor.
        before = float(trainer._previous_training_time) if trainer.get_num_updates() else 0.0
        trainer._previous_training_time = before
        metrics.get_meter("default", "wall").start_time = time.perf_counter() - before
        reason = None if state is None else why_finished(trainer, batches)
        if lost and not reason:
            agree(lambda: refuse_without_optimizer(lost))
        trainer.finished = reason is not None
        if runs.current is not None:
            runs.current.trainer = trainer
        if reason:
            say(f"{options.save_dir}: finished, nothing is changed: {reason}")
            trainer.cfg.dataset.disable_validation = True  # else fairseq reads all of it for a trial
        return state, batches

    load_checkpoint.patched = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint = load_checkpoint
    for module in training_modules():
        module.train = _train_unless_finished(module.train)  # type: ignore[attr-defined]


def lost_updates(options: Any, trainer: Any) -> int:
    """The updates of a checkpoint that fairseq does not count, because it was written without optimizer state."""
    run = runs.current
    if run is None or not run.resumes or options.reset_optimizer or trainer.get_num_updates():
        return 0
    return int(trainer._optim_history[-1]["num_updates"])


def refuse_without_optimizer(updates: int) -> None:
    """Raise `UserError`: going on is another training than the one that was stopped."""
    run = runs.current
    assert run is not None
    without, reset = (run.option("checkpoint", name) for name in ("no_save_optimizer_state", "reset_optimizer"))
    raise UserError(
        f"the checkpoint of {updates} updates has no optimizer state ({without}), so that training cannot go on: "
        f"begin at update 0 with its weights, {reset}, or choose another {run.option('checkpoint', 'save_dir')}"
    )


def _train_unless_finished(train: Any) -> Any:
    @functools.wraps(train)
    def train_epoch(cfg: Any, trainer: Any, task: Any, batches: Any) -> Any:
        if getattr(trainer, "finished", False):
            return [None], True
        begin_file(Path(cfg.checkpoint.save_dir))
        return train(cfg, trainer, task, batches)

    return train_epoch


def why_finished(trainer: Any, batches: Any) -> str | None:
    """The reason not to train any more, in words, or None."""
    run = runs.current
    assert run is not None
    limits, updates = run.cfg.optimization, trainer.get_num_updates()
    option = functools.partial(run.option, "optimization")
    hours = trainer.cumulative_training_time() / 3600
    if updates >= (limits.max_update or math.inf):
        return f"{updates} updates of {option('max_update')} {limits.max_update}; raise it to train on"
    if batches.next_epoch_idx > (limits.max_epoch or math.inf):
        return f"{batches.next_epoch_idx - 1} epochs of {option('max_epoch')} {limits.max_epoch}; raise it to train on"
    if 0 < limits.stop_time_hours < hours:
        return f"{hours:.2f} hours of {option('stop_time_hours')} {limits.stop_time_hours}; raise it to train on"
    waited = patience_so_far().get("num_runs", 0)
    if 0 < run.cfg.checkpoint.patience <= waited:
        return f"{waited} validations without a better one, as {run.option('checkpoint', 'patience')} says"
    return None


def patience_so_far() -> dict[str, Any]:
    """The best validation loss, and how many validations were no better since."""
    *_, module = training_modules()
    asked = vars(module.should_stop_early)
    return {name: asked[name] for name in PATIENCE if name in asked}


def restore_patience(state: dict[str, Any]) -> None:
    """The inverse, with what a checkpoint holds."""
    for module in training_modules():
        for name in PATIENCE:
            if name in state:
                setattr(module.should_stop_early, name, state[name])
