"""fairseq task `prompt_finetuning`: source and target text of many prompted tasks, or of one JSONL file."""

# fairseq reads the types of dataclass fields at run time: no `from __future__ import annotations` here.
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II

from fairseq_plugins.errors import clear_errors
from fairseq_plugins.generation import Pieces
from fairseq_plugins.tasks.source_target import SourceTargetTask, WholeDataset, is_trained_on, source_target_batch
from metro_t0.data.mixture_files import TRAIN, VALID
from metro_t0.data.pairs import SUFFIXES
from metro_t0.errors import UserError
from metro_t0.modeling import ModelConfig
from metro_t0.options import option
from metro_t0.prompts.mixing import TaskExamples, choose_tasks, load_pairs, load_task_examples
from metro_t0.randomness import keyed_generator
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.tokenizer import TOKENIZER_NAME

logger = logging.getLogger(__name__)
LENGTH_BUCKET = 8


@dataclass
class PromptFinetuningConfig(FairseqDataclass):
    """Options of `--task prompt_finetuning`."""

    data: str = option(
        "???",
        "directory of metro-t0-prompts build; or one with dict.txt, tokenizer.json and SPLIT.jsonl files "
        'of lines {"source": ..., "target": ...}',
    )
    tokens_per_sample: int = option(
        512, "sentinels after the dictionary: as many as the pretraining had", at_least=0, at_most=65_536
    )
    max_source_positions: int = option(512, "longest source, <s> and </s> included", at_least=2, at_most=1_048_576)
    max_target_positions: int = option(256, "longest target, </s> included", at_least=1, at_most=1_048_576)
    seed: int = II("common.seed")


class PromptedDataset(WholeDataset):
    """The examples of several tasks, indexed one task after the other.

    `ordered_indices` returns those that the epoch uses: all of a task, or as many as its cap, chosen by (seed, epoch).
    """

    def __init__(self, tasks: list[TaskExamples], bos_id: int, pad_id: int, eos_id: int, seed: int, epoch: int) -> None:
        """epoch: number of the epoch from 1, or 0 for evaluation, which takes everything in a fixed order."""
        self.tasks = tasks
        self.bos_id, self.pad_id, self.eos_id = bos_id, pad_id, eos_id
        self.seed, self.epoch = seed, epoch
        self.starts = np.cumsum([0, *(len(task) for task in tasks)])
        source = np.concatenate([task.source_sizes for task in tasks]) + 1  # for <s>
        target = np.concatenate([task.target_sizes for task in tasks])
        self.sizes = np.stack([source, target], axis=1)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        task, place = self.tasks[number], int(index - self.starts[number])
        return {"id": int(index), "source": task.sources[place], "target": task.targets[place]}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Samples -> source `<s> x </s>`, decoder input `</s> y`, target `y </s>`, all padded on the right."""
        if not samples:
            return {}
        sources = [np.concatenate([[self.bos_id], sample["source"]]) for sample in samples]
        targets = [sample["target"] for sample in samples]
        examples = [sample["id"] for sample in samples]
        return source_target_batch(examples, sources, targets, self.eos_id, self.pad_id)

    def num_tokens(self, index: int) -> int:
        """The longer of source and target: what one example costs in a batch by tokens."""
        return int(self.sizes[index].max())

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """The same for many."""
        return np.asarray(self.sizes[indices].max(axis=1))

    def size(self, index: int) -> tuple[int, int]:
        """Tokens of source and target."""
        return int(self.sizes[index, 0]), int(self.sizes[index, 1])

    def ordered_indices(self) -> np.ndarray:
        """This epoch's examples, lengths rounded up to 8 side by side, shuffled within equal lengths.

        fairseq cuts them into batches and then shuffles the batches, all tasks together.
        """
        if not self.epoch:
            return self._by_length(np.arange(len(self)))
        chosen = [
            start + task.epoch_indices(self.seed, self.epoch)
            for start, task in zip(self.starts, self.tasks, strict=False)
        ]
        indices = np.concatenate(chosen)
        return self._by_length(keyed_generator("shuffle", self.seed, self.epoch).permutation(indices))

    def _by_length(self, indices: np.ndarray) -> np.ndarray:
        buckets = -(-self.sizes[indices] // LENGTH_BUCKET)
        return indices[np.lexsort((buckets[:, 1], buckets[:, 0]))]  # a stable sort: ties keep their order

    def set_epoch(self, epoch: int) -> None:
        """Called by fairseq before every epoch."""
        if self.epoch:
            self.epoch = epoch

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Not in training: each epoch has its own subset and order."""
        return not self.epoch


@register_task("prompt_finetuning", dataclass=PromptFinetuningConfig)
class PromptFinetuningTask(SourceTargetTask):
    """Cross-entropy on prompted targets, from a pretrained main model or from scratch (paper section 4)."""

    def __init__(self, cfg: PromptFinetuningConfig, dictionary: Dictionary) -> None:
        super().__init__(cfg)
        self.directory = Path(cfg.data)
        self.dictionary = dictionary
        self.dict_path = self.directory / "dict.txt"
        self.decoder_start, self.source_start = dictionary.eos(), [dictionary.bos()]
        self.add_sentinels()

    @classmethod
    def setup_task(cls, cfg: PromptFinetuningConfig, **settings: Any) -> "PromptFinetuningTask":
        """Read dict.txt of the data directory."""
        path = Path(cfg.data) / "dict.txt"
        with clear_errors():
            if not path.is_file():
                raise UserError(f"{path}: no such file; make the directory with metro-t0-prompts build")
        return cls(cfg, Dictionary.load(str(path)))

    def build_bpe(self, args: Any) -> Any:
        """For fairseq-generate and fairseq-interactive: the tokenizer of the data directory where it has one."""
        if args is not None or not (self.directory / TOKENIZER_NAME).is_file():
            return super().build_bpe(args)
        with clear_errors():
            return Pieces(Tokenizer.load(self.directory), self.dictionary)

    def adapt_model(self, config: ModelConfig) -> ModelConfig:
        """The main model alone: the auxiliary, RTD head and CLM additions belong to pretraining."""
        self.model_config = config.without_pretraining()
        return self.model_config

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **settings: Any) -> None:
        """`train`, `valid` (everything held out), or `valid_NAME` for one data set or task of the mixture."""
        with clear_errors():
            tasks = self._load_tasks(split)
            for task in tasks:
                self._check_lengths(task)
        training = is_trained_on(split)
        dictionary = self.dictionary
        self.datasets[split] = PromptedDataset(
            tasks, dictionary.bos(), dictionary.pad(), dictionary.eos(), self.cfg.seed, epoch if training else 0
        )
        logger.info("%s: %d examples of %d tasks", split, len(self.datasets[split]), len(tasks))

    def _load_tasks(self, split: str) -> list[TaskExamples]:
        files = [path for suffix in SUFFIXES if (path := self.directory / f"{split}{suffix}").is_file()]
        if len(files) > 1:
            raise UserError(
                f"{self.directory}: {' and '.join(f.name for f in files)} are one split; remove all but one"
            )
        if files:
            tokenizer = Tokenizer.load(self.directory)
            return [load_pairs(files[0], tokenizer, self.cfg.max_source_positions, self.cfg.max_target_positions)]
        if split in (TRAIN, VALID):
            return load_task_examples(self.directory, split)
        if split.startswith("valid_"):
            return choose_tasks(load_task_examples(self.directory, VALID), split.removeprefix("valid_"))
        raise UserError(f"split {split!r}: must be train, valid or valid_NAME with a data set or task of the mixture")

    def _check_lengths(self, task: TaskExamples) -> None:
        longest = {"source": int(task.source_sizes.max()) + 1, "target": int(task.target_sizes.max())}
        for side, size in longest.items():
            limit = getattr(self.cfg, f"max_{side}_positions")
            if size > limit:
                raise UserError(
                    f"task {task.name} has a {side} of {size} tokens, --max-{side}-positions is {limit}: raise it, or "
                    f"build the mixture again with --max-{side}-tokens {limit}"
                )

    def max_positions(self) -> tuple[int, int]:
        """Longest source and target."""
        return self.cfg.max_source_positions, self.cfg.max_target_positions
