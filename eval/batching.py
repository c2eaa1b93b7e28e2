"""Work in batches under a token budget, which shrinks when memory runs out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from metro_t0.errors import UserError
from metro_t0.token_budget import length_sorted_batches

logger = logging.getLogger(__name__)


def run_batches(lengths: Sequence[int], max_tokens: int, work: Callable[[list[int], int], None]) -> Iterator[list[int]]:
    """Call `work(indices, max_tokens)` for every batch and yield the indices that are done.

    When `work` runs out of memory the budget is halved for that batch and all that follow.
    Raises `UserError` when a single row is too much.
    """
    pending = deque(length_sorted_batches(lengths, max_tokens))
    while pending:
        batch = pending.popleft()
        try:
            work(batch, max_tokens)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            yield batch
            continue
        # Out of the except block: there the traceback would still hold the tensors that have to go.
        longest = lengths[batch[0]]
        if max_tokens <= longest and len(batch) == 1:
            raise UserError(
                f"out of memory on a single prompt of {longest} tokens; use a smaller model, "
                "--dtype bfloat16 or a smaller --max-source-tokens"
            )
        max_tokens = max(longest, min(max_tokens, longest * len(batch)) // 2)
        logger.warning("out of memory: token budget halved to %d", max_tokens)
        _release_cached_memory()
        left = [*batch, *(index for later in pending for index in later)]
        replanned = length_sorted_batches([lengths[index] for index in left], max_tokens)
        pending = deque([[left[position] for position in group] for group in replanned])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch means that memory ran out (CUDA, MPS and the CPU allocator name it differently)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return any(words in text for words in ("out of memory", "not enough memory", "alloc_failed"))


def _release_cached_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
