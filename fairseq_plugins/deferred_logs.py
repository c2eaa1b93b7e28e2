"""On a GPU, what an update logs stays on the device until somebody reads it: every --log-interval updates.

fairseq takes losses, norm and counts to the host after every update, so that the GPU has nothing to do until the next
one is prepared. Here the updates of an interval come over at once, and then go into fairseq's meters one by one, so
that every logged number is the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch import Tensor

MOST = 1000
"""Updates that wait at most."""

_trainers: list[Trainer] = []
"""The trainer of this process, as soon as it has logged something."""


def install() -> None:
    """Defer once."""
    log = Trainer._reduce_and_log_stats
    if getattr(log, "patched", False):
        return

    @functools.wraps(log)
    def reduce_and_log_stats(self: Any, logging_outputs: Any, sample_size: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None or not defers(self):
            return log(self, logging_outputs, sample_size, grad_norm)
        self.waiting_logs = [*getattr(self, "waiting_logs", []), (logging_outputs, sample_size, grad_norm)]
        is_first = self not in _trainers
        if is_first:
            _trainers[:] = [self]
        if is_first or len(self.waiting_logs) >= MOST:  # meters of speed count from the first update on
            flush()
        return {}

    def flush() -> None:
        for trainer in _trainers:
            waiting, trainer.waiting_logs = on_host(getattr(trainer, "waiting_logs", [])), []
            if waiting:
                with metrics.aggregate("train_inner"):
                    for update in waiting:
                        log(trainer, *update)

    reduce_and_log_stats.patched = True  # type: ignore[attr-defined]
    Trainer._reduce_and_log_stats = reduce_and_log_stats
    Trainer.state_dict = _after(flush, Trainer.state_dict)  # checkpoints hold the meters
    metrics.get_smoothed_values = _after(flush, metrics.get_smoothed_values)


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
