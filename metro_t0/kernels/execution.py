"""How layers are run: compiled, recomputed in the backward pass, with which of torch's attention kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

CUDA_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""In this order, the first that takes a call; torch's versions order them differently. cuDNN's is the fastest of all
but plans anew for every shape, so it comes first where shapes are fixed."""


def run_layer(layer: nn.Module, x: Tensor, recompute: bool, fixed_shapes: bool, **settings: Any) -> Tensor:
    """layer(x, **settings), whose activations the backward pass computes again where `recompute` says so."""

    def kernels() -> AbstractContextManager[None]:
        return _fused_kernels(x.device, fixed_shapes)

    with kernels():
        if not (recompute and torch.is_grad_enabled()):
            return cast(Tensor, layer(x, **settings))
        # What is recomputed is so outside of the forward pass's context.
        contexts: dict[str, Any] = {"context_fn": lambda: (nullcontext(), kernels())}
        return cast(Tensor, checkpoint(layer, x, use_reentrant=False, **contexts, **settings))


def compile_each(layers: nn.ModuleList) -> None:
    """torch.compile for every layer by itself; layers of one kind share their graphs.

    Kinds (encoder, decoder), masks or none, training or not, and the last, smaller batch each need a graph: more than
    the 8 after which torch would silently run layers uncompiled. Cutting graphs at the buckets of data parallelism, as
    torch does by default, is of no use where a graph is a layer.
    """
    from torch._dynamo import config as dynamo  # takes a second to import

    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    dynamo.optimize_ddp = False
    for layer in layers:
        layer.compile()


@functools.cache
def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.compile of a function of tensors, once for all who call it."""
    return torch.compile(function)


def _fused_kernels(device: torch.device, fixed_shapes: bool) -> AbstractContextManager[None]:
    """The kernels of SDPA that may be chosen inside; those of a CPU are torch's choice."""
    if device.type != "cuda":
        return nullcontext()
    first = [SDPBackend.CUDNN_ATTENTION] if fixed_shapes else []
    return sdpa_kernel([*first, *CUDA_KERNELS], set_priority=True)
