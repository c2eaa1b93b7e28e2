"""All training batches of a task, made the way that fairseq-train makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

Batch = dict[str, Any]
AFTER_RESTART = 4  # batches that are compared then: into the next epoch, where one has three batches


def training_batches(
    make_task: Callable[[], Any], workers: int, epochs: int = 3, state: dict[str, Any] | None = None, **settings: Any
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    """Every batch of `epochs` epochs with the loader's state after it, as a checkpoint would keep it.

    state: of an earlier run, which is resumed. settings: of the batch iterator, such as `max_sentences`.
    """
    task = make_task()
    settings = {"seed": 1, "num_workers": workers, "data_buffer_size": 10, **settings}
    sharded = task.has_sharded_data("train")
    epoch = state["epoch"] if state else 1
    task.load_dataset("train", epoch=epoch)
    iterator = task.get_batch_iterator(task.dataset("train"), epoch=epoch, **settings)
    if state:
        iterator.load_state_dict(state)
    while iterator.next_epoch_idx <= epochs:
        for batch in iterator.next_epoch_itr():
            yield batch, iterator.state_dict()
        epoch = iterator.next_epoch_idx
        if sharded:
            task.load_dataset("train", epoch=epoch)
        iterator = task.get_batch_iterator(
            task.dataset("train"), epoch=epoch, disable_iterator_cache=sharded, **settings
        )


def check_workers_and_restarts(make_task: Callable[[], Any], **settings: Any) -> list[Batch]:
    """Assert that loader processes and restarts change no batch of three epochs; return these batches."""
    expected, states = zip(*training_batches(make_task, 0, **settings), strict=True)
    for workers in (1, 4):
        found = [batch for batch, _ in training_batches(make_task, workers, **settings)]
        assert_same(found, expected)
    for update, state in enumerate(states[:-1], 1):
        resumed = training_batches(make_task, (0, 1, 4)[update % 3], state=state, **settings)
        found = [batch for batch, _ in islice(resumed, AFTER_RESTART)]
        assert_same(found, expected[update : update + AFTER_RESTART])
    return list(expected)


def assert_same(found: Any, expected: Any) -> None:
    """Equal to the bit, whatever is nested in what."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(found[name], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected
