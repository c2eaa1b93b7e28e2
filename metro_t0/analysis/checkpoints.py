"""Any sequence-to-sequence checkpoint as one interface: logits of a batch, parameters by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from metro_t0.analysis.mixtures import Seq2SeqBatch
from metro_t0.modeling import T5


@dataclass
class AnalysedModel:
    """A model in evaluation mode."""

    module: nn.Module
    forward: Callable[[Seq2SeqBatch], Tensor]
    """Batch -> logits (B, T, V)."""
    pad_id: int
    decoder_start: int
    dictionary: Path | None = None
    """dict.txt of the checkpoint, where it carries one."""

    def logits(self, batch: Seq2SeqBatch) -> Tensor:
        """(B, T, V) in the model's dtype."""
        return self.forward(batch)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device


def analyse_t5(model: T5, pad_id: int, decoder_start: int) -> AnalysedModel:
    """The toolkit's own main model."""

    def forward(batch: Seq2SeqBatch) -> Tensor:
        decoded, _ = model(batch.source, batch.decoder_input, batch.source_valid)
        return model.logits(decoded)

    return AnalysedModel(model.eval(), forward, pad_id, decoder_start)
