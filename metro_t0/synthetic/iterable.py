"""Streams as iterable data sets: for PyTorch, and for Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from metro_t0.errors import UserError
from metro_t0.synthetic.ragged import Examples
from metro_t0.synthetic.settings import VALID_EXAMPLES
from metro_t0.synthetic.stream import BlockReader, Split, TaskMixture

if TYPE_CHECKING:
    import datasets


@dataclass(eq=False)
class SyntheticIterableDataset(IterableDataset[dict[str, torch.Tensor]]):
    """Examples or batches of a stream in its order, without end (validation: its 10,240 examples).

    With `batch_size` every item is a batch {input_ids, attention_mask, labels} of int64 tensors (batch, longest),
    labels padded with -100; batch k holds examples k * batch_size onwards. Without it every item is one example.
    Items are dealt to `rank`s in turn and, within a rank, to `DataLoader` workers in turn, which is how a
    `DataLoader(dataset, batch_size=None)` collects them: the order is the same for any number of workers.
    """

    mixture: TaskMixture
    split: Split = "train"
    batch_size: int | None = None
    examples: int | None = None
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UserError(f"rank {self.rank} is not one of {self.world_size} ranks (0 .. {self.world_size - 1})")
        if self.split == "valid" and self.examples is None:
            self.examples = VALID_EXAMPLES
        self._step = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        turn, turns = (worker.id, worker.num_workers) if worker else (0, 1)
        read = BlockReader(partial(self.mixture.block, self.split))
        size = self.batch_size or 1
        # Steps of this rank; a worker takes every `turns`-th of them.
        step = self._step + (turn - self._step) % turns
        while True:
            begin = (step * self.world_size + self.rank) * size
            end = begin + size if self.examples is None else min(begin + size, self.examples)
            if begin >= end:
                self._step = 0
                return
            self._step = step + 1
            yield self._batch(read(begin, end)) if self.batch_size else self._example(read(begin, end))
            step += turns

    def _example(self, one: Examples) -> dict[str, torch.Tensor]:
        end = self.mixture.vocabulary.eos
        sides = (np.append(side.values.astype(np.int64), end) for side in (one.sources, one.targets))
        return dict(zip(("input_ids", "labels"), map(torch.from_numpy, sides), strict=True))

    def _batch(self, examples: Examples) -> dict[str, torch.Tensor]:
        vocabulary = self.mixture.vocabulary
        sources = torch.from_numpy(examples.sources.padded(vocabulary.pad, vocabulary.eos))
        lengths = torch.from_numpy(examples.sources.lengths + 1)
        return {
            "input_ids": sources,
            "attention_mask": (torch.arange(sources.shape[1]) < lengths[:, None]).long(),
            "labels": torch.from_numpy(examples.targets.padded(-100, vocabulary.eos)),
        }

    def state_dict(self) -> dict[str, Any]:
        """Where to go on: after the last item that this object (or this copy in a worker) has given."""
        return {"step": self._step, "stream": self.mixture.describe()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises `UserError` where it belongs to another stream."""
        if state["stream"] != self.mixture.describe():
            raise UserError("the saved state belongs to a stream of other tasks, seed, lengths or vocabulary")
        self._step = int(state["step"])


def _generate(blocks: list[int], mixture: TaskMixture, split: Split) -> Iterator[dict[str, Any]]:
    end = mixture.vocabulary.eos
    for number in blocks:
        examples, labels = mixture.labeled_block(split, number)
        for source, target, label in zip(examples.sources.lists(), examples.targets.lists(), labels, strict=True):
            yield {
                "input_ids": [*source, end],
                "labels": [*target, end],
                "task": mixture.streams[label].task.name,
            }


def hugging_face_dataset(mixture: TaskMixture, split: Split, blocks: int) -> datasets.IterableDataset:
    """The first `blocks` blocks as a `datasets.IterableDataset` of {input_ids, labels, task}; blocks are its shards."""
    import datasets

    ids = datasets.Sequence(datasets.Value("int32"))
    return datasets.IterableDataset.from_generator(
        _generate,
        gen_kwargs={"blocks": list(range(blocks)), "mixture": mixture, "split": split},
        features=datasets.Features({"input_ids": ids, "labels": ids, "task": datasets.Value("string")}),
    )
