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
    Sources begin with `<s>` where the vocabulary has it, as models of its conventions read them (T5's have none).
    Items are dealt to `rank`s in turn and, within a rank, to `DataLoader` workers in turn, which is how a
    `DataLoader(dataset, batch_size=None)` collects them: the order is the same for any number of workers.
    Take one iterator for the whole training: where workers draw, each new one begins again.
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
        vocabulary = self.mixture.vocabulary
        source = np.array([*vocabulary.source_start, *one.sources.values, vocabulary.eos], dtype=np.int64)
        target = np.append(one.targets.values.astype(np.int64), vocabulary.eos)
        return {"input_ids": torch.from_numpy(source), "labels": torch.from_numpy(target)}

    def _batch(self, examples: Examples) -> dict[str, torch.Tensor]:
        vocabulary = self.mixture.vocabulary
        first = torch.tensor(vocabulary.source_start, dtype=torch.int64).expand(len(examples), -1)
        sources = torch.cat([first, torch.from_numpy(examples.sources.padded(vocabulary.pad, vocabulary.eos))], dim=1)
        lengths = torch.from_numpy(examples.sources.lengths + first.shape[1] + 1)
        return {
            "input_ids": sources,
            "attention_mask": (torch.arange(sources.shape[1]) < lengths[:, None]).long(),
            "labels": torch.from_numpy(examples.targets.padded(-100, vocabulary.eos)),
        }

    def state_dict(self) -> dict[str, Any]:
        """Where to go on: after the last item that this object (or this copy in a worker) has given."""
        place = {"step": self._step, "examples_per_step": self._per_step}
        return {**place, "split": self.split, "stream": self.mixture.describe()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with another batch size or number of ranks, too.

        The first step may then begin with examples of the last one. Raises `UserError` where the state belongs to
        another stream.
        """
        if state["stream"] != self.mixture.describe():
            raise UserError("the saved state belongs to a stream of other tasks, seed, lengths or vocabulary")
        if state.get("split", self.split) != self.split:
            raise UserError(f"the saved state belongs to split {state['split']}, this is {self.split}")
        self._step = int(state["step"]) * int(state.get("examples_per_step", self._per_step)) // self._per_step

    @property
    def _per_step(self) -> int:
        """Examples that all ranks take together in a step."""
        return self.world_size * (self.batch_size or 1)


def _generate(blocks: list[int], mixture: TaskMixture, split: Split) -> Iterator[dict[str, Any]]:
    front, end = mixture.vocabulary.source_start, mixture.vocabulary.eos
    for number in blocks:
        examples, labels = mixture.labeled_block(split, number)
        for source, target, label in zip(examples.sources.lists(), examples.targets.lists(), labels, strict=True):
            yield {
                "input_ids": [*front, *source, end],
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
