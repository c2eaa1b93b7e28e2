"""Model FLOPs utilization: what the model's arithmetic needs per second, of what the devices can do."""

from __future__ import annotations

import logging
import time
from functools import lru_cache

import torch
from fairseq.logging import metrics
from torch import distributed

from fairseq_plugins import run as runs

logger = logging.getLogger("fairseq.fairseq_plugins.utilization")  # for the log file
SECONDS = 0.2
SIDES = {"cuda": 8192, "cpu": 1024}


def log_utilization(flops: float) -> None:
    """Log `mfu`, percent of the peak of all devices; flops: of the update that is being logged."""
    peak = peak_of_run()
    metrics.log_speed("_flops", flops, priority=95)
    metrics.log_derived("mfu", lambda meters: round(100 * meters["_flops"].avg / peak, 2), priority=95)


@lru_cache(maxsize=1)
def peak_of_run() -> float:
    """FLOP/s of all devices together: as --peak-tflops says, or as this one shows in large matrix products."""
    run = runs.current
    assert run is not None
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    given = float(getattr(run.cfg.model, "peak_tflops", 0) or 0)
    if given:
        return 1e12 * given * processes
    common = run.cfg.common
    device = torch.device("cuda" if torch.cuda.is_available() and not common.cpu else "cpu")
    half = torch.float16 if common.fp16 else torch.bfloat16 if common.bf16 or common.amp else torch.float32
    measured = measure_peak(device, half)
    name = run.option("model", "peak_tflops")
    logger.info("peak of one device: %.4g TFLOP/s in %s, measured (give %s instead)", measured / 1e12, half, name)
    return measured * processes


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of square matrix products that fill a device, the best of those within a fifth of a second."""
    side = SIDES[device.type]
    a = torch.randn(side, side, device=device).to(dtype)
    times: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < SECONDS or len(times) < 2:
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 2 * side**3 / min(times)
