"""The positions of a batch at which a last layer is needed.

Everything but keys and values of a last layer is then computed there alone: exactly the same numbers, for less work.
Shapes: B rows, T columns, N needed positions, C the most of them in a row (rounded up).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WORTHWHILE = 0.75
"""Where rows would be filled beyond this share, the whole layer is computed instead."""


@dataclass(frozen=True)
class Selection:
    """Needed positions, and their places in rows of C queries."""

    positions: Tensor
    """(N,) ascending indices into the flattened (B * T) batch."""
    slots: Tensor
    """(N,) their places in the flattened (B * C) queries."""
    columns: Tensor
    """(B, C) the column of each query; 0 where a row has fewer."""

    def select(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (N, D)."""
        return x.flatten(0, 1)[self.positions]

    def to_rows(self, x: Tensor) -> Tensor:
        """(N, D) -> (B, C, D), zeros where a row has fewer."""
        rows, width = self.columns.shape
        return x.new_zeros(rows * width, x.size(-1)).index_copy(0, self.slots, x).view(rows, width, x.size(-1))

    def from_rows(self, x: Tensor) -> Tensor:
        """(B, C, D) -> (N, D)."""
        return x.flatten(0, 1)[self.slots]


def make_selection(positions: Tensor, most: int | None, rows: int, length: int) -> Selection | None:
    """The selection of (N,) ascending positions with at most `most` in a row, without waiting for the device.

    None where `most` is not known, or so large that nothing would be saved.
    """
    if most is None or most > WORTHWHILE * length:
        return None
    row = positions // length
    first = torch.searchsorted(positions, torch.arange(0, rows * length, length, device=positions.device))
    slots = row * most + torch.arange(positions.numel(), device=positions.device) - first[row]
    columns = positions.new_zeros(rows * most).index_copy(0, slots, positions % length)
    return Selection(positions, slots, columns.view(rows, most))
