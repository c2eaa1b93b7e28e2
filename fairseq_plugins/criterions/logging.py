"""What criterions log, as Python numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def summed(logging_outputs: Sequence[dict[str, Any]]) -> defaultdict[str, float]:
    """The sum of every key over processes and accumulation steps; 0 of a key that is nowhere.

    All that lies on a device comes over at once: fairseq's meters would wait for the device at each number.
    """
    keys = dict.fromkeys(key for log in logging_outputs for key in log)
    totals = {key: sum(log.get(key, 0) for log in logging_outputs) for key in keys}
    on_device = {key: total.double() for key, total in totals.items() if isinstance(total, Tensor)}
    numbers = torch.stack(list(on_device.values())).tolist() if on_device else []
    return defaultdict(float, totals | dict(zip(on_device, numbers, strict=True)))
