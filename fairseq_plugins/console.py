"""What training prints."""

from __future__ import annotations

import sys

from torch import distributed


def say(line: str) -> None:
    """One line for the user, from the first process."""
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        print(f"metro-t0: {line}", file=sys.stderr, flush=True)
