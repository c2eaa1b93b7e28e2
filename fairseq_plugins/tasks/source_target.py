"""What the tasks share: one dictionary for both sides, and the batch of sources and targets that fine-tuning reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.tasks import FairseqTask

from fairseq_plugins.differences import data_files
from fairseq_plugins.finished import patience_so_far, restore_patience
from metro_t0.objectives.batches import pad_rows


class OneDictionaryTask(FairseqTask):
    """A task whose source and target share `self.dictionary`."""

    dictionary: Dictionary

    @property
    def source_dictionary(self) -> Dictionary:
        """All ids of the vocabulary, sentinels included."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The same."""
        return self.dictionary

    def get_batch_iterator(self, dataset: FairseqDataset, *arguments: Any, **settings: Any) -> EpochBatchIterator:
        """fairseq's batches, with loader processes that begin anew in every epoch.

        fairseq keeps them for the whole run. They hold copies of the data set as it was when they began, which
        `set_epoch` does not reach: every epoch would have the masks, or the examples of a stream, of the first.
        """
        iterator = super().get_batch_iterator(dataset, *arguments, **settings)
        iterator.persistent_workers = iterator.reuse_dataloader = False
        return iterator

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """What fairseq stores of the task in every checkpoint: how long --patience has waited, which data it had."""
        data = getattr(self.cfg, "data", None)
        return {type(self).__name__: {**patience_so_far(), "data_files": data_files(data) if data else []}}

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        restore_patience(state)


def source_target_batch(
    examples: Sequence[int],
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    decoder_start: int,
    pad_id: int,
) -> dict[str, Any]:
    """fairseq's batch of B examples: source (B, S), target (B, T), and the target shifted right as decoder input.

    examples: indices in the data set; sources and targets: int64 ids, each with its end token. Padding on the right.
    """

    def padded(rows: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(pad_rows(rows, pad_id))

    shifted = [np.concatenate([[decoder_start], target[:-1]]) for target in targets]
    return {
        "id": torch.tensor(examples),
        "nsentences": len(examples),
        "ntokens": sum(len(target) for target in targets),
        "net_input": {
            "src_tokens": padded(sources),
            "src_lengths": torch.tensor([len(source) for source in sources]),
            "prev_output_tokens": padded(shifted),
        },
        "target": padded(targets),
    }
