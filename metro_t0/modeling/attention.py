"""Multi-head attention with a learned relative bias.

Shapes: B batch, Q query length, S key length, H heads, D model width. The bias depends on the distance key - query
alone, so that it travels as (H, Q + S - 1) numbers, one for each distance. `valid` says which keys a query sees, as in
`kernels.attend`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metro_t0.kernels.attend import attend
from metro_t0.kernels.key_value_cache import KeyValueCache
from metro_t0.kernels.selection import Selection
from metro_t0.modeling.config import AttentionBackend, ModelConfig


class Attention(nn.Module):
    """Self-attention, or cross-attention where `memory` is given. T5's q, k, v, o projections."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.scale = config.head_dim**-0.5 if config.scale_attention else 1.0
        self.dropout = config.attention_dropout
        self.backend: AttentionBackend = config.attention_backend
        self.q = nn.Linear(config.d_model, config.inner_dim, bias=config.bias)
        self.k = nn.Linear(config.d_model, config.inner_dim, bias=config.bias)
        self.v = nn.Linear(config.d_model, config.inner_dim, bias=config.bias)
        self.o = nn.Linear(config.inner_dim, config.d_model, bias=config.bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        valid: Tensor | None = None,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        at: Selection | None = None,
    ) -> Tensor:
        """x (B, Q, D), memory (B, S, D), bias (H, Q + S - 1), valid (B, S) -> (B, Q, D).

        at: the N positions where the output is needed -> (N, D); beside a memory x is (N, D) already.
        """
        queries = self.q(x if at is None or memory is not None else at.select(x))
        queries = self._heads(queries if at is None else at.to_rows(queries))
        if cache is not None and cache.filled():
            keys, values = cache.read()
        else:
            source = x if memory is None else memory
            keys, values = self._heads(self.k(source)), self._heads(self.v(source))
            if cache is not None:
                keys, values = cache.append(keys, values)
        dropout = self.dropout if self.training else 0.0
        attended = attend(
            queries, keys, values, bias=bias, valid=valid, causal=causal,
            scale=self.scale, dropout=dropout, backend=self.backend, columns=None if at is None else at.columns,
        )  # fmt: skip
        attended = attended.transpose(1, 2).flatten(2)
        return self.o(attended if at is None else at.from_rows(attended))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class RelativeBias(nn.Module):
    """A learned score per head and bucket of the distance key - query (paper section 4; T5 section 2.1)."""

    def __init__(self, config: ModelConfig, bidirectional: bool) -> None:
        super().__init__()
        self.config = config
        self.bidirectional = bidirectional
        self.table = nn.Embedding(config.relative_buckets, config.num_heads)

    def forward(self, buckets: Tensor) -> Tensor:
        """(Q + S - 1,) buckets by distance, the same for all tables of a stack -> (H, Q + S - 1).

        Looking up distances instead of pairs lets the backward pass scatter Q + S - 1 rows instead of Q * S.
        """
        return self.table(buckets).t()

    def buckets_between(self, queries: int, keys: int) -> Tensor:
        """(Q + S - 1,) for Q queries aligned with the last of S keys: distances -(S - 1) to Q - 1."""
        return self.buckets(torch.arange(-(keys - 1), queries, device=self.table.weight.device))

    def buckets(self, distances: Tensor) -> Tensor:
        """Bucket of each distance (key position minus query position), int64 of the same shape."""
        num_buckets, max_distance = self.config.relative_buckets, self.config.relative_max_distance
        if self.config.relative_rule == "symmetric":
            return symmetric_buckets(distances, num_buckets, max_distance)
        return t5_buckets(distances, self.bidirectional, num_buckets, max_distance)


def symmetric_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """METRO's rule: exact up to num_buckets / 4 on each side, then the ceiling of a log scale, mirrored by sign.

    (...) -> (...), int64. Distance 0 falls into bucket num_buckets / 2 - 1; the last one is never used (as released).
    """
    half = num_buckets // 2
    exact = half // 2
    size = distances.abs()
    steps = torch.log(size.clamp(min=exact).double() / exact) / math.log((max_distance - 1) / exact)
    logarithmic = exact + torch.ceil(steps * (half - 1 - exact)).long()
    bucket = torch.where(size < exact, size, logarithmic.clamp(max=half - 1))
    return bucket * distances.sign() + half - 1


def t5_buckets(distances: Tensor, bidirectional: bool, num_buckets: int, max_distance: int) -> Tensor:
    """T5's rule: half of the buckets per direction, exact near 0, then the floor of a log scale. (...) -> (...)."""
    offset = torch.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        offset = (distances > 0).long() * num_buckets
        size = distances.abs()
    else:
        size = (-distances).clamp(min=0)
    exact = num_buckets // 2
    # float32 on purpose: published checkpoints were trained with buckets rounded in this precision.
    steps = torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    logarithmic = (exact + steps.long()).clamp(max=num_buckets - 1)
    return offset + torch.where(size < exact, size, logarithmic)
