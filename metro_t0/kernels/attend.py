"""softmax(scale * q k^T + bias) v, by the name of a backend.

Shapes: B batch, Q query length, S key length, H heads, K features per head. The bias depends on the distance
key - query alone, so that it travels as (H, Q + S - 1) numbers, one for each distance.

`valid` says which keys a query sees: (B, S) True on real tokens; or, for several documents in one row, (B, S) int64
numbers of the documents, 0 on padding, with as many queries as keys: then a query sees its own document only.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from metro_t0.errors import UserError
from metro_t0.kernels.recorded_weights import record


class View(NamedTuple):
    """What queries see of the keys, and the bias that is added to their scores; the arguments of `attend`."""

    bias: Tensor | None
    valid: Tensor | None
    causal: bool
    columns: Tensor | None


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
    backend: str = "sdpa",
    columns: Tensor | None = None,
) -> Tensor:
    """softmax(scale * q k^T + bias) v over valid (and, if causal, earlier) keys; backend: a name of `BACKENDS`.

    q (B, H, Q, K); k, v (B, H, S, K); bias (H, Q + S - 1) by distance, learned; valid (B, S), see above.
    Queries are aligned with the last keys: a causal query i sees keys up to i + S - Q. Or `columns` (B, Q) says at
    which of as many columns as there are keys each query stands; the bias is then (H, 2 S - 1).
    """
    return BACKENDS[backend](q, k, v, View(bias, valid, causal, columns), scale, dropout)


def _attend_sdpa(q: Tensor, k: Tensor, v: Tensor, view: View, scale: float, dropout: float) -> Tensor:
    """torch's fused attention, with the smallest mask that says what is seen."""
    bias, valid, causal, columns = view
    if columns is None and q.size(2) == 1:
        causal = False  # the newest query sees every key
    mask, all_earlier = None, False
    if columns is not None:
        mask = _mask_at(columns, k, bias, valid, causal)
    elif bias is None and valid is None and q.size(2) == k.size(2):
        all_earlier = causal
    elif bias is None and not causal:
        mask = None if valid is None else ~_hidden(valid)
    else:
        mask = _no_bias(q, k) if bias is None else bias_matrix(bias, q.size(2), k.size(2)).to(q.dtype)
        if causal:
            mask = mask.masked_fill(_future(q, k), -math.inf)
        if valid is not None and has_documents(valid):
            mask = mask.masked_fill(_hidden(valid), -math.inf)
        elif valid is not None:
            q, k = _hide_padding_in_features(q, k, valid)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=all_earlier, dropout_p=dropout, scale=scale
    )


def _attend_eager(q: Tensor, k: Tensor, v: Tensor, view: View, scale: float, dropout: float) -> Tensor:
    """The definition, spelled out; softmax in fp32. Reference for the other backends."""
    bias, valid, causal, columns = view
    scores = scale * (q.float() @ k.float().transpose(-1, -2))
    if columns is not None:
        mask = _mask_at(columns, k, bias, valid, causal)
        if mask is not None and mask.dtype == torch.bool:
            mask = _no_bias(q, k).masked_fill(~mask, torch.finfo(q.dtype).min / 2)
        bias, valid, causal = mask, None, False
    elif bias is not None:
        bias = bias_matrix(bias, q.size(2), k.size(2))
    if bias is not None:
        scores = scores + bias.float()
    if causal:
        scores = scores.masked_fill(_future(q, k), -math.inf)
    if valid is not None:
        scores = scores.masked_fill(_hidden(valid), torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    record(weights)
    return F.dropout(weights, dropout).to(v.dtype) @ v


def _attend_triton(q: Tensor, k: Tensor, v: Tensor, view: View, scale: float, dropout: float) -> Tensor:
    """Our own kernels, for the one kind of attention that torch's fused ones are slow at: under a learned bias."""
    bias, valid, causal, columns = view
    if bias is None or causal or columns is not None or q.size(2) != k.size(2):
        return _attend_sdpa(q, k, v, view, scale, dropout)
    if valid is not None and has_documents(valid):
        return _attend_sdpa(q, k, v, view, scale, dropout)
    if not q.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError("model field attention_backend is triton, which runs on CUDA only: use sdpa")
    try:
        from metro_t0.kernels.biased_attention import biased_attention
    except ImportError as error:
        raise UserError(f"model field attention_backend is triton, which cannot be imported: {error}") from error
    return biased_attention(q, k, v, bias_matrix(bias, q.size(2), k.size(2))[0], valid, scale, dropout)


def _attend_flex(q: Tensor, k: Tensor, v: Tensor, view: View, scale: float, dropout: float) -> Tensor:
    """FlexAttention: no (Q, S) matrix is ever stored, neither scores nor bias. It has no dropout.

    On CUDA the kernel is compiled. On a CPU torch has no backward pass of it, and its forward pass is a slow check.
    """
    if q.requires_grad and not q.is_cuda:
        raise UserError("model field attention_backend is flex, which trains on CUDA only: use sdpa")
    bias, valid, causal, columns = view
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
    return cast(Tensor, _flex_kernel(q.is_cuda)(q, k, v, score_mod=score, block_mask=mask, scale=scale))


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, View, float, float], Tensor]] = {
    "sdpa": _attend_sdpa,
    "flex": _attend_flex,
    "eager": _attend_eager,
    "triton": _attend_triton,
}
"""The values of the model field attention_backend."""


@functools.cache
def _flex_kernel(compiled: bool) -> Callable[..., Any]:
    kernel: Callable[..., Any] = flex_attention
    return torch.compile(kernel) if compiled else kernel


@functools.lru_cache(maxsize=32)
def _causal_blocks(queries: int, keys: int, device: torch.device) -> BlockMask:
    def earlier(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j <= i + keys - queries

    return create_block_mask(earlier, None, None, queries, keys, device=str(device))


def bias_matrix(by_distance: Tensor, queries: int, keys: int) -> Tensor:
    """(H, Q + S - 1) -> (1, H, Q, S): the numbers of the distances laid out as the diagonals of a matrix.

    A row of Q + S numbers, repeated Q times and read again in rows one shorter, moves on by one in each row. The
    backward pass is then a plain sum over rows (accumulated in fp32), which that of `unfold` is not. Contiguous,
    because CUDA's fused attention takes no other mask.
    """
    width = queries + keys
    repeated = F.pad(by_distance, (0, 1)).unsqueeze(1).expand(-1, queries, -1).flatten(1)
    flat = repeated[:, queries - 1 : queries - 1 + queries * (width - 1)]
    rows: Tensor = flat.unflatten(1, (queries, width - 1))
    return rows[..., :keys].contiguous().unsqueeze(0)


def padding_mask(valid: Tensor) -> Tensor | None:
    """(B, S); None where nothing is padded, so that masking can be skipped. Asking makes a GPU wait: there, never."""
    return None if valid.device.type == "cpu" and bool(valid.all()) else valid


def has_documents(valid: Tensor) -> bool:
    """True for (B, S) numbers of documents, False for a mask of real tokens."""
    return valid.dtype != torch.bool


def positions_within(documents: Tensor) -> Tensor:
    """(B, S) document numbers -> (B, S) positions that count from 0 in every document."""
    index = torch.arange(documents.size(1), device=documents.device)
    begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))
    return index - torch.where(begins, index, 0).cummax(1).values


def _hidden(valid: Tensor) -> Tensor:
    """(B, S) -> True where a key is padding (B, 1, 1, S), or where query and key are of two documents (B, 1, S, S)."""
    if has_documents(valid):
        return valid[:, None, :, None] != valid[:, None, None, :]
    return ~valid[:, None, None, :]


def _future(q: Tensor, k: Tensor) -> Tensor:
    """(Q, S) True where key j lies after query i; the last query is aligned with the last key."""
    queries, keys = q.size(2), k.size(2)
    return torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(keys - queries + 1)


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
    mask: Tensor = rows.unflatten(1, columns.shape).transpose(0, 1).to(k.dtype)
    # A row of padding alone must stay finite: its queries are no one's, but not-a-number would spread from them.
    return (mask if seen is None else mask.masked_fill(~seen, torch.finfo(k.dtype).min / 2)).contiguous()


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
