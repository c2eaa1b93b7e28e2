"""Where a run that is resumed goes on within its epoch, and where an epoch ends.

fairseq stores the number of batches that one process has seen, and skips as many of the resumed run: of other batches
where there are now more or fewer processes or another batch size, so that examples are skipped or seen twice, or no
batch is left. Here the place in the epoch is kept: the same share of it has been seen.
"""

from __future__ import annotations

from typing import Any

from fairseq.data import iterators
from fairseq.data.iterators import EpochBatchIterator, GroupedIterator

IN_EPOCH = "batches_in_epoch"
"""Batches of one process in the whole epoch, beside fairseq's own entries of the state."""


def install() -> None:
    """Replace both directions, and what makes updates of batches."""
    if getattr(EpochBatchIterator.state_dict, "patched", False):
        return
    state_dict, load_state_dict = EpochBatchIterator.state_dict, EpochBatchIterator.load_state_dict

    def with_length(self: Any) -> dict[str, Any]:
        return {**state_dict(self), IN_EPOCH: len(self)}

    def load_scaled(self: Any, state: dict[str, Any]) -> None:
        load_state_dict(self, place_in_epoch(state, len(self)))

    with_length.patched = True  # type: ignore[attr-defined]
    EpochBatchIterator.state_dict = with_length
    EpochBatchIterator.load_state_dict = load_scaled
    iterators.GroupedIterator = Updates


def place_in_epoch(state: dict[str, Any], length: int) -> dict[str, Any]:
    """The state for a run whose epoch has `length` batches per process."""
    seen, before = state.get("iterations_in_epoch", 0), state.get(IN_EPOCH, length)
    if before != length:
        seen = seen * length // max(before, 1)
    if seen < length:
        return {**state, "iterations_in_epoch": seen}
    return {**state, "epoch": state["epoch"] + 1, "iterations_in_epoch": 0}


class Updates(GroupedIterator):
    """The batches of each update, --update-freq of them; the last one of an epoch may have fewer."""

    def __init__(self, batches: Any, each: int, skip_remainder_batch: bool = False) -> None:
        """batches: fairseq's, of which `batches.n` are done.

        fairseq counts as if that were a multiple of `each`. Of a run that was resumed elsewhere it would leave some
        batches, and then, as the epoch is not at its end, train all of it once more.
        """
        left = len(batches) - batches.n
        if skip_remainder_batch and left >= each:  # fairseq fails in an epoch without any update
            left -= left % each
            batches.take(batches.n + left)
        super().__init__(batches, each)
        self.total = self.n - (-left // each)

    def __next__(self) -> list[Any]:
        """Without the stand-ins for batches that another process has one more of, unless there is nothing else.

        fairseq would count nothing of an update that ends with one, although the gradients of its batches are there.
        """
        batches: list[Any] = super().__next__()
        return [batch for batch in batches if batch] or batches[:1]
