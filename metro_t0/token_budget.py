"""Batches of rows of similar length whose padded size stays under a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def length_sorted_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices grouped so that (rows) x (longest of them) <= max_tokens, longest rows first.

    Sorting keeps padding small; starting with the longest shows at once whether the budget fits the memory.
    A row longer than the budget has a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
