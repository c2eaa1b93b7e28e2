"""On a GPU, what an update logs stays on the device until somebody reads it: every --log-interval updates.

fairseq takes losses, norm and counts to the host after every update, so that the GPU has nothing to do until the next
one is prepared. Here the updates of an interval come over at once, and then go into fairseq's meters one by one, so
that every logged number is the same. Batches of validation come over when it ends.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch import Tensor

from fairseq_plugins import deferred_checks, divergence

MOST = 1000
"""Updates that wait at most."""
MOST_VALIDATED = 100
"""Batches of validation that wait at most: a detector's score counts are half a megabyte each."""

_trainers: list[Trainer] = []
"""The trainer of this process, as soon as it has logged something."""


def install() -> None:
    """Defer once."""
    log = Trainer._reduce_and_log_stats
    if getattr(log, "patched", False):
        return

    @functools.wraps(log)
    def reduce_and_log_stats(self: Any, logging_outputs: Any, sample_size: Any, grad_norm: Any = None) -> Any:
        if not defers(self):
            return log(self, logging_outputs, sample_size, grad_norm)
        if grad_norm is None:
            return _validated(log, self, logging_outputs, sample_size)
        grad_norm = grad_norm.as_subclass(Tensor)
        self.waiting_logs = [*getattr(self, "waiting_logs", []), (logging_outputs, sample_size, grad_norm)]
        is_first = self not in _trainers
        if is_first:
            _trainers[:] = [self]
        if is_first or len(self.waiting_logs) >= MOST:  # meters of speed count from the first update on
            flush()
        return {}

    aggregate = metrics.aggregate

    @contextlib.contextmanager
    def aggregate_validation(name: str | None = None, new_root: bool = False) -> Iterator[Any]:
        with aggregate(name, new_root) as meters:
            yield meters
            for trainer in _trainers if new_root else []:
                if getattr(trainer, "waiting_validation", None) is not None:
                    _flush_validation(log, trainer)
                    trainer.waiting_validation = None

    def flush() -> None:
        for trainer in _trainers:
            waiting, trainer.waiting_logs = on_host(getattr(trainer, "waiting_logs", [])), []
            first = trainer.get_num_updates() - len(waiting) + 1
            with metrics.aggregate("train_inner"):
                for number, update in enumerate(waiting, first):
                    divergence.check_loss(trainer, log(trainer, *update), number)

    def settle_and_flush() -> None:
        for trainer in _trainers:
            deferred_checks.settle(trainer)
        flush()

    reduce_and_log_stats.patched = True  # type: ignore[attr-defined]
    Trainer._reduce_and_log_stats = reduce_and_log_stats
    Trainer.state_dict = _after(flush, Trainer.state_dict)  # checkpoints hold the meters
    # Both are called in all processes, which end together.
    checkpoint_utils.save_checkpoint = _after(settle_and_flush, checkpoint_utils.save_checkpoint)
    metrics.get_smoothed_values = _after(settle_and_flush, metrics.get_smoothed_values)
    metrics.aggregate = aggregate_validation
    metrics.reset = _after(_trainers.clear, metrics.reset)  # another run begins in this process


def _validated(log: Callable[..., Any], trainer: Any, logging_outputs: Any, sample_size: Any) -> Any:
    waiting = getattr(trainer, "waiting_validation", None)
    if waiting is None:  # meters of speed count from the first batch on
        _trainers[:], trainer.waiting_validation = [trainer], []
        return log(trainer, logging_outputs, sample_size)
    waiting.append((logging_outputs, sample_size))
    if len(waiting) >= MOST_VALIDATED:
        _flush_validation(log, trainer)
    return {}


def _flush_validation(log: Callable[..., Any], trainer: Any) -> None:
    waiting, trainer.waiting_validation = on_host(trainer.waiting_validation), []
    with metrics.aggregate("valid"):
        for batch in waiting:
            log(trainer, *batch)


def defers(trainer: Any) -> bool:
    """True on a GPU. On a CPU nothing waits for anything."""
    return bool(trainer.cuda)


def _after(first: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        first()
        return function(*arguments, **settings)

    return call


def on_host(waiting: list[Any]) -> list[Any]:
    """The same nested lists, tuples and dicts with all tensors of one number on the host, fetched in one go."""
    tensors: list[Tensor] = []

    def collect(value: Any) -> None:
        if isinstance(value, Tensor) and value.numel() == 1:
            tensors.append(value)
        elif isinstance(value, dict):
            collect(list(value.values()))
        elif isinstance(value, list | tuple):
            for part in value:
                collect(part)

    collect(waiting)
    if not tensors:
        return waiting
    numbers = iter(torch.stack([tensor.detach().double().reshape(()) for tensor in tensors]).cpu())

    def rebuild(value: Any) -> Any:
        if isinstance(value, Tensor) and value.numel() == 1:
            return next(numbers).to(value.dtype)
        if isinstance(value, dict):
            return {key: rebuild(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(rebuild(part) for part in value)
        return value

    rebuilt: list[Any] = rebuild(waiting)
    return rebuilt
