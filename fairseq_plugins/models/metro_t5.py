"""fairseq model `metro_t5`, and `metro_t5_<preset>` for every preset of `metro_t0.modeling`."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor

from fairseq_plugins import run as runs
from fairseq_plugins.errors import clear_errors
from fairseq_plugins.generation import DecoderView, EncoderView
from fairseq_plugins.optim.muon import HIDDEN_MATRICES
from fairseq_plugins.options import fairseq_dataclass
from fairseq_plugins.starting_point import StartingPointConfig, start
from metro_t0.errors import UserError
from metro_t0.kernels.attend import padding_mask
from metro_t0.modeling import PRESETS, MetroT5, ModelConfig, PretrainingBatch, PretrainingOutput
from metro_t0.modeling.layers import hidden_matrices
from metro_t0.modeling.pretraining import PRETRAINING_MODULES

logger = logging.getLogger(__name__)
FINGERPRINT = "dictionary_fingerprint"


def model_config(cfg: Any, vocab_size: int) -> ModelConfig:
    """The library's config from fairseq's (a Namespace or an omegaconf node), with the dictionary's size."""
    names = [field.name for field in dataclasses.fields(ModelConfig) if field.name != "vocab_size"]
    values = {name: getattr(cfg, name) for name in names}
    return ModelConfig.from_dict({**values, "vocab_size": vocab_size})


def fingerprint(dict_path: Path) -> Tensor:
    """SHA-256 of dict.txt as (32,) uint8, stored in every checkpoint."""
    return torch.tensor(list(hashlib.sha256(dict_path.read_bytes()).digest()), dtype=torch.uint8)


class MetroT5Model(BaseFairseqModel):
    """Adapter of `metro_t0.modeling.MetroT5`: pretraining batches, or source and target for fine-tuning."""

    def __init__(self, config: ModelConfig, pad_id: int, dictionary: Tensor) -> None:
        super().__init__()
        self.metro = MetroT5(config, pad_id)
        self.num_updates = 0
        self.register_buffer(FINGERPRINT, dictionary)
        for matrix in hidden_matrices(self.metro):
            matrix.param_group = HIDDEN_MATRICES  # type: ignore[attr-defined]

    def set_num_updates(self, num_updates: int) -> None:
        """fairseq's hook: the updates that are done, before each and after a restart."""
        self.num_updates = num_updates
        super().set_num_updates(num_updates)

    @classmethod
    def build_model(cls, cfg: Any, task: Any) -> MetroT5Model:
        """The task says which parts it trains (`adapt_model`), how long its sequences are, and where dict.txt is."""
        with clear_errors():
            config = task.adapt_model(model_config(cfg, len(task.source_dictionary)))
            longest = max(task.max_positions())
            if config.absolute_positions and longest > config.max_positions:
                raise UserError(
                    f"sequences of {longest} tokens do not fit max_positions {config.max_positions}: "
                    "raise --max-positions, or lower --tokens-per-sample (or the source and target lengths)"
                )
            model = cls(config, task.source_dictionary.pad(), fingerprint(task.dict_path))
            if runs.current is None or not runs.current.resumes:  # else the checkpoint has the weights
                start(model.metro, cfg, task.cfg.seed)
            return model

    @clear_errors()
    def forward(self, **inputs: Any) -> PretrainingOutput | tuple[Tensor, dict[str, Any]]:
        """The fields of a `PretrainingBatch`, or src_tokens, src_lengths and prev_output_tokens (logits, extra)."""
        if "src_tokens" not in inputs:
            output: PretrainingOutput = self.metro(PretrainingBatch(**inputs))
            return output
        source = inputs["src_tokens"]
        mask = padding_mask(source != self.metro.pad_id)
        decoded, _ = self.metro.main(source, inputs["prev_output_tokens"], mask)
        return self.metro.main.logits(decoded), {}

    @property
    def encoder(self) -> EncoderView:
        """For fairseq's search."""
        return EncoderView(self.metro.main, self.metro.pad_id)

    @property
    def decoder(self) -> DecoderView:
        """For fairseq's search."""
        return DecoderView(self.metro.main)

    def max_decoder_positions(self) -> int:
        """Longest target."""
        return self.metro.config.max_positions

    def get_normalized_probs(self, net_output: tuple[Tensor, Any], log_probs: bool, sample: Any = None) -> Tensor:
        """(Log-)probabilities in fp32, (B, T, V)."""
        logits = net_output[0].float()
        return logits.log_softmax(-1) if log_probs else logits.softmax(-1)

    def get_targets(self, sample: dict[str, Any], net_output: Any) -> Tensor:
        """(B, T) target ids of a fine-tuning batch."""
        target: Tensor = sample["target"]
        return target

    def max_positions(self) -> tuple[int, int]:
        """Longest source and target."""
        return (self.metro.config.max_positions, self.metro.config.max_positions)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, **settings: Any) -> Any:
        """Load a checkpoint of any stage; what only pretraining needs is dropped where this model has no such part."""
        with clear_errors():
            return super().load_state_dict(self._fitting(state_dict), strict=strict, **settings)

    def _fitting(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = self.state_dict()
        if FINGERPRINT in state and not torch.equal(state[FINGERPRINT].cpu(), own[FINGERPRINT].cpu()):
            raise UserError(
                "the data directory's dict.txt is not the one the checkpoint was trained with; binarize the data with "
                "the checkpoint's tokenizer (metro-t0-data binarize --tokenizer, metro-t0-prompts build --tokenizer)"
            )
        for name, tensor in state.items():
            if name in own and own[name].shape != tensor.shape:
                raise UserError(
                    f"checkpoint tensor {name} is {tuple(tensor.shape)}, the model's is {tuple(own[name].shape)}: "
                    "the architecture options differ from those the checkpoint was trained with"
                )
        pretraining_only = tuple(f"metro.{module}." for module in PRETRAINING_MODULES)
        dropped = [name for name in state if name not in own and name.startswith(pretraining_only)]
        if dropped and not self.metro.config.auxiliary_layers:
            logger.info("left out %d tensors of the checkpoint that only pretraining needs", len(dropped))
            return {name: tensor for name, tensor in state.items() if name not in dropped}
        return dict(state)


def _register(name: str, defaults: ModelConfig) -> None:
    title = "".join(part.capitalize() for part in name.split("_"))
    config_class = fairseq_dataclass(
        f"{title}Config", ModelConfig, defaults, __name__, StartingPointConfig, omit=frozenset({"vocab_size"})
    )
    register_model(name, dataclass=config_class)(type(title, (MetroT5Model,), {"__doc__": f"Defaults of {name}."}))


_register("metro_t5", PRESETS["base"])
for _preset, _defaults in PRESETS.items():
    _register(_preset if _preset.startswith("t5_") else f"metro_t5_{_preset}", _defaults)
