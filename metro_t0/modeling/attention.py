"""Multi-head attention with a learned relative bias.

Shapes: B batch, Q query length, S key length, H heads, K features per head, D model width. The bias depends on the
distance key - query alone, so that it travels as (H, Q + S - 1) numbers, one for each distance (`RelativeBias`).

`valid` says which keys a query sees: (B, S) True on real tokens; or, for several documents in one row, (B, S) int64
numbers of the documents, 0 on padding, with as many queries as keys: then a query sees its own document only.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from metro_t0.errors import UserError
from metro_t0.modeling.config import AttentionBackend, BucketRule, ModelConfig
from metro_t0.modeling.recorded_weights import record
from metro_t0.modeling.selection import Selection

CUDA_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""In this order, the first that takes a call; torch's versions order them differently. cuDNN's is the fastest of all
but plans anew for every shape, so it comes first where shapes are fixed."""


def fused_kernels(device: torch.device, fixed_shapes: bool) -> AbstractContextManager[None]:
    """The kernels of SDPA that may be chosen inside; those of a CPU are torch's choice."""
    if device.type != "cuda":
        return nullcontext()
    first = [SDPBackend.CUDNN_ATTENTION] if fixed_shapes else []
    return sdpa_kernel([*first, *CUDA_KERNELS], set_priority=True)


class KeyValueCache(Protocol):
    """What incremental decoding keeps of one attention layer (Hugging Face caches are adapted to this)."""

    def filled(self) -> bool:
        """True where keys and values need not be computed again (cross-attention after the first step)."""

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values of a filled cache, (B, H, S, K) each."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions and give all keys and values so far."""


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
        if at is None:
            queries = self._heads(self.q(x))
        else:
            queries = self._heads(at.to_rows(self.q(at.select(x) if memory is None else x)))
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


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None,
    valid: Tensor | None,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    backend: AttentionBackend = "sdpa",
    columns: Tensor | None = None,
) -> Tensor:
    """softmax(scale * q k^T + bias) v over valid (and, if causal, earlier) keys.

    q (B, H, Q, K); k, v (B, H, S, K); bias (H, Q + S - 1) by distance, learned; valid (B, S), see above.
    Queries are aligned with the last keys: a causal query i sees keys up to i + S - Q. Or `columns` (B, Q) says at
    which of as many columns as there are keys each query stands; the bias is then (H, 2 S - 1).
    """
    if backend == "flex":
        return _attend_flex(q, k, v, bias, valid, causal, scale, columns)
    learned = bias is not None and not causal and columns is None and q.size(2) == k.size(2)
    if backend == "triton" and learned and (valid is None or not has_documents(valid)):
        return _attend_triton(q, k, v, cast(Tensor, bias), valid, scale, dropout)
    if columns is not None:
        mask = _mask_at(columns, k, bias, valid, causal)
        if backend != "eager":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
        if mask is not None and mask.dtype == torch.bool:
            mask = _no_bias(q, k).masked_fill(~mask, torch.finfo(q.dtype).min / 2)
        return _attend_eager(q, k, v, mask, None, False, scale, dropout)
    if bias is not None:
        bias = bias_matrix(bias, q.size(2), k.size(2))
    if backend == "eager":
        return _attend_eager(q, k, v, bias, valid, causal, scale, dropout)
    if causal and q.size(2) == 1:
        causal = False  # the newest query sees every key
    if bias is None and valid is None and q.size(2) == k.size(2):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, dropout_p=dropout, scale=scale)
    if bias is None and not causal:
        mask = None
        if valid is not None:
            mask = ~_other_documents(valid) if has_documents(valid) else valid[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    mask = _no_bias(q, k) if bias is None else bias.to(q.dtype)
    if causal:
        mask = mask.masked_fill(_future(q.size(2), k.size(2), q.device), -math.inf)
    if valid is not None and has_documents(valid):
        mask = mask.masked_fill(_other_documents(valid), -math.inf)
    elif valid is not None:
        q, k = _hide_padding_in_features(q, k, valid)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)


def _no_bias(q: Tensor, k: Tensor) -> Tensor:
    return q.new_zeros(1, 1, q.size(2), k.size(2))


def _mask_at(columns: Tensor, k: Tensor, bias: Tensor | None, valid: Tensor | None, causal: bool) -> Tensor | None:
    """What SDPA takes for queries that stand at (B, Q) columns: bias rows (B, H, Q, S), or True where a key is seen."""
    seen: Tensor | None = None
    if valid is not None:
        seen = valid[:, None, None, :]
        if has_documents(valid):
            seen = valid.gather(1, columns)[:, None, :, None] == seen
    if causal:
        earlier = torch.arange(k.size(2), device=k.device) <= columns[:, None, :, None]
        seen = earlier if seen is None else seen & earlier
    if bias is None:
        return seen
    rows = bias_matrix(bias, k.size(2), k.size(2))[0].index_select(1, columns.flatten())  # (H, B * Q, S)
    mask = rows.unflatten(1, columns.shape).transpose(0, 1).to(k.dtype)
    # A row of padding alone must stay finite: its queries are no one's, but not-a-number would spread from them.
    return (mask if seen is None else mask.masked_fill(~seen, torch.finfo(k.dtype).min / 2)).contiguous()


def padding_mask(valid: Tensor) -> Tensor | None:
    """None where nothing is padded, so that attention can skip masking. Asking costs a sync on a GPU: there, never."""
    return None if valid.device.type == "cpu" and bool(valid.all()) else valid


def has_documents(valid: Tensor) -> bool:
    """True for numbers of documents, False for a mask of real tokens."""
    return valid.dtype != torch.bool


def positions_within(documents: Tensor) -> Tensor:
    """(B, S) document numbers -> (B, S) positions that count from 0 in every document."""
    index = torch.arange(documents.size(1), device=documents.device)
    begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))
    return index - torch.where(begins, index, 0).cummax(1).values


def _other_documents(documents: Tensor) -> Tensor:
    """(B, S) -> (B, 1, S, S) True where query and key belong to different documents."""
    return documents[:, None, :, None] != documents[:, None, None, :]


def _hide_padding_in_features(q: Tensor, k: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Let padding ride along as extra features: every query gets a 1, padded keys a huge negative number.

    Adding the padding to a (1, H, Q, S) bias instead would copy that bias once per example of the batch.
    CUDA kernels want the feature size to stay a multiple of 8.
    """
    extra = 8 if q.is_cuda else 1
    penalty = (~valid).to(k.dtype) * (torch.finfo(k.dtype).min / 2)
    ones = q.new_zeros(*q.shape[:3], extra)
    ones[..., 0] = 1
    penalties = k.new_zeros(*k.shape[:3], extra)
    penalties[..., 0] = penalty[:, None, :]
    return torch.cat((q, ones), dim=-1), torch.cat((k, penalties), dim=-1)


def _attend_eager(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    valid: Tensor | None,
    causal: bool,
    scale: float,
    dropout: float,
) -> Tensor:
    """The definition, spelled out; softmax in fp32. Reference for the other backends."""
    scores = scale * (q.float() @ k.float().transpose(-1, -2))
    if bias is not None:
        scores = scores + bias.float()
    if causal:
        scores = scores.masked_fill(_future(q.size(2), k.size(2), q.device), -math.inf)
    if valid is not None:
        hidden = _other_documents(valid) if has_documents(valid) else ~valid[:, None, None, :]
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    record(weights)
    return F.dropout(weights, dropout).to(v.dtype) @ v


def _attend_triton(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, valid: Tensor | None, scale: float, dropout: float
) -> Tensor:
    """Our own kernels (metro_t0/kernels), for the one kind of attention that torch's fused ones are slow at."""
    if not q.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError("model field attention_backend is triton, which runs on CUDA only: use sdpa")
    try:
        from metro_t0.kernels.biased_attention import biased_attention
    except ImportError as error:
        raise UserError(f"model field attention_backend is triton, which cannot be imported: {error}") from error
    matrix = bias_matrix(bias, q.size(2), k.size(2))[0]
    return biased_attention(q, k, v, matrix, valid, scale, dropout)


def _attend_flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    valid: Tensor | None,
    causal: bool,
    scale: float,
    columns: Tensor | None = None,
) -> Tensor:
    """FlexAttention: no (Q, S) matrix is ever stored, neither scores nor bias. It has no dropout.

    On CUDA the kernel is compiled. On a CPU torch has no backward pass of it, and its forward pass is a slow check.
    """
    if q.requires_grad and not q.is_cuda:
        raise UserError("model field attention_backend is flex, which trains on CUDA only: use sdpa")
    queries, keys = q.size(2), k.size(2)

    last = (queries if columns is None else keys) - 1

    def score(scores: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if columns is not None:
            i = columns[b, i]
            if causal:
                scores = torch.where(j <= i, scores, -math.inf)
        if bias is not None:
            scores = scores + bias[h, j - i + last]
        if valid is None:
            return scores
        seen = valid[b, i] == valid[b, j] if has_documents(valid) else valid[b, j]
        return torch.where(seen, scores, -math.inf)

    mask = _causal_blocks(queries, keys, q.device) if causal and columns is None else None
    return _flex_kernel(q.is_cuda)(q, k, v, score_mod=score, block_mask=mask, scale=scale)


@functools.cache
def _flex_kernel(compiled: bool) -> Callable[..., Any]:
    kernel: Callable[..., Any] = flex_attention
    return torch.compile(kernel) if compiled else kernel


@functools.lru_cache(maxsize=32)
def _causal_blocks(queries: int, keys: int, device: torch.device) -> BlockMask:
    def earlier(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j <= i + keys - queries

    return create_block_mask(earlier, None, None, queries, keys, device=str(device))


def _future(queries: int, keys: int, device: torch.device) -> Tensor:
    """(Q, S) True where key j lies after query i; the last query is aligned with the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu(keys - queries + 1)


class RelativeBias(nn.Module):
    """A learned score per head and bucket of the distance key - query (paper section 4; T5 section 2.1)."""

    def __init__(self, config: ModelConfig, bidirectional: bool) -> None:
        super().__init__()
        self.rule: BucketRule = config.relative_rule
        self.bidirectional = bidirectional
        self.num_buckets = config.relative_buckets
        self.max_distance = config.relative_max_distance
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
        if self.rule == "symmetric":
            return symmetric_buckets(distances, self.num_buckets, self.max_distance)
        return t5_buckets(distances, self.bidirectional, self.num_buckets, self.max_distance)


def bias_matrix(by_distance: Tensor, queries: int, keys: int) -> Tensor:
    """(H, Q + S - 1) -> (1, H, Q, S): the numbers of the distances laid out as the diagonals of a matrix.

    A row of Q + S numbers, repeated Q times and read again in rows one shorter, moves on by one in each row. The
    backward pass is then a plain sum over rows (accumulated in fp32), which that of `unfold` is not. Contiguous,
    because CUDA's fused attention takes no other mask.
    """
    width = queries + keys
    repeated = F.pad(by_distance, (0, 1)).unsqueeze(1).expand(-1, queries, -1).flatten(1)
    rows = repeated[:, queries - 1 : queries - 1 + queries * (width - 1)].unflatten(1, (queries, width - 1))
    return rows[..., :keys].contiguous().unsqueeze(0)


def symmetric_buckets(distances: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """METRO's rule: exact up to num_buckets / 4 on each side, then the ceiling of a log scale, mirrored by sign.

    Distance 0 falls into bucket num_buckets / 2 - 1; the last bucket is never used (paper's released tables).
    """
    half = num_buckets // 2
    exact = half // 2
    size = distances.abs()
    steps = torch.log(size.clamp(min=exact).double() / exact) / math.log((max_distance - 1) / exact)
    logarithmic = exact + torch.ceil(steps * (half - 1 - exact)).long()
    bucket = torch.where(size < exact, size, logarithmic.clamp(max=half - 1))
    return bucket * distances.sign() + half - 1


def t5_buckets(distances: Tensor, bidirectional: bool, num_buckets: int, max_distance: int) -> Tensor:
    """T5's rule: half of the buckets per direction, exact for small distances, then the floor of a log scale."""
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
