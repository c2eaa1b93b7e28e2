"""Norms, the feed-forward block, and the one Transformer layer that encoder, decoder and auxiliary are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metro_t0.kernels.key_value_cache import KeyValueCache
from metro_t0.kernels.selection import Selection
from metro_t0.modeling.attention import Attention
from metro_t0.modeling.config import Activation, ModelConfig

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class RMSNorm(nn.Module):
    """x / rms(x) * weight with the mean square in fp32 (T5's layer norm: no mean, no bias)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        normalized = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normalized.to(self.weight.dtype)


def make_norm(config: ModelConfig) -> nn.Module:
    """The config's norm over d_model. Statistics are fp32 whatever the dtype of the input (torch's kernels too)."""
    if config.norm_kind == "rms":
        return RMSNorm(config.d_model, config.norm_eps)
    return nn.LayerNorm(config.d_model, eps=config.norm_eps)


class FeedForward(nn.Module):
    """linear, activation (optionally gated), linear."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = config.activation_dropout
        self.wi = nn.Linear(config.d_model, config.ffn_dim, bias=config.bias)
        self.gate = nn.Linear(config.d_model, config.ffn_dim, bias=config.bias) if config.gated_ffn else None
        self.wo = nn.Linear(config.ffn_dim, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        hidden = self.activation(self.wi(x)) if self.gate is None else self.activation(self.gate(x)) * self.wi(x)
        return self.wo(F.dropout(hidden, self.dropout, self.training))


class Layer(nn.Module):
    """Self-attention, cross-attention in a decoder, feed-forward; each a residual branch with its norm."""

    def __init__(self, config: ModelConfig, is_decoder: bool) -> None:
        super().__init__()
        self.causal = is_decoder
        self.pre_norm = config.norm_placement == "pre"
        self.dropout = config.dropout
        self.self_attention = Attention(config)
        self.self_attention_norm = make_norm(config)
        if is_decoder:
            self.cross_attention = Attention(config)
            self.cross_attention_norm = make_norm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = make_norm(config)

    def forward(
        self,
        x: Tensor,
        *,
        bias: Tensor | None = None,
        valid: Tensor | None = None,
        memory: Tensor | None = None,
        memory_valid: Tensor | None = None,
        self_cache: KeyValueCache | None = None,
        cross_cache: KeyValueCache | None = None,
        at: Selection | None = None,
    ) -> Tensor:
        """x (B, T, D), memory (B, S, D), bias (H, 2T - 1), valid (B, T), memory_valid (B, S) -> (B, T, D).

        at: the N positions where the output is needed -> (N, D).
        """

        def self_attention(h: Tensor) -> Tensor:
            return self.self_attention(h, bias=bias, valid=valid, causal=self.causal, cache=self_cache, at=at)

        def cross_attention(h: Tensor) -> Tensor:
            return self.cross_attention(h, memory, valid=memory_valid, cache=cross_cache, at=at)

        x = self._branch(x, self_attention, self.self_attention_norm, at)
        if self.causal:
            x = self._branch(x, cross_attention, self.cross_attention_norm)
        return self._branch(x, self.feed_forward, self.feed_forward_norm)

    def _branch(
        self, x: Tensor, function: Callable[[Tensor], Tensor], norm: nn.Module, at: Selection | None = None
    ) -> Tensor:
        kept = x if at is None else at.select(x)
        if self.pre_norm:
            return kept + F.dropout(function(norm(x)), self.dropout, self.training)
        return norm(kept + F.dropout(function(x), self.dropout, self.training))


def hidden_matrices(model: nn.Module) -> Iterator[Tensor]:
    """The matrices inside the layers of a model: what is neither embedding, relative bias, head, norm nor bias."""
    for layer in model.modules():
        if isinstance(layer, Layer):
            yield from (part.weight for part in layer.modules() if isinstance(part, nn.Linear))
