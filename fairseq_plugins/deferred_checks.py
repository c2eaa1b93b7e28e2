"""On a GPU, whether the gradients of an update are numbers is read while the next update is computed.

fairseq asks after every backward pass, and waits until the GPU has nothing left to do. Here the answer travels to the
host beside the next forward and backward pass, and is read before those are applied, and before a checkpoint is
written. The optimizer leaves the weights alone where the answer is no, so that nothing is lost by reading it late.

With several processes the norms of all are compared, as fairseq does; and what fairseq adds up over them (the numbers
to log, and the sample size that gradients are divided by) stays on the device as well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer
from torch import Tensor

from fairseq_plugins import divergence


class TakenAsFinite(Tensor):
    """A norm that says it is finite, without looking: fairseq's question would wait for the device."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        """torch's hook: the one question is answered, everything else computed with plain tensors."""
        if function is torch.isfinite:
            return np.True_
        with torch._C.DisableTorchFunctionSubclass():
            return function(*arguments, **(settings or {}))


class TakenAsPositive(Tensor):
    """A sample size that is none of zero: in `numer / (sample_size or 1.0)` fairseq would wait for the device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return True


@dataclass
class Asked:
    """An update whose answer is on its way."""

    norms: Tensor
    """(processes,) of the gradient, on the device."""
    good: Tensor
    """Whether they are numbers, and the same; on the host once it has arrived."""
    arrived: torch.cuda.Event | None
    samples: list[Any]
    """What the update was computed from, to compute it again."""


def install() -> None:
    """Ask late, once."""
    if getattr(Trainer.clip_grad_norm, "patched", False):
        return
    clip, check, aggregate = Trainer.clip_grad_norm, Trainer._check_grad_norms, Trainer._aggregate_logging_outputs

    @functools.wraps(clip)
    def clip_grad_norm(self: Any, clip_norm: float) -> Tensor:
        norm: Tensor = clip(self, clip_norm)
        if not defers(self):
            return norm
        settle(self)
        ask(self, norm)
        return cast(Tensor, norm.as_subclass(TakenAsFinite))

    @functools.wraps(check)
    def check_grad_norms(self: Any, grad_norm: Tensor) -> None:
        if not isinstance(grad_norm, TakenAsFinite):
            check(self, grad_norm)

    @functools.wraps(aggregate)
    def aggregate_logging_outputs(self: Any, outputs: Any, *sums: Any, ignore: bool = False) -> Any:
        outputs, (size, *others) = aggregate(self, outputs, *sums, ignore=ignore)
        if defers(self) and isinstance(size, Tensor):
            size = torch.where(size == 0, 1, size).as_subclass(TakenAsPositive)
        return outputs, (size, *others)

    clip_grad_norm.patched = True  # type: ignore[attr-defined]
    Trainer.clip_grad_norm, Trainer._check_grad_norms = clip_grad_norm, check_grad_norms
    Trainer._aggregate_logging_outputs = aggregate_logging_outputs
    distributed_utils.all_reduce_dict = all_reduce_dict


def defers(trainer: Any) -> bool:
    """True on a GPU with an optimizer that can skip, where neither fp16 asks anyway nor processes differ on purpose."""
    cfg = trainer.cfg
    return bool(
        trainer.cuda
        and skipping(trainer) is not None
        and not (cfg.common.fp16 or cfg.common.amp or cfg.optimization.use_bmuf)
        and cfg.distributed_training.ddp_backend != "slowmo"
    )


def skipping(trainer: Any) -> Callable[[Tensor], None] | None:
    """`skip_unless` of the optimizer, below fairseq's wrapper for 16 bits."""
    return getattr(getattr(trainer.optimizer, "fp32_optimizer", trainer.optimizer), "skip_unless", None)


def ask(trainer: Any, norm: Tensor) -> None:
    """Send the answer of this update on its way, and tell the optimizer."""
    norms = norm.detach().double().reshape(1)
    if (processes := trainer.data_parallel_world_size) > 1:
        own, norms = norms, norms.new_zeros(processes)
        norms[trainer.data_parallel_rank : trainer.data_parallel_rank + 1] = own
        distributed_utils.all_reduce(norms, group=trainer.data_parallel_process_group)
    good = norms.isfinite().all() & ((norms - norms[0]).abs().max() < 1e-6 * (norms[0] + 1e-6))  # fairseq's tolerance
    skip_unless = skipping(trainer)
    assert skip_unless is not None
    skip_unless(good)
    arrived = None
    if good.is_cuda:
        good = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(good, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
    trainer.asked = Asked(norms, good, arrived, trainer.samples_of_update)


def settle(trainer: Any) -> None:
    """Read the answer of the update before; where it is no, end the run in one line. In all processes or none."""
    asked: Asked | None = getattr(trainer, "asked", None)
    trainer.asked = None
    if asked is None:
        return
    if asked.arrived is not None:
        asked.arrived.synchronize()
    if not bool(asked.good):
        norms = asked.norms.tolist()
        finite = all(map(math.isfinite, norms))
        divergence.repeat(trainer, asked.samples)
        cause = f"the processes have different gradients, of norm {norms}" if finite else "gradients are Nan/Inf"
        divergence.report(trainer, cause, trainer.get_num_updates())


def all_reduce_dict(data: Mapping[str, Any], device: torch.device, group: Any) -> dict[str, Tensor]:
    """fairseq's, in one reduction; numbers of the host travel in pinned memory, for which nobody waits."""
    values = {key: torch.as_tensor(value, dtype=torch.double) for key, value in data.items()}
    ordered = sorted(values, key=lambda key: values[key].device.type == device.type)  # those of the host first
    flat = [values[key].reshape(-1) for key in ordered]
    host = [part for part in flat if part.device.type != device.type]
    if host:
        flat[: len(host)] = [torch.cat(host).pin_memory().to(device, non_blocking=True)]
    total = torch.cat(flat)
    distributed_utils.all_reduce(total, group=group)
    parts = total.split([values[key].numel() for key in ordered])
    reduced = {key: part.view_as(values[key]) for key, part in zip(ordered, parts, strict=True)}
    return {key: reduced[key] for key in data}
