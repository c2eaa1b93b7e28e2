"""Attention probabilities for whoever asks: `with recorded_weights() as weights: model(...)`, eager backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

_open: dict[int, list[Tensor]] = {}  # by thread; empty unless somebody asks


def record(weights: Tensor) -> None:
    """Keep (B, H, Q, S) probabilities where this thread asked for them."""
    if _open and threading.get_ident() in _open:
        _open[threading.get_ident()].append(weights)


@contextmanager
def recorded_weights() -> Iterator[list[Tensor]]:
    """The (B, H, Q, S) probabilities, in fp32, of all eager attention in this thread while the context is open."""
    weights: list[Tensor] = []
    _open[threading.get_ident()] = weights
    try:
        yield weights
    finally:
        del _open[threading.get_ident()]
