"""fairseq task `synthetic_pretraining`: examples of synthetic tasks, generated while training."""

# fairseq reads the types of dataclass fields at run time: no `from __future__ import annotations` here.
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from fairseq.data import Dictionary, FairseqDataset
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import register_task
from omegaconf import II

from fairseq_plugins.errors import clear_errors
from fairseq_plugins.options import choices, same
from fairseq_plugins.tasks.source_target import SourceTargetTask, WholeDataset, is_trained_on, source_target_batch
from metro_t0.files import write_text
from metro_t0.modeling import ModelConfig
from metro_t0.options import option
from metro_t0.synthetic.settings import VALID_EXAMPLES, StreamSettings
from metro_t0.synthetic.storage import dict_text
from metro_t0.synthetic.stream import BlockReader, Split, TaskMixture, parse_rates
from metro_t0.synthetic.tasks import OwnLayoutTask
from metro_t0.synthetic.vocabulary import SyntheticVocabulary, load_vocabulary

logger = logging.getLogger(__name__)
T5_ROWS = 32_128  # T5's embedding is padded to a multiple of 128
LONGEST_OWN_LAYOUT = 1024  # LIME, Dyck and Nonsense Summary have lengths of their own
PREFIX_ROOM = 16


@dataclass
class SyntheticPretrainingConfig(FairseqDataclass):
    """Options of `--task synthetic_pretraining`."""

    tasks: str = option("???", "synthetic tasks with rates, as in set:1,lime:1")
    vocabulary: str = option("???", "t5, t5:DIRECTORY, compact:N, or the directory of a tokenizer")
    num_tokens: int = option(0, "draw sequences from that many tokens only; 0: from all", at_least=0)
    task_profile: choices(StreamSettings, "profile") = same(StreamSettings, "profile")  # type: ignore[valid-type]
    length_min: int = same(StreamSettings, "length_min")
    length_max: int = same(StreamSettings, "length_max")
    task_prefix: ChoiceEnum(["profile", "yes", "no"]) = option("profile", "the task's name in front of every source")  # type: ignore[valid-type]
    order: choices(StreamSettings, "order") = same(StreamSettings, "order")  # type: ignore[valid-type]
    epoch_examples: int = option(1_000_000, "examples that fairseq counts as one epoch", at_least=1, at_most=2**31)
    valid_examples: int = option(2560, "examples of one validation", at_least=1, at_most=VALID_EXAMPLES)
    accuracy_target: float = option(
        99.0, "percent of validation tokens; the first checkpoint that reaches it is the best", at_least=0, at_most=100
    )
    tokens_per_sample: int = option(
        512, "sentinels after a tokenizer's dictionary, as in the other tasks", at_least=4, at_most=65_536
    )
    seed: int = II("common.seed")
    save_dir: str = II("checkpoint.save_dir")


class SyntheticDataset(WholeDataset):
    """Epoch e (from 1) is examples (e - 1) * size .. e * size - 1 of the stream; epoch 0 the validation set."""

    def __init__(self, mixture: TaskMixture, split: Split, size: int, longest: int, epoch: int) -> None:
        self.mixture, self.split, self.size_of_epoch, self.longest = mixture, split, size, longest
        self.epoch = epoch
        self.vocabulary = mixture.vocabulary
        self._read = BlockReader(partial(mixture.block, split))

    def __len__(self) -> int:
        return self.size_of_epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = max(self.epoch - 1, 0) * self.size_of_epoch + int(index)
        one, end = self._read(number, number + 1), np.uint16(self.vocabulary.eos)
        source, target = np.append(one.sources.values, end), np.append(one.targets.values, end)
        return {"id": int(index), "source": source, "target": target}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Samples -> source `x </s>` (with `<s>` in front where the vocabulary has it), target `y </s>`, padded."""
        if not samples:
            return {}
        front = self.vocabulary.source_start
        sources = [np.concatenate([front, sample["source"]]).astype(np.int64) for sample in samples]
        targets = [sample["target"].astype(np.int64) for sample in samples]
        examples = [sample["id"] for sample in samples]
        return source_target_batch(examples, sources, targets, self.vocabulary.decoder_start, self.vocabulary.pad)

    def num_tokens(self, index: int) -> int:
        """An upper bound: lengths are known only when an example is drawn."""
        return self.longest

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """The same for many."""
        return np.full(len(indices), self.longest)

    def size(self, index: int) -> int:
        """The same bound."""
        return self.longest

    def ordered_indices(self) -> np.ndarray:
        """The order of the stream."""
        return np.arange(self.size_of_epoch)

    def set_epoch(self, epoch: int) -> None:
        """Called by fairseq before every epoch."""
        if self.epoch:
            self.epoch = epoch

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """The batches are the same indices in every epoch."""
        return True


@register_task("synthetic_pretraining", dataclass=SyntheticPretrainingConfig)
class SyntheticPretrainingTask(SourceTargetTask):
    """Sequence-to-sequence pretraining on a mixture of synthetic tasks (Wu, Li and Liang 2022)."""

    def __init__(self, cfg: SyntheticPretrainingConfig, vocabulary: SyntheticVocabulary, mixture: TaskMixture) -> None:
        super().__init__(cfg)
        self.vocabulary, self.mixture = vocabulary, mixture
        self.dict_path = self._dict_path()
        self.dictionary = self._dictionary()
        self.decoder_start = vocabulary.decoder_start
        self.source_start = vocabulary.source_start
        if Path(cfg.vocabulary).is_dir():
            self.add_sentinels()
        self._updates = 0

    @classmethod
    def setup_task(cls, cfg: SyntheticPretrainingConfig, **settings: Any) -> "SyntheticPretrainingTask":
        """Choose vocabulary and mixture."""
        with clear_errors():
            vocabulary = load_vocabulary(cfg.vocabulary, parse_rates(cfg.tasks), cfg.num_tokens or None)
            prefix = {"profile": None, "yes": True, "no": False}[str(cfg.task_prefix)]
            settings_of_stream = StreamSettings(
                cfg.tasks, cfg.seed, cast(Any, str(cfg.task_profile)), cfg.length_min, cfg.length_max,
                cast(Any, str(cfg.order)), prefix,
            )  # fmt: skip
            mixture = settings_of_stream.mixture(vocabulary)
            return cls(cfg, vocabulary, mixture)

    def _dict_path(self) -> Path:
        """dict.txt of the tokenizer; of a vocabulary without one, written beside the checkpoints."""
        directory = Path(self.cfg.vocabulary)
        if directory.is_dir():
            return directory / "dict.txt"
        path, text = Path(self.cfg.save_dir) / "dict.txt", dict_text(self.vocabulary)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        return path

    def _dictionary(self) -> Dictionary:
        if self.vocabulary.bos is not None:
            return Dictionary.load(str(self.dict_path))
        # T5 counts <pad> 0, </s> 1, <unk> 2 and has no <s>.
        dictionary = Dictionary(bos="<pad>", pad="<pad>", eos="</s>", unk="<unk>")
        dictionary.add_from_file(str(self.dict_path))
        for token in range(len(dictionary), T5_ROWS):
            dictionary.add_symbol(f"<unused{token}>")
        return dictionary

    def adapt_model(self, config: ModelConfig) -> ModelConfig:
        """The main model alone."""
        self.model_config = config.without_pretraining()
        return self.model_config

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **settings: Any) -> None:
        """`train` (endless, in epochs of `epoch_examples`) or `valid`."""
        training = is_trained_on(split)
        size = self.cfg.epoch_examples if training else self.cfg.valid_examples
        self.datasets[split] = SyntheticDataset(
            self.mixture, "train" if training else "valid", size, self.max_positions()[0], epoch if training else 0
        )
        with clear_errors():
            self.datasets[split][0]  # so that whatever cannot be drawn is said now

    def get_batch_iterator(self, dataset: FairseqDataset, *arguments: Any, **settings: Any) -> Any:
        """Batches in the order of the stream: examples are independent, and a block is drawn only once."""
        iterator = super().get_batch_iterator(dataset, *arguments, **settings)
        iterator.disable_shuffling = True
        return iterator

    def train_step(
        self, sample: Any, model: Any, criterion: Any, optimizer: Any, update_num: int, ignore_grad: bool = False
    ) -> Any:
        """fairseq's step; the number of updates is kept for the choice of a checkpoint."""
        self._updates = update_num + 1
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Adds `selection` to validation: what --best-checkpoint-metric maximizes to keep the first good checkpoint."""
        super().reduce_metrics(logging_outputs, criterion)
        if not criterion.training:
            # Derived from the mean over the whole validation set; fairseq reduces it batch by batch.
            metrics.log_derived(
                "selection",
                lambda meters: selection_score(meters["accuracy"].avg, self.cfg.accuracy_target, self._updates),
            )

    def max_positions(self) -> tuple[int, int]:
        """Upper bounds of source and target."""
        own_layout = any(isinstance(stream.task, OwnLayoutTask) for stream in self.mixture.streams)
        longest = 2 * self.cfg.length_max + PREFIX_ROOM
        longest = max(longest, LONGEST_OWN_LAYOUT) if own_layout else longest
        return (longest, longest)


def selection_score(accuracy: float, target: float, updates: int) -> float:
    """A score whose maximum is the first validation at or above `target`, or else the best accuracy (percent).

    Validations that reach the target score above 100, the earlier the higher.
    """
    return accuracy if accuracy < target else 200.0 - updates * 1e-6
