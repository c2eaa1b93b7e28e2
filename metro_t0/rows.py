"""Token rows of different lengths as one matrix, padded on the right; and the decoder's input made of its target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]


def pad_rows(rows: Sequence[NDArray[np.integer] | Sequence[int]], pad_id: int, least: int = 1) -> Ids:
    """Rows of different lengths -> (B, longest) padded on the right; `least` columns or more."""
    padded = np.full((len(rows), max(least, *(len(row) for row in rows)) if rows else least), pad_id, dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def pad_flat(tokens: Ids, lengths: Ids, pad_id: int, end: int | None = None) -> Ids:
    """Flat rows -> (B, longest) padded on the right; with `end`, that token closes every row."""
    matrix = np.full((len(lengths), int(lengths.max(initial=0)) + (end is not None)), pad_id, dtype=np.int64)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = tokens
    if end is not None:
        matrix[np.arange(len(lengths)), lengths] = end
    return matrix


def shift_right(target: Tensor, start: int) -> Tensor:
    """What a decoder reads: (B, T) ids -> (B, T), `start` first, the last column dropped."""
    return F.pad(target[:, :-1], (1, 0), value=start)
