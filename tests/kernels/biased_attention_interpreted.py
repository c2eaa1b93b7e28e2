"""Started by test_biased_attention.py with TRITON_INTERPRET=1; prints what held."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metro_t0.kernels.attend import attend
from metro_t0.kernels.biased_attention import attention_forward, biased_attention
from metro_t0.modeling import preset
from metro_t0.modeling.encoder_decoder import T5

SCALE, RATE = 0.3, 0.25


def inputs(batch: int, heads: int, length: int, features: int) -> list[Tensor]:
    """q, k, v as they come out of projections, a bias by distance, and the gradient of the output."""
    torch.manual_seed(0)
    made = [torch.randn(batch, length, heads * features) for _ in range(3)]
    heads_first = [x.unflatten(-1, (heads, -1)).transpose(1, 2).detach().requires_grad_() for x in made]
    bias = torch.randn(heads, 2 * length - 1, requires_grad=True)
    return [*heads_first, bias, torch.randn(batch, heads, length, features)]


def compare(batch: int, heads: int, length: int, features: int, real: list[int] | None) -> None:
    """Output, and the gradients of q, k, v and bias, with `real` tokens in each row."""
    *learned, gradient = inputs(batch, heads, length, features)
    q, k, v, bias = learned
    valid = None if real is None else torch.arange(length) < torch.tensor(real)[:, None]
    found = []
    for backend in ("triton", "eager"):
        out = attend(q, k, v, bias=bias, valid=valid, causal=False, scale=SCALE, backend=backend)  # type: ignore[arg-type]
        if real is not None and 0 in real:  # the definition then spreads over padding; ours says 0
            out = out[torch.tensor(real) > 0]
        found.append([out, *torch.autograd.grad(out, learned, gradient[: len(out)])])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def check_dropout() -> None:
    """The rate, and gradients against the definition with the same mask, which values of one show."""
    q, k, v, _, gradient = inputs(3, 2, 64, 64)
    bias = torch.randn(2, 64, 64, requires_grad=True)
    lengths, seed = torch.full((3,), 64, dtype=torch.int32), torch.tensor([7])
    shows = torch.eye(64).expand(3, 2, 64, 64).contiguous()
    qs, ks = q.detach().contiguous(), k.detach().contiguous()
    kept = attention_forward(qs, ks, shows, bias.detach(), lengths, seed, SCALE, RATE)[0].transpose(1, 2) != 0
    assert abs(float((~kept).float().mean()) - RATE) < 0.01
    halves = kept.flatten(0, 1)
    assert all(not torch.equal(halves[0], other) for other in halves[1:])

    def definition() -> Tensor:
        p = (SCALE * q @ k.transpose(-1, -2) + bias).softmax(-1)
        return (p * kept / (1 - RATE)) @ v

    def ours() -> Tensor:
        return attention_forward(qkv[0], qkv[1], qkv[2], bias, lengths, seed, SCALE, RATE)[0].transpose(1, 2)

    qkv = [q, k, v]
    pairs: list[list[Tensor]] = []
    function: Callable[[], Tensor]
    for function in (ours, definition):
        out = function()
        pairs.append([out, *torch.autograd.grad(out, [*qkv, bias], gradient)])
    for mine, other in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    torch.manual_seed(1)
    once, again = (biased_attention(q, k, v, bias, None, SCALE, RATE) for _ in range(2))
    assert not torch.equal(once, again)


def check_model() -> None:
    """A whole model, whose decoder and cross-attention keep torch's kernels."""
    tokens = torch.randint(4, 90, (2, 20))
    valid = torch.arange(20) < torch.tensor([20, 13])[:, None]
    outputs = []
    for backend in ("triton", "sdpa"):
        config = preset("demo", vocab_size=100, d_model=32, num_heads=2, head_dim=16, attention_backend=backend)
        torch.manual_seed(0)
        model = T5(config)
        decoded, _ = model(tokens, tokens, valid)
        decoded.square().sum().backward()
        outputs.append([decoded, *(p.grad for p in model.parameters() if p.grad is not None)])
    for mine, other in zip(*outputs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-4)


compare(2, 2, 64, 16, None)
print("plain")
compare(1, 3, 71, 32, None)
print("odd")
compare(3, 2, 70, 16, [70, 1, 64])
print("padded")
compare(2, 2, 20, 16, [20, 0])
print("row_of_padding")
check_dropout()
print("dropout")
check_model()
print("model")
