"""fairseq tasks `metro_pretraining` (model-generated signals) and `t5_pretraining` (span corruption, the baseline)."""

# fairseq reads the types of dataclass fields at run time: no `from __future__ import annotations` here.
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import utils
from fairseq.data import ConcatDataset, Dictionary
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.tasks import register_task
from omegaconf import II

from fairseq_plugins.errors import clear_errors
from fairseq_plugins.options import choices, same
from fairseq_plugins.tasks.source_target import OneDictionaryTask, WholeDataset, is_trained_on
from fairseq_plugins.tasks.token_blocks import TokenBlocks, find_tokens, token_files
from metro_t0.data.record import check_dictionary
from metro_t0.data.token_files import IdLimit
from metro_t0.errors import UserError
from metro_t0.modeling import ModelConfig
from metro_t0.modeling.flops import forward_flops, seq2seq_training_flops, training_flops
from metro_t0.modeling.pretraining import PretrainingBatch
from metro_t0.objectives.batches import MetroBatches, SpanCorruptionBatches, check_target
from metro_t0.objectives.losses import LossOptions, Positions
from metro_t0.objectives.masking import MaskingConfig, WordIds
from metro_t0.options import from_values, option
from metro_t0.randomness import Stream, keyed_generator
from metro_t0.rows import pad_rows

logger = logging.getLogger(__name__)
BatchMaker = MetroBatches | SpanCorruptionBatches
MASKS = ("masked_tokens", "masked_positions", "most_masked_in_row", "sample_uniforms")


@dataclass
class PretrainingConfig(FairseqDataclass):
    """What both pretraining tasks are told about data and masking."""

    data: str = option(
        "???", "directory with dict.txt, train and valid .bin/.idx; or several, a:b:c, one per epoch in turn"
    )
    tokens_per_sample: int = option(
        512, "length of a block, <s> included; also the sentinels", at_least=4, at_most=65_536
    )
    sample_break_mode: ChoiceEnum(["none", "complete", "complete_doc", "eos"]) = option(  # type: ignore[valid-type]
        "complete_doc", "how blocks respect lines and documents, as in fairseq"
    )
    mask_ratio: float = same(MaskingConfig, "mask_ratio")
    mean_span_length: float = same(MaskingConfig, "mean_span_length")
    pad_blocks: bool = option(
        False, "pad every batch to tokens_per_sample, so that all have one shape (compiled layers)"
    )
    pad_multiple: int = option(
        1,
        "pad every batch to a multiple of this, so that batches have few shapes (compiled layers)",
        at_least=1,
        at_most=65_536,
    )
    seed: int = II("common.seed")


@dataclass
class MetroPretrainingConfig(PretrainingConfig):
    """Options of `--task metro_pretraining`."""

    mask_pattern: choices(MaskingConfig, "mask_pattern") = same(MaskingConfig, "mask_pattern")  # type: ignore[valid-type]
    keep_ratio: float = same(MaskingConfig, "keep_ratio")
    random_ratio: float = same(MaskingConfig, "random_ratio")
    fixed_mask_count: bool = same(MaskingConfig, "fixed_mask_count")
    within_documents: bool = option(
        False,
        "with sample_break_mode none or complete, whose blocks hold several documents: attention keeps to "
        "each document, positions begin anew in it",
    )
    decoding_target: ChoiceEnum(["masked_loss", "all_tokens", "masked_only"]) = option(  # type: ignore[valid-type]
        "masked_loss", "what the decoder predicts and which positions the loss counts"
    )


@dataclass
class T5PretrainingConfig(PretrainingConfig):
    """Options of `--task t5_pretraining`."""

    decoding_target: ChoiceEnum(["spans", "all_tokens"]) = option(  # type: ignore[valid-type]
        "spans", "sentinels and spans (T5), or the whole original text"
    )
    replaced_ratio: float = option(
        0.0,
        "share of the tokens outside of spans that an auxiliary replaces, for the encoder to detect "
        "(SpacTor-T5: 0.15; with --mlm-until and --rtd-until); 0: T5, without auxiliary and RTD",
        at_least=0,
        below=1,
    )


class BlockDataset(WholeDataset):
    """Blocks of tokens, turned into batches of an objective when they are collated.

    Masks depend on (seed, epoch, index of the block) alone: not on workers, batch size or a restart. With `epoch=0`
    (validation) they stay the same in every epoch.
    """

    def __init__(
        self, blocks: Any, make_batch: BatchMaker, pad_id: int, seed: int, epoch: int, column_multiple: int = 1
    ) -> None:
        self.column_multiple = column_multiple
        self.blocks = blocks
        self._sizes: np.ndarray = blocks.sizes
        self.make_batch = make_batch
        self.pad_id = pad_id
        self.stream = Stream(seed, epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": int(index), "tokens": self.blocks[index].numpy()}

    def __len__(self) -> int:
        return len(self.blocks)

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Samples -> {id, nsentences, ntokens, net_input: fields of a `PretrainingBatch`}."""
        if not samples:
            return {}
        examples = [sample["id"] for sample in samples]
        longest = max(len(sample["tokens"]) for sample in samples)
        rounded = -(-longest // self.column_multiple) * self.column_multiple
        tokens = pad_rows([sample["tokens"] for sample in samples], self.pad_id, rounded)
        batch = self.make_batch(tokens, examples, self.stream)
        return {
            "id": torch.tensor(examples),
            "nsentences": len(samples),
            "ntokens": sum(len(sample["tokens"]) for sample in samples),
            "net_input": _present(batch),
        }

    def num_tokens(self, index: int) -> int:
        """What one block costs in a batch by tokens: its columns, with those that it is padded to."""
        return int(self.num_tokens_vec(np.array([index]))[0])

    def size(self, index: int) -> int:
        """The same, for filtering by length."""
        return int(self._sizes[index])

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of every block."""
        return self._sizes

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """The same of many: with it fairseq makes batches without a Python call per block."""
        columns = -(-self._sizes[indices].astype(np.int64) // self.column_multiple)
        return np.asarray(columns * self.column_multiple)

    def ordered_indices(self) -> np.ndarray:
        """Blocks of similar length side by side, ties shuffled: batches then carry little padding."""
        narrow = np.int32 if len(self) < np.iinfo(np.int32).max else np.int64
        place = np.arange(len(self), dtype=narrow)
        keyed_generator("shuffle", self.stream.seed).shuffle(place)
        shuffled = np.empty_like(place)
        shuffled[place] = np.arange(len(self), dtype=narrow)
        del place
        # Sorting 16-bit sizes is a radix sort, linear in their number.
        return shuffled[np.argsort(self._sizes[shuffled], kind="stable")].astype(np.int64)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """The batches stay the same; the masks are drawn when they are collated."""
        return True

    def set_epoch(self, epoch: int) -> None:
        """Called by fairseq before every epoch."""
        if self.stream.epoch:
            self.stream = Stream(self.stream.seed, epoch)


def _present(batch: PretrainingBatch) -> dict[str, Any]:
    """The fields that are there. fairseq rounds every float32 to 16 bits under --fp16 and --bf16: not the uniforms."""
    fields = {name: value for name, value in vars(batch).items() if value is not None}
    if batch.sample_uniforms is not None:
        fields["sample_uniforms"] = batch.sample_uniforms.double()
    return fields


class PretrainingTask(OneDictionaryTask):
    """What both tasks share: dictionary with sentinels, blocks of documents."""

    model_config: ModelConfig
    """Of the model that is trained; set by `adapt_model`."""

    def __init__(self, cfg: Any, dictionary: Dictionary, dict_path: Path) -> None:
        super().__init__(cfg)
        self.dictionary = dictionary
        self.dict_path = dict_path
        end_of_words = len(dictionary)
        self.add_sentinels()
        self.words = WordIds(
            pad_id=dictionary.pad(), mask_id=end_of_words, first_word=dictionary.nspecial, end_of_words=end_of_words
        )
        with clear_errors():
            self.masking = self._masking()

    @classmethod
    def setup_task(cls, cfg: Any, **settings: Any) -> "PretrainingTask":
        """Read dict.txt of the (first) data directory."""
        with clear_errors():
            dict_path = Path(utils.split_paths(cfg.data)[0]) / "dict.txt"
            if not dict_path.is_file():
                raise UserError(f"{dict_path}: no such file; make the directory with metro-t0-data binarize")
            return cls(cfg, Dictionary.load(str(dict_path)), dict_path)

    def _masking(self) -> MaskingConfig:
        given = {f.name: getattr(self.cfg, f.name) for f in fields(MaskingConfig) if hasattr(self.cfg, f.name)}
        return from_values(MaskingConfig, given, "masking option")

    def adapt_model(self, config: ModelConfig) -> ModelConfig:
        """The model this task trains, or a `UserError` where the two do not fit."""
        raise NotImplementedError

    def training_flops(self, total: dict[str, float]) -> float:
        """Those of auxiliary, encoder, decoder and heads, as many positions as were predicted."""
        tokens = total["ntokens"]
        length, predicted = tokens / max(total["nsentences"], 1), total["sample_size"] / max(tokens, 1)
        return tokens * training_flops(self.model_config, round(length), predicted)

    def make_batches(self, is_train: bool) -> BatchMaker:
        """How blocks become batches."""
        raise NotImplementedError

    def check_losses(self, options: LossOptions) -> None:
        """Raise `UserError` where the task's batches cannot serve these losses."""
        check_target(self.model_config, str(self.cfg.decoding_target), options.weighted_clm)

    def inputs_of(self, inputs: dict[str, Any], ended: set[str]) -> dict[str, Any]:
        """The fields of a batch as the model gets them; `ended` are the objectives that are over (`--NAME-until`)."""
        return inputs

    def sample_size(self, batch: PretrainingBatch) -> int:
        """Positions that fairseq divides the summed loss by."""
        return len(batch.clm_targets)

    def loss_scale(self, positions: Positions) -> float:
        """What the sum of a loss over such positions is multiplied by, so that `sample_size` fits it.

        See `criterions.metro`.
        """
        return 1.0

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **settings: Any) -> None:
        """Token blocks of one split, each beginning with <s>."""
        paths = utils.split_paths(self.cfg.data)
        is_train = is_trained_on(split)
        prefix = Path(paths[(epoch - 1) % len(paths)]) / split
        longest = self.cfg.tokens_per_sample - 1  # <s> comes on top
        with clear_errors():
            # All of them before the first epoch, which may be days before that of the last.
            for shard in paths if is_train and split not in self.datasets else [prefix.parent]:
                check_dictionary(Path(shard), self.dict_path)
                find_tokens(Path(shard) / split)
            limit = IdLimit(self.words.end_of_words, self.dict_path)
            parts = [
                TokenBlocks(file, longest, str(self.cfg.sample_break_mode), self.dictionary.bos())
                for file in token_files(prefix, combine, limit)
            ]
            if not any(map(len, parts)):
                raise UserError(f"{prefix}.bin: holds no text, only empty lines")
        blocks = parts[0] if len(parts) == 1 else ConcatDataset(parts)
        logger.info("loaded %d blocks from %s", len(blocks), prefix)
        self.datasets[split] = BlockDataset(
            blocks,
            self.make_batches(is_train),
            self.dictionary.pad(),
            self.cfg.seed,
            epoch if is_train else 0,
            self.cfg.tokens_per_sample if self.cfg.pad_blocks else self._pad_multiple(),
        )

    def _pad_multiple(self) -> int:
        multiple = int(self.cfg.pad_multiple)
        with clear_errors():
            if multiple < 1 or self.cfg.tokens_per_sample % multiple:
                raise UserError(
                    f"--pad-multiple {multiple} does not divide --tokens-per-sample {self.cfg.tokens_per_sample}"
                )
        return multiple

    def max_positions(self) -> tuple[int, int]:
        """Longest source and target."""
        return (self.cfg.tokens_per_sample, self.cfg.tokens_per_sample)


@register_task("metro_pretraining", dataclass=MetroPretrainingConfig)
class MetroPretrainingTask(PretrainingTask):
    """METRO: the auxiliary corrupts, the encoder detects, the decoder restores (paper section 3.2)."""

    def adapt_model(self, config: ModelConfig) -> ModelConfig:
        """Needs an auxiliary."""
        if not config.auxiliary_layers:
            raise UserError("task metro_pretraining needs an auxiliary: give --auxiliary-layers, or use t5_pretraining")
        self.model_config = config
        return config

    def check_losses(self, options: LossOptions) -> None:
        """The decoder's target must fit model and losses."""
        target = str(self.cfg.decoding_target)
        check_target(self.model_config, target, options.weighted_clm, self.cfg.within_documents)

    def sample_size(self, batch: PretrainingBatch) -> int:
        """The masked positions."""
        assert batch.masked_positions is not None
        return len(batch.masked_positions)

    def loss_scale(self, positions: Positions) -> float:
        """Means over all positions are scaled by the mask ratio."""
        all_predicted = str(self.cfg.decoding_target) == "all_tokens"
        over_all = positions == "source" or (positions == "predicted" and all_predicted)
        return self.cfg.mask_ratio if over_all else 1.0

    def make_batches(self, is_train: bool) -> MetroBatches:
        """Validation also looks at unmasked positions, for their accuracy."""
        target = str(self.cfg.decoding_target)
        return MetroBatches(
            self.masking,
            self.words,
            self.words.mask_id,
            target,  # type: ignore[arg-type]
            probe_unmasked=not is_train,
            document_end=self.dictionary.eos() if self.cfg.within_documents else None,
        )


@register_task("t5_pretraining", dataclass=T5PretrainingConfig)
class T5PretrainingTask(PretrainingTask):
    """T5 span corruption on the same model without auxiliary and RTD; or with both (SpacTor-T5)."""

    def adapt_model(self, config: ModelConfig) -> ModelConfig:
        """The main model alone, unless tokens are to be replaced."""
        if self.cfg.replaced_ratio and not config.auxiliary_layers:
            raise UserError("replaced_ratio needs an auxiliary: give --auxiliary-layers, and --rtd encoder")
        self.model_config = config if self.cfg.replaced_ratio else config.without_pretraining()
        return self.model_config

    def check_losses(self, options: LossOptions) -> None:
        """The decoder never writes the source token by token."""
        check_target(self.model_config, "spans", options.weighted_clm)

    def inputs_of(self, inputs: dict[str, Any], ended: set[str]) -> dict[str, Any]:
        """Without masks once nothing learns from them: then neither the auxiliary nor RTD costs anything."""
        if not {"mlm", "rtd"} <= ended:
            return inputs
        return {name: value for name, value in inputs.items() if name not in MASKS}

    def loss_scale(self, positions: Positions) -> float:
        """The ratio of the positions that are expected, so that each loss is near its mean (see `sample_size`)."""
        counts = self.make_batches(is_train=True).expected_counts()
        return counts["predicted"] / counts[positions] if counts[positions] else 1.0

    def training_flops(self, total: dict[str, float]) -> float:
        """The texts get shorter: every span becomes one sentinel."""
        tokens, rows = total["ntokens"], total["nsentences"]
        masked = self.cfg.mask_ratio * tokens
        source = tokens - masked + masked / self.cfg.mean_span_length
        target = tokens if str(self.cfg.decoding_target) == "all_tokens" else total["sample_size"]
        auxiliary = 3 * source * forward_flops(self.model_config, round(source / max(rows, 1)), 0.0)["auxiliary"]
        return seq2seq_training_flops(self.model_config, rows, source, target) + float(auxiliary)

    def make_batches(self, is_train: bool) -> SpanCorruptionBatches:
        """The same in training and validation."""
        return SpanCorruptionBatches(
            self.masking,
            self.words,
            self.words.mask_id,
            self.dictionary.eos(),
            str(self.cfg.decoding_target),  # type: ignore[arg-type]
            replaced_ratio=self.cfg.replaced_ratio,
            auxiliary_mask_id=len(self.dictionary) - 1,  # the last sentinel: no text has so many spans
        )
