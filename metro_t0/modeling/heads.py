"""Pretraining heads: replaced token detection and corrective language modeling (paper sections 3.2 and 4)."""

from __future__ import annotations

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
