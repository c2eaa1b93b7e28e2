"""When training diverges: one line that says what is no number, at which update, and which checkpoint is still good.

fairseq would repeat the update with hooks that understand tensors only, and end in their traceback. Batches that do not
fit into memory are skipped, as it does, but not without a word; several processes, which would wait for each other,
end.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fairseq import trainer as fairseq_trainer
from torch import Tensor, nn

from fairseq_plugins import run as runs
from fairseq_plugins.errors import agree, refuse
from metro_t0.checkpoint_files import is_intact, peek, sorted_checkpoints
from metro_t0.errors import UserError

logger = logging.getLogger(__name__)
MOST_SKIPPED = 100
"""Updates in a row that a loss scaler may skip: it halves its scale each time, so that none is left then."""
MOST_TOO_LARGE = 10
"""Batches in a row that may be skipped because they do not fit into memory."""


def install() -> None:
    """Watch fairseq's updates."""
    original = fairseq_trainer.Trainer.train_step
    if getattr(original, "patched", False):
        return

    @functools.wraps(original)
    def train_step(self: Any, samples: Any, raise_oom: bool = False) -> Any:
        self.samples_of_update, self.too_large = samples, False
        try:
            log = original(self, samples, raise_oom or self.data_parallel_world_size > 1)
        except FloatingPointError as error:
            report(self, str(error), self.get_num_updates() + 1)
        except RuntimeError:
            if self.too_large:
                refuse(out_of_memory(samples))
            raise
        self.skipped = 0 if log is not None else getattr(self, "skipped", 0) + 1
        if self.too_large:
            skip_too_large(samples, self.skipped)
        if self.skipped > MOST_SKIPPED:
            cause = f"{MOST_SKIPPED} updates in a row had gradients that are no numbers"
            report(self, cause, self.get_num_updates() + 1)
        check_loss(self, log or {}, self.get_num_updates())
        return log

    original_valid_step = fairseq_trainer.Trainer.valid_step

    @functools.wraps(original_valid_step)
    def valid_step(self: Any, sample: Any, raise_oom: bool = False) -> Any:
        self.too_large = False
        try:
            return original_valid_step(self, sample, raise_oom)
        except RuntimeError:
            if self.too_large:
                refuse(f"validation: {out_of_memory([sample or {}], 'batch_size_valid', 'max_tokens_valid')}")
            raise

    log_oom = fairseq_trainer.Trainer._log_oom

    @functools.wraps(log_oom)
    def note_oom(self: Any, error: Exception) -> None:
        self.too_large = True
        log_oom(self, error)

    train_step.patched = True  # type: ignore[attr-defined]
    fairseq_trainer.Trainer.train_step, fairseq_trainer.Trainer._log_oom = train_step, note_oom
    fairseq_trainer.Trainer.valid_step = valid_step
    fairseq_trainer.NanDetector = FirstNoNumber


def skip_too_large(samples: list[Any], in_a_row: int) -> None:
    """Say that an update was skipped; end where no batch seems to fit."""
    if in_a_row >= MOST_TOO_LARGE:
        refuse(f"{in_a_row} updates in a row: {out_of_memory(samples)}")
    logger.warning("skipped: %s", out_of_memory(samples))


def out_of_memory(samples: list[Any], rows: str = "batch_size", tokens: str = "max_tokens") -> str:
    """What did not fit, and what helps; rows, tokens: fields of fairseq's `dataset` that bound a batch."""
    run = runs.current
    assert run is not None
    most = max(sample.get("nsentences", 0) for sample in samples)
    smaller = f"{run.option('dataset', rows)} or {run.option('dataset', tokens)}"
    if rows == "batch_size":
        recompute, freq = run.option("model", "activation_checkpointing"), run.option("optimization", "update_freq")
        smaller += f" (and raise {freq}), or set {recompute}"
    return f"out of memory with {most} rows at a time; lower {smaller}"


def check_loss(trainer: Any, log: dict[str, Any], update: int) -> None:
    """End the run where the loss of an update is no number, although its gradients were."""
    loss = float(log.get("loss", 0.0))
    if not math.isfinite(loss):
        report(trainer, f"the loss is {loss}", update)


class FirstNoNumber:
    """In place of fairseq's NanDetector: notes the first module whose output is not finite, in the update repeated."""

    found = ""
    """What the last repeated update showed, for `report`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        FirstNoNumber.found = _weights(self.model)
        self.handles = [
            module.register_forward_hook(functools.partial(self._look, name))
            for name, module in self.model.named_modules()
            if name
        ]

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for handle in self.handles:
            handle.remove()
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        if not FirstNoNumber.found and gradients:
            wrong = [name for name, gradient in gradients.items() if not _finite(gradient)]
            largest = max(gradients, key=lambda name: float(gradients[name].abs().max()))
            FirstNoNumber.found = f"the gradient of {wrong[-1]}" if wrong else f"the norm of the gradient, by {largest}"

    @staticmethod
    def _look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not FirstNoNumber.found and not all(map(_finite, tensors_in(output))):
            FirstNoNumber.found = f"the output of {name}"


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors of an output of any kind."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif dataclasses.is_dataclass(value):
        yield from tensors_in(vars(value))
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _weights(model: nn.Module) -> str:
    wrong = [name for name, p in model.named_parameters() if not _finite(p)]
    return f"the weight {wrong[0]}" if wrong else ""


def repeat(trainer: Any, samples: list[Any]) -> None:
    """Compute an update again, and note what is no number first: what fairseq does where it looks at once."""
    trainer.zero_grad()
    with FirstNoNumber(trainer.get_model()):
        for sample in samples:
            prepared, _ = trainer._prepare_sample(sample)
            trainer.task.train_step(
                prepared, trainer.model, trainer.criterion, trainer.optimizer, trainer.get_num_updates()
            )


def report(trainer: Any, cause: str, update: int) -> None:
    """End the run with one line. update: the one that failed, counted from 1."""
    run = runs.current
    assert run is not None
    what = f"; first {FirstNoNumber.found}" if FirstNoNumber.found else ""
    lr, clip = run.option("optimization", "lr"), run.option("optimization", "clip_norm")

    # Where the forward pass fails, the weights that the update before made are no good, however finite.
    limit = update - (2 if FirstNoNumber.found.startswith(("the output", "the weight")) else 1)

    def fail() -> None:
        raise UserError(
            f"training diverged at update {update}: {cause}{what}; "
            f"{last_good(Path(run.cfg.checkpoint.save_dir), limit)}; lower {lr} ({trainer.get_lr():g} now) or the "
            f"weights of the losses, or set {clip}"
        )

    agree(fail)


def last_good(directory: Path, most_updates: int) -> str:
    """The newest checkpoint of a run, of at most that many updates, whose weights are numbers, in words."""
    for path in sorted_checkpoints(directory) if directory.is_dir() else []:
        if is_intact(path):
            try:
                state = peek(path)
                updates, weights = state["optimizer_history"][-1]["num_updates"], state["model"]
            except (UserError, KeyError, TypeError, IndexError):
                continue
            if updates <= most_updates and all(map(_finite, tensors_in(weights))):
                return f"the last good checkpoint is {path}"
    return f"{directory} has no checkpoint from before"
