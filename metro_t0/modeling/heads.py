"""Pretraining heads: replaced token detection and corrective language modeling (paper sections 3.2 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metro_t0.modeling.config import ModelConfig


class LogitHead(nn.Module):
    """A logit per token: linear, ReLU, LayerNorm, linear to 1; or one linear layer."""

    def __init__(self, config: ModelConfig, is_mlp: bool = True) -> None:
        super().__init__()
        self.is_mlp = is_mlp
        if is_mlp:
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
    # "this token was replaced"
    Head("rtd_head", lambda c: LogitHead(c, c.rtd_head == "mlp"), lambda c: c.rtd, True),
    Head("clm_projection", ClmProjection, lambda c: "predicted" if c.clm_head == "projection" else "none"),
    # of copying the noised token instead of predicting from the vocabulary (COCO-LM, equation 5)
    Head("copy_gate", lambda c: LogitHead(c, False), lambda c: "predicted" if c.clm_head == "copy" else "none", True),
)
