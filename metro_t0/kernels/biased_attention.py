"""Self-attention with a learned bias as Triton kernels, forward and backward, in the manner of FlashAttention.

Shapes: B batch, H heads, T tokens, K features per head (a power of two, 16 or more). The bias (H, T, T) is the same for
all examples, and so is its gradient: a program owns one tile of it and adds up over the batch, so that no (B, H, T, T)
matrix is ever stored, nothing is added atomically, and every run gives the same sums. torch's fused kernels for a bias
with a gradient store one such matrix per layer and add it up afterwards.

Padding is on the right, given as lengths. Dropout hashes (seed, example, head, row, column), so that the backward pass
draws the same numbers again.

With S = scale Q K^T + bias, P = softmax(S), Z the dropout mask over 1 - p:
    O = (P Z) V;  dV = (P Z)^T dO;  dS = P (Z (dO V^T) - sum(dO O))
    dQ = scale dS K;  dK = scale dS^T Q;  dbias = sum of dS over the batch
(Dao et al. 2022, appendix B; Dao 2023, algorithm 2.)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)
FORWARD, BACKWARD, OVER_BATCH = {"M": 64, "N": 64}, {"M": 64, "N": 64}, {"M": 128, "N": 64}
"""Rows and columns of a tile."""
NARROW = {"N": 32}
"""Columns in the backward pass where a matrix product takes its operands from registers: 64 would spill."""


@triton.jit
def _kept(key, row, column, T, THRESHOLD):  # type: ignore[no-untyped-def]
    """True where a probability is kept: an integer hash of its counter (two rounds of multiply and shift)."""
    x = (row * T + column).to(tl.uint32) ^ key
    x = (x ^ (x >> 16)) * 0x21F0AAAD
    x = (x ^ (x >> 15)) * 0x735A2D97
    return (x ^ (x >> 15)) >= tl.cast(THRESHOLD, tl.uint32)


@triton.jit
def _key(Seed, bh):  # type: ignore[no-untyped-def]
    """Another stream of numbers for every example and head."""
    x = tl.load(Seed).to(tl.uint32) + bh.to(tl.uint32) * 0x9E3779B9
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def _tile(Base, row, stride, k, T):  # type: ignore[no-untyped-def]
    """(rows, K) of a (T, K) matrix, zeros beyond its end."""
    return tl.load(Base + row[:, None] * stride + k[None, :], mask=row[:, None] < T, other=0.0)


@triton.jit
def _begins(bh, sb, sh, H, T, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where an example and head begins in q, k and v; and in what is laid out as the output projection reads it."""
    b, h = (bh // H).to(tl.int64), bh % H
    return b * sb + h * sh, (b * T * H + h) * D


@triton.jit
def _example(Lengths, Seed, bh, sb, sh, H, T, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where an example and head begins, as `_begins`; the example's length; its stream of random numbers."""
    start, own = _begins(bh, sb, sh, H, T, D)
    return start, own, tl.load(Lengths + bh // H), _key(Seed, bh)


@triton.jit
def _rows(Q, DO, Lse, Delta, bh, row, d, sb, sh, st, H, T, D: tl.constexpr):  # type: ignore[no-untyped-def]
    """What the backward pass reads for a tile's rows: q, dO, log2 of the sums, sum(dO O)."""
    start, own = _begins(bh, sb, sh, H, T, D)
    lse = tl.load(Lse + bh * T + row, mask=row < T, other=0.0)
    delta = tl.load(Delta + bh * T + row, mask=row < T, other=0.0)
    return _tile(Q + start, row, st, d, T), _tile(DO + own, row, H * D, d, T), lse, delta


@triton.jit
def _columns(K, V, start, column, d, st, length):  # type: ignore[no-untyped-def]
    """Keys and values of a tile's columns."""
    return _tile(K + start, column, st, d, length), _tile(V + start, column, st, d, length)


@triton.jit
def _scores(q, k, Bias, row, column, T, length, scale, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """scale Q K^T + bias in base 2, minus infinity outside."""
    inside = (row[:, None] < T) & (column[None, :] < length)
    bias = tl.load(Bias + row[:, None] * T + column[None, :], mask=inside, other=0.0).to(tl.float32)
    scores = (tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + bias) * LOG2_E
    return tl.where(inside, scores, -float("inf"))


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    Q, K, V, Bias, Lengths, Seed, Out, Lse, sb, sh, st, H, T, scale, threshold, keep_scale,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    bh = tl.program_id(1)
    row, d = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, D)
    start, own, length, key = _example(Lengths, Seed, bh, sb, sh, H, T, D)
    q = _tile(Q + start, row, st, d, T)
    largest = tl.full((M,), -float("inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    out = tl.zeros((M, D), tl.float32)
    for begin in range(0, T, N):
        column = begin + tl.arange(0, N)
        k, v = _columns(K, V, start, column, d, st, length)
        scores = _scores(q, k, Bias + bh % H * T * T, row, column, T, length, scale, PRECISION)
        new = tl.maximum(largest, tl.max(scores, 1))
        new = tl.where(new == -float("inf"), 0.0, new)
        p = tl.exp2(scores - new[:, None])
        shrink = tl.exp2(largest - new)
        total = total * shrink + tl.sum(p, 1)
        if DROPOUT:
            p = tl.where(_kept(key, row[:, None], column[None, :], T, threshold), p * keep_scale, 0.0)
        out = out * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        largest = new
    total = tl.where(total == 0.0, 1.0, total)
    at = Out + own + row[:, None] * (H * D) + d[None, :]
    tl.store(at, (out / total[:, None]).to(Out.dtype.element_ty), mask=row[:, None] < T)
    tl.store(Lse + bh * T + row, largest + tl.log2(total), mask=row < T)


@triton.jit
def _gradients_of_tile(  # type: ignore[no-untyped-def]
    q, do, lse, delta, k, v, Bias, key, row, column, T, length, scale, threshold, keep_scale,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """P Z (what the values were weighed by) and dS of one tile."""
    p = tl.exp2(_scores(q, k, Bias, row, column, T, length, scale, PRECISION) - lse[:, None])
    dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
    weight = p
    if DROPOUT:
        kept = _kept(key, row[:, None], column[None, :], T, threshold)
        weight = tl.where(kept, p * keep_scale, 0.0)
        dp = tl.where(kept, dp * keep_scale, 0.0)
    return weight, p * (dp - delta[:, None])


@triton.jit
def _backward_keys(  # type: ignore[no-untyped-def]
    Q, K, V, DO, Bias, Lengths, Seed, Lse, Delta, DK, DV, sb, sh, st, H, T, scale, threshold, keep_scale,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dK and dV of N columns, over all rows."""
    bh = tl.program_id(1)
    column, d = tl.program_id(0) * N + tl.arange(0, N), tl.arange(0, D)
    start, own, length, key = _example(Lengths, Seed, bh, sb, sh, H, T, D)
    k, v = _columns(K, V, start, column, d, st, length)
    dk = tl.zeros((N, D), tl.float32)
    dv = tl.zeros((N, D), tl.float32)
    for begin in range(0, T, M):
        row = begin + tl.arange(0, M)
        q, do, lse, delta = _rows(Q, DO, Lse, Delta, bh, row, d, sb, sh, st, H, T, D)
        weight, ds = _gradients_of_tile(
            q, do, lse, delta, k, v, Bias + bh % H * T * T, key, row, column, T, length, scale, threshold, keep_scale,
            DROPOUT, PRECISION,
        )  # fmt: skip
        dv += tl.dot(tl.trans(weight.to(do.dtype)), do, input_precision=PRECISION)
        dk += tl.dot(tl.trans(ds.to(q.dtype)), q, input_precision=PRECISION)
    at = own + column[:, None] * (H * D) + d[None, :]
    tl.store(DK + at, (dk * scale).to(DK.dtype.element_ty), mask=column[:, None] < T)
    tl.store(DV + at, dv.to(DV.dtype.element_ty), mask=column[:, None] < T)


@triton.jit
def _backward_queries(  # type: ignore[no-untyped-def]
    Q, K, V, DO, Bias, Lengths, Seed, Lse, Delta, DQ, sb, sh, st, H, T, scale, threshold, keep_scale,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dQ of M rows, over all columns."""
    bh = tl.program_id(1)
    row, d = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, D)
    start, own, length, key = _example(Lengths, Seed, bh, sb, sh, H, T, D)
    q, do, lse, delta = _rows(Q, DO, Lse, Delta, bh, row, d, sb, sh, st, H, T, D)
    dq = tl.zeros((M, D), tl.float32)
    for begin in range(0, T, N):
        column = begin + tl.arange(0, N)
        k, v = _columns(K, V, start, column, d, st, length)
        _, ds = _gradients_of_tile(
            q, do, lse, delta, k, v, Bias + bh % H * T * T, key, row, column, T, length, scale, threshold, keep_scale,
            DROPOUT, PRECISION,
        )  # fmt: skip
        dq += tl.dot(ds.to(k.dtype), k, input_precision=PRECISION)
    at = own + row[:, None] * (H * D) + d[None, :]
    tl.store(DQ + at, (dq * scale).to(DQ.dtype.element_ty), mask=row[:, None] < T)


@triton.jit
def _backward_bias(  # type: ignore[no-untyped-def]
    Q, K, V, DO, Bias, Lengths, Seed, Lse, Delta, DBias, sb, sh, st, B, H, T, scale, threshold, keep_scale,
    M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dbias of one tile, over the batch."""
    h = tl.program_id(2)
    row, column = tl.program_id(0) * M + tl.arange(0, M), tl.program_id(1) * N + tl.arange(0, N)
    d = tl.arange(0, D)
    total = tl.zeros((M, N), tl.float32)
    for b in range(0, B):
        bh = b * H + h
        start, _, length, key = _example(Lengths, Seed, bh, sb, sh, H, T, D)
        k, v = _columns(K, V, start, column, d, st, length)
        q, do, lse, delta = _rows(Q, DO, Lse, Delta, bh, row, d, sb, sh, st, H, T, D)
        _, ds = _gradients_of_tile(
            q, do, lse, delta, k, v, Bias + h * T * T, key, row, column, T, length, scale, threshold, keep_scale,
            DROPOUT, PRECISION,
        )  # fmt: skip
        total += ds
    at = DBias + h * T * T + row[:, None] * T + column[None, :]
    tl.store(at, total, mask=(row[:, None] < T) & (column[None, :] < T))


def biased_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, valid: Tensor | None, scale: float, dropout: float
) -> Tensor:
    """q, k, v (B, H, T, K), bias (H, T, T), valid (B, T) True on real tokens, padding on the right -> (B, H, T, K)."""
    batch, _, length, _ = q.shape
    if valid is None:
        lengths = torch.full((batch,), length, dtype=torch.int32, device=q.device)
    else:
        lengths = valid.sum(1, dtype=torch.int32)
    seed = torch.randint(0, 2**31 - 1, (1,), device=q.device) if dropout else lengths[:1].long()
    out: Tensor = attention_forward(*_alike(q, k, v), bias.to(q.dtype).contiguous(), lengths, seed, scale, dropout)[0]
    return out.transpose(1, 2)


def _alike(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three with the same strides, the last one 1."""
    if q.stride() == k.stride() == v.stride() and q.stride(-1) == 1:
        return q, k, v
    return q.contiguous(), k.contiguous(), v.contiguous()


def _narrow() -> dict[str, int]:
    """NARROW, or nothing where matrix products read shared memory: Hopper (90), Blackwell (100 and 103), not 120."""
    if triton.knobs.runtime.interpret:
        return {}
    target = triton.runtime.driver.active.get_current_target()
    return {} if target.backend == "cuda" and target.arch // 10 in (9, 10) else NARROW


def _settings(q: Tensor, dropout: float, tile: dict[str, int]) -> tuple[tuple[float, ...], dict[str, object]]:
    """Threshold of the hash and factor of what is kept; the constants of a kernel."""
    numbers = (min(int(dropout * 2**32), 2**32 - 1), 1 / (1 - dropout))
    precision = "ieee" if q.dtype == torch.float32 else "tf32"
    return numbers, {**tile, "D": q.size(-1), "DROPOUT": dropout > 0, "PRECISION": precision}


@torch.library.custom_op("metro_t0::attention_forward", mutates_args=())
def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, lengths: Tensor, seed: Tensor, scale: float, dropout: float
) -> tuple[Tensor, Tensor]:
    """Output (B, T, H, K), and log2 of the softmax's sums (B, H, T)."""
    batch, heads, length, features = q.shape
    out = q.new_empty(batch, length, heads, features)
    sums = torch.empty(batch, heads, length, dtype=torch.float32, device=q.device)
    numbers, constants = _settings(q, dropout, FORWARD)
    grid = (triton.cdiv(length, FORWARD["M"]), batch * heads)
    _forward[grid](
        q, k, v, bias, lengths, seed, out, sums, *q.stride()[:3], heads, length, scale, *numbers, **constants,
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return out, sums


@attention_forward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, lengths: Tensor, seed: Tensor, scale: float, dropout: float
) -> tuple[Tensor, Tensor]:
    batch, heads, length, features = q.shape
    sums = torch.empty(batch, heads, length, dtype=torch.float32, device=q.device)
    return q.new_empty(batch, length, heads, features), sums


@torch.library.custom_op("metro_t0::attention_backward", mutates_args=())
def attention_backward(
    do: Tensor, out: Tensor, sums: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, lengths: Tensor,
    seed: Tensor, scale: float, dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dQ, dK, dV (B, T, H, K) and dbias (H, T, T) in fp32."""
    batch, heads, length, _ = q.shape
    delta = (do.float() * out.float()).sum(-1).transpose(1, 2).contiguous()
    dq, dk, dv = (torch.empty_like(out) for _ in range(3))
    dbias = torch.empty(bias.shape, dtype=torch.float32, device=q.device)
    each, over_batch = BACKWARD | _narrow(), OVER_BATCH | _narrow()
    numbers, constants = _settings(q, dropout, each)
    inputs = (q, k, v, do, bias, lengths, seed, sums, delta)
    last = (*q.stride()[:3], heads, length, scale, *numbers)
    tiles = {name: triton.cdiv(length, each[name]) for name in "MN"}
    _backward_keys[tiles["N"], batch * heads](*inputs, dk, dv, *last, **constants, num_warps=4, num_stages=2)
    _backward_queries[tiles["M"], batch * heads](*inputs, dq, *last, **constants, num_warps=4, num_stages=2)
    _, constants = _settings(q, dropout, over_batch)
    grid = (triton.cdiv(length, over_batch["M"]), triton.cdiv(length, over_batch["N"]), heads)
    last = (*q.stride()[:3], batch, heads, length, scale, *numbers)
    _backward_bias[grid](*inputs, dbias, *last, **constants, num_warps=8, num_stages=2)
    return dq, dk, dv, dbias


@attention_backward.register_fake
def _(
    do: Tensor, out: Tensor, sums: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, lengths: Tensor,
    seed: Tensor, scale: float, dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dq, dk, dv = (torch.empty_like(out) for _ in range(3))
    return dq, dk, dv, torch.empty(bias.shape, dtype=torch.float32, device=q.device)


def _keep_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, bias, lengths, seed, ctx.scale, ctx.dropout = inputs
    ctx.save_for_backward(*output, q, k, v, bias, lengths, seed)


def _gradients(ctx, do, _):  # type: ignore[no-untyped-def]
    out, sums, *inputs = ctx.saved_tensors
    dq, dk, dv, dbias = attention_backward(do.contiguous(), out, sums, *inputs, ctx.scale, ctx.dropout)
    return *(x.transpose(1, 2) for x in (dq, dk, dv)), dbias.to(inputs[3].dtype), None, None, None, None


attention_forward.register_autograd(_gradients, setup_context=_keep_for_backward)
