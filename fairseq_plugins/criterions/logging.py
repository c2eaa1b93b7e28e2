"""What criterions log, as Python numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def summed(logging_outputs: Sequence[dict[str, Any]]) -> defaultdict[str, float]:
    """The sum of every number over processes and accumulation steps; 0 of a key that is nowhere.

    All that lies on a device comes over at once: fairseq's meters would wait for the device at each number.
    """
    keys = dict.fromkeys(key for log in logging_outputs for key, value in log.items() if not _is_vector(value))
    totals = {key: sum(log.get(key, 0) for log in logging_outputs) for key in keys}
    on_device = {key: total.double() for key, total in totals.items() if isinstance(total, Tensor)}
    numbers = torch.stack(list(on_device.values())).tolist() if on_device else []
    return defaultdict(float, totals | dict(zip(on_device, numbers, strict=True)))


def summed_vectors(logging_outputs: Sequence[dict[str, Any]], suffix: str) -> dict[str, Tensor]:
    """The sums of the tensors whose keys end with `suffix`, by their names without it, in main memory."""
    keys = dict.fromkeys(key for log in logging_outputs for key in log if key.endswith(suffix))
    return {
        key.removesuffix(suffix): torch.stack([log[key] for log in logging_outputs if key in log]).sum(0).cpu()
        for key in keys
    }


def _is_vector(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0
