"""Any sequence-to-sequence checkpoint as one interface: logits of a batch, parameters by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metro_t0.analysis.mixtures import Seq2SeqBatch
from metro_t0.errors import UserError
from metro_t0.files import sha256_of
from metro_t0.modeling import T5

DICT_NAME = "dict.txt"


@dataclass
class AnalyzedModel:
    """A model in evaluation mode, without dropout."""

    module: nn.Module
    forward: Callable[[Seq2SeqBatch], Tensor]
    """Batch -> logits (B, T, V)."""
    pad_id: int
    decoder_start: int

    def logits(self, batch: Seq2SeqBatch) -> Tensor:
        """(B, T, V) in the model's dtype."""
        return self.forward(batch)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device


def analyse_t5(model: T5, pad_id: int, decoder_start: int) -> AnalyzedModel:
    """The toolkit's own main model."""

    def forward(batch: Seq2SeqBatch) -> Tensor:
        decoded, _ = model(batch.source, batch.decoder_input, batch.source_valid)
        return model.logits(decoded)

    return AnalyzedModel(model.eval(), forward, pad_id, decoder_start)


def load_checkpoint(path: Path, mixture: Path, device: str) -> AnalyzedModel:
    """Load a Hugging Face directory, or a fairseq checkpoint (.pt) of this toolkit, in fp32 for data of a mixture.

    Raises `UserError` where it is neither, is no encoder-decoder, or has another vocabulary than the mixture.
    """
    check_checkpoint(path, mixture)
    model = _from_fairseq(path, mixture / DICT_NAME) if path.is_file() else _from_hugging_face(path)
    model = model.eval().to(device)

    def forward(batch: Seq2SeqBatch) -> Tensor:
        outputs = model(
            input_ids=batch.source,
            attention_mask=batch.source_valid.long(),
            decoder_input_ids=batch.decoder_input,
            use_cache=False,
        )
        logits: Tensor = outputs.logits
        return logits

    return AnalyzedModel(model, forward, model.config.pad_token_id, model.config.decoder_start_token_id)


def check_checkpoint(path: Path, mixture: Path) -> None:
    """What can be known without reading weights: of several checkpoints a bad one is found before the first is run.

    Raises `UserError` as `load_checkpoint` does.
    """
    from metro_t0.hf.loading import check_weight_files

    if path.is_file():
        if not (mixture / DICT_NAME).is_file():
            raise UserError(f"{mixture / DICT_NAME}: no such file, so it is unknown whether its ids are the model's")
    elif (path / "config.json").is_file():
        _check_vocabulary(path, mixture)
        check_weight_files(path)
    else:
        raise UserError(f"{path}: neither a Hugging Face directory (no config.json in it) nor a checkpoint file")


def _from_hugging_face(directory: Path) -> Any:
    from metro_t0.hf.loading import load_seq2seq

    return load_seq2seq(directory, dtype=torch.float32, local_files_only=True)


def _from_fairseq(path: Path, dict_path: Path) -> Any:
    from metro_t0.hf.checkpoints import read_checkpoint
    from metro_t0.hf.export import from_main_state

    checkpoint = read_checkpoint(path)
    checkpoint.check_dictionary(dict_path)
    return from_main_state(checkpoint.config, checkpoint.main_tensors()).float()


def _check_vocabulary(directory: Path, mixture: Path) -> None:
    """The mixture's ids mean nothing to a model with another vocabulary."""
    own, data = directory / DICT_NAME, mixture / DICT_NAME
    for path in (own, data):
        if not path.is_file():
            raise UserError(f"{path}: no such file, so it is unknown whether the mixture's ids are the model's")
    if sha256_of(own) != sha256_of(data):
        raise UserError(f"{data} differs from {own}: build the mixture with the tokenizer in {directory}")
