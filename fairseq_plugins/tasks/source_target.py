"""What the tasks share: one dictionary for both sides, and the batch of sources and targets that fine-tuning reads."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset
from fairseq.data.iterators import CountingIterator, EpochBatchIterator
from fairseq.tasks import FairseqTask

from fairseq_plugins import run as runs
from fairseq_plugins.criterions.logging import summed
from fairseq_plugins.differences import DATA_FILES, data_files
from fairseq_plugins.errors import clear_errors, refuse
from fairseq_plugins.finished import patience_so_far, restore_patience
from fairseq_plugins.generation import Sources
from fairseq_plugins.utilization import log_utilization
from metro_t0.errors import UserError
from metro_t0.modeling import ModelConfig
from metro_t0.modeling.flops import seq2seq_training_flops
from metro_t0.rows import pad_rows, shift_right
from metro_t0.tokenization.vocabulary import sentinel


def is_trained_on(split: str) -> bool:
    """Whether its epochs differ: the --train-subset of a run; `train` where nothing is trained."""
    return split == ("train" if runs.current is None else runs.current.cfg.dataset.train_subset)


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

    def add_sentinels(self) -> None:
        """`tokens_per_sample` sentinels after the dictionary's pieces."""
        for number in range(self.cfg.tokens_per_sample):
            self.dictionary.add_symbol(sentinel(number))

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """fairseq's. Weights of a checkpoint need no starting point, which may be gone by now."""
        if from_checkpoint and getattr(cfg, "init_from", None):
            cfg = copy.deepcopy(cfg)
            cfg.init_from = ""
        return super().build_model(cfg, from_checkpoint)

    def get_batch_iterator(self, dataset: FairseqDataset, *arguments: Any, **settings: Any) -> EpochBatchIterator:
        """fairseq's batches, with loader processes that begin anew in every epoch.

        fairseq keeps them for the whole run. They hold copies of the data set as it was when they began, which
        `set_epoch` does not reach: every epoch would have the masks, or the examples of a stream, of the first.
        Damage that shows only when a batch is made ends the run in one line.
        """
        iterator = super().get_batch_iterator(dataset, *arguments, **settings)
        iterator.persistent_workers = iterator.reuse_dataloader = False
        iterator.seed = self.cfg.seed  # that of --update-ordered-indices-seed depends on the epoch a run was resumed in
        iterator.__class__ = ClearEpochs  # fairseq makes its iterator itself
        return iterator

    model_config: ModelConfig
    """Of the model that is trained; set by `adapt_model`."""

    def training_flops(self, total: dict[str, float]) -> float:
        """FLOPs of an update whose logged sums are `total`."""
        raise NotImplementedError

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Adds the model FLOPs utilization to fairseq's statistics of training."""
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training and runs.current is not None:
            log_utilization(self.training_flops(summed(logging_outputs)))

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """What fairseq stores of the task in every checkpoint: how long --patience has waited, which data it had."""
        data = getattr(self.cfg, "data", None)
        return {type(self).__name__: {**patience_so_far(), DATA_FILES: data_files(data) if data else []}}

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        restore_patience(state)

    def build_generator(self, models: Any, args: Any, **settings: Any) -> Any:
        """fairseq's search, for tasks whose batches have a source and a target."""
        if isinstance(self, SourceTargetTask):
            return super().build_generator(models, args, **settings)
        with clear_errors():
            raise UserError(
                f"{self.cfg._name} has nothing to generate: give --task prompt_finetuning (or synthetic_pretraining) "
                "and data with sources and targets; fairseq-validate measures the losses of pretraining"
            )


class SourceTargetTask(OneDictionaryTask):
    """A task that fairseq-generate and fairseq-interactive serve, too."""

    decoder_start: int
    """First token of the decoder."""
    source_start: list[int]
    """What stands before every source."""

    def inference_step(
        self, generator: Any, models: Any, sample: Any, prefix_tokens: Any = None, constraints: Any = None
    ) -> Any:
        """fairseq's search, beginning as the decoder was trained to begin."""
        with torch.no_grad():
            given = {"prefix_tokens": prefix_tokens, "constraints": constraints, "bos_token": self.decoder_start}
            return generator.generate(models, sample, **given)

    def build_dataset_for_inference(self, src_tokens: Any, src_lengths: Any, **settings: Any) -> FairseqDataset:
        """What fairseq-interactive was given."""
        return Sources(src_tokens, self.source_start, self.dictionary.pad())

    def training_flops(self, total: dict[str, float]) -> float:
        """Those of the main model: what padding costs is no use."""
        return seq2seq_training_flops(
            self.model_config, total["nsentences"], total["source_tokens"], total["target_tokens"]
        )


class WholeDataset(FairseqDataset):
    """A data set that loses nothing when fairseq makes batches of it.

    fairseq leaves out the last batch where its size is no multiple of --required-batch-size-multiple, 8 by default:
    up to 7 examples of every epoch and validation, or all of a small one. Examples longer than --max-tokens it leaves
    out of training (saying so in the log file alone), and ends validation with a traceback.
    """

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> tuple[np.ndarray, list[int]]:
        """Nothing is left out: loading sees to it that all fit the model."""
        return indices, []

    def batch_by_size(
        self, indices: np.ndarray, max_tokens: int | None = None, *arguments: Any, **settings: Any
    ) -> list[np.ndarray]:
        """fairseq's batches, and what it left out as the last. An example longer than `max_tokens` ends the run."""
        if not len(indices):
            return []
        if max_tokens and (longest := int(self.num_tokens_vec(indices).max())) > max_tokens:
            limit = f"a batch has at most {max_tokens} tokens, but examples have up to {longest}"
            refuse(f"{limit}: raise --max-tokens (--max-tokens-valid for validation)")
        batches = list(super().batch_by_size(indices, max_tokens, *arguments, **settings))
        used = sum(map(len, batches))
        return batches if used == len(indices) else [*batches, np.asarray(indices[used:])]


class ClearEpochs(EpochBatchIterator):
    """fairseq's batches, all of them; a `UserError` in making one, in a loader process or here, ends the run."""

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> list[Any]:
        """fairseq's, and under --grouped-shuffling the last ones, too few for all processes, which it leaves out."""
        batches: list[Any] = super().ordered_batches(epoch, fix_batches_to_gpus, shuffle)
        rest = len(self.frozen_batches) % self.num_shards
        if self.grouped_shuffling and shuffle and rest:
            batches.append(self.frozen_batches[self.shard_id - rest] if self.shard_id < rest else [])
        return batches

    @property
    def first_batch(self) -> Any:
        """The batch that fairseq makes before training."""
        with _clear_errors():
            return super().first_batch

    def _get_iterator_for_epoch(self, *arguments: Any, **settings: Any) -> CountingIterator | None:
        batches = super()._get_iterator_for_epoch(*arguments, **settings)
        if batches is not None:
            batches._itr = _ClearBatches(batches._itr)
        return batches


class _ClearBatches:
    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with _clear_errors():
            return next(self._batches)

    def take(self, count: int) -> None:
        """Stop after so many, as fairseq's iterators do."""
        if hasattr(self._batches, "take"):
            self._batches.take(count)


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        # torch puts the traceback of a loader process into the message; its last line is the message.
        refuse(str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: "))


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

    target = padded(targets)
    return {
        "id": torch.tensor(examples),
        "nsentences": len(examples),
        "ntokens": sum(len(target) for target in targets),
        "source_tokens": sum(len(source) for source in sources),
        "net_input": {
            "src_tokens": padded(sources),
            "src_lengths": torch.tensor([len(source) for source in sources]),
            "prev_output_tokens": shift_right(target, decoder_start),
        },
        "target": target,
    }
