"""How sure a share of few examples is."""

from __future__ import annotations

import math

QUANTILE = 1.959963984540054
"""Of the standard normal distribution at 97.5%."""


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of `count` independent examples (Wilson 1927); of none, everything.

    Unlike share +- standard error it has a width where all examples are alike.
    """
    if count == 0:
        return 0.0, 1.0
    z = QUANTILE**2 / count
    middle = share + z / 2
    spread = math.sqrt(z * (share * (1 - share) + z / 4))
    low, high = (middle - spread) / (1 + z), (middle + spread) / (1 + z)
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # rounding must not leave the share outside
