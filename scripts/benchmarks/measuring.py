"""Seconds, memory and the ceiling of a device, measured the same way by every benchmark."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def matrix_flops(device: str, dtype: torch.dtype) -> float:
    """Rate of a large matrix product on this machine, the ceiling that MFU is a share of."""
    size = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(8))


def timed(function: Callable[[], object], device: str) -> float:
    """Seconds of one call: on a GPU of wall time, its work included; of processor time where one CPU thread works."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak_gib(function: Callable[[], object], device: str) -> float:
    """GPU memory of one step; on the CPU the process's peak so far, so the smaller model is measured first."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    function()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
