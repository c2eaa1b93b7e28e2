"""Taking (N, V) logits a few rows at a time, so that what is computed in fp32 never exists for all rows at once."""

from __future__ import annotations

from torch import Tensor

CPU_ELEMENTS, GPU_ELEMENTS = 1 << 20, 1 << 25
"""fp32 numbers of a chunk: 4 MB stay in a CPU core's cache; 128 MB keep a GPU busy between kernel launches."""


def split_rows(values: Tensor, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Chunks of the rows of (N, V) logits; or of another tensor of N rows, cut as the logits `like` are."""
    logits = values if like is None else like
    elements = GPU_ELEMENTS if logits.is_cuda else CPU_ELEMENTS
    rows: tuple[Tensor, ...] = values.split(max(1, elements // logits.size(-1)))
    return rows
