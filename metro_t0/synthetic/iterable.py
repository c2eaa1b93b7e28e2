"""Streams as iterable data sets: for PyTorch, and for Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from metro_t0.errors import UserError
from metro_t0.synthetic.ragged import Examples
from metro_t0.synthetic.settings import BLOCK
from metro_t0.synthetic.stream import Mixture, Split
from metro_t0.synthetic.vocabulary import Vocabulary

if TYPE_CHECKING:
    import datasets


class ExampleReader:
    """Examples of a stream by their number, the latest block being kept."""

    def __init__(self, mixture: Mixture, split: Split) -> None:
        self.mixture = mixture
        self.split = split
        self._number = -1
        self._block: Examples | None = None

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) of example `index`, each closed by the end-of-sequence token."""
        number, row = divmod(index, BLOCK)
        block = self._read(number)
        end = np.uint16(vocabulary_of(self.mixture).eos)
        return np.append(block.sources[row], end), np.append(block.targets[row], end)

    def range(self, begin: int, end: int) -> Examples:
        """Examples begin .. end - 1, without the end-of-sequence token."""
        parts = []
        for number in range(begin // BLOCK, -(-end // BLOCK)):
            first = number * BLOCK
            parts.append(self._read(number).take(np.arange(max(begin - first, 0), min(end - first, BLOCK))))
        return parts[0] if len(parts) == 1 else Examples.concatenate(parts)

    def _read(self, number: int) -> Examples:
        if self._block is None or number != self._number:
            self._number, self._block = number, self.mixture.block(self.split, number)
        return self._block


def vocabulary_of(mixture: Mixture) -> Vocabulary:
    return mixture.streams[0].law.vocabulary


class SyntheticIterableDataset(IterableDataset[dict[str, torch.Tensor]]):
    """Examples or batches of a stream in its order, without end (validation: its 10,240 examples).

    With `batch_size` every item is a batch {input_ids, attention_mask, labels} of int64 tensors (batch, longest),
    labels padded with -100; batch k holds examples k * batch_size onwards. Without it every item is one example.
    Items are dealt to `rank`s in turn and, within a rank, to `DataLoader` workers in turn, which is how a
    `DataLoader(dataset, batch_size=None)` collects them: the order is the same for any number of workers.
    """

    def __init__(
        self,
        mixture: Mixture,
        split: Split = "train",
        batch_size: int | None = None,
        examples: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} is not one of {world_size} ranks (0 .. {world_size - 1})")
        if split == "valid" and examples is None:
            from metro_t0.synthetic.settings import VALID_EXAMPLES

            examples = VALID_EXAMPLES
        self.mixture, self.split = mixture, split
        self.batch_size, self.examples = batch_size, examples
        self.rank, self.world_size = rank, world_size
        self._step = 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        turn, turns = (worker.id, worker.num_workers) if worker else (0, 1)
        read = ExampleReader(self.mixture, self.split)
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
            yield self._example(read(begin)) if self.batch_size is None else self._batch(read.range(begin, end))
            step += turns

    def _example(self, row: tuple[np.ndarray, np.ndarray]) -> dict[str, torch.Tensor]:
        source, target = (torch.from_numpy(side.astype(np.int64)) for side in row)
        return {"input_ids": source, "labels": target}

    def _batch(self, examples: Examples) -> dict[str, torch.Tensor]:
        vocabulary = vocabulary_of(self.mixture)
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


def _generate(blocks: list[int], mixture: Mixture, split: Split) -> Iterator[dict[str, Any]]:
    end = vocabulary_of(mixture).eos
    for number in blocks:
        examples, labels = mixture.labeled_block(split, number)
        for source, target, label in zip(examples.sources, examples.targets, labels.tolist(), strict=True):
            yield {
                "input_ids": [*source.tolist(), end],
                "labels": [*target.tolist(), end],
                "task": mixture.streams[label].task.name,
            }


def hugging_face_dataset(mixture: Mixture, split: Split, blocks: int) -> datasets.IterableDataset:
    """The first `blocks` blocks as a `datasets.IterableDataset` of {input_ids, labels, task}.

    Blocks are its shards: `split_dataset_by_node`, workers, `state_dict` and `load_state_dict` are those of
    `datasets`.
    """
    import datasets

    ids = datasets.Sequence(datasets.Value("int32"))
    return datasets.IterableDataset.from_generator(
        _generate,
        gen_kwargs={"blocks": list(range(blocks)), "mixture": mixture, "split": split},
        features=datasets.Features({"input_ids": ids, "labels": ids, "task": datasets.Value("string")}),
    )
