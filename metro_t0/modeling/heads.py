"""Pretraining heads: replaced token detection and corrective language modeling (paper sections 3.2 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metro_t0.modeling.config import ModelConfig


class RtdHead(nn.Module):
    """Logit of "this token was replaced": linear, ReLU, LayerNorm, linear to 1; or one linear layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.is_mlp = config.rtd_head == "mlp"
        if self.is_mlp:
            self.dense = nn.Linear(config.d_model, config.d_model)
            self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.out = nn.Linear(config.d_model, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...) logits."""
        if self.is_mlp:
            hidden = self.norm(F.relu(self.dense(hidden)))
        return self.out(hidden).squeeze(-1)


class ClmProjection(nn.Module):
    """RoBERTa's projection before the vocabulary: dense, GELU, LayerNorm (the ablation of table 4)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.norm(F.gelu(self.dense(hidden)))


class CopyGate(nn.Module):
    """Logit of copying the noised token instead of predicting from the vocabulary (COCO-LM, equation 5)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.d_model, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...) logits."""
        return self.out(hidden).squeeze(-1)


Reads = Literal["none", "encoder", "decoder", "predicted"]
"""Hidden states that a head reads: of all encoder positions, of all decoder positions, of the predicted ones (C, D)."""


@dataclass(frozen=True)
class Head:
    """A head of pretraining. `MetroT5` builds those that its config reads, in this order, and runs them."""

    name: str
    """Module of `MetroT5`, and key of `PretrainingOutput.heads`."""
    build: Callable[[ModelConfig], nn.Module]
    reads: Callable[[ModelConfig], Reads]
    """What it reads in a model of that config; "none" where the model has no such head."""
    needs_noise: bool = False
    """Whether it says something of tokens that the auxiliary has replaced, and idles where none were."""


HEADS = (
    Head("rtd_head", RtdHead, lambda config: config.rtd, needs_noise=True),
    Head("clm_projection", ClmProjection, lambda config: "predicted" if config.clm_head == "projection" else "none"),
    Head("copy_gate", CopyGate, lambda config: "predicted" if config.clm_head == "copy" else "none", needs_noise=True),
)
