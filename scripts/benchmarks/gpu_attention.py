"""Attention alone on one GPU: what each kernel, torch's and ours, gives and costs for each kind of attention.

A kernel whose dropout is not at the rate asked for, or whose output is off, is refused and its figures are marked.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from scripts.benchmarks.measuring import timed

HEADS, FEATURES = 12, 64
RATE, ALLOWED = 0.1, 0.005
Run = Callable[[dict[str, Any], float], Tensor]
"""Attention of SDPA's arguments with a rate of dropout."""


def by_torch(kernel: SDPBackend) -> Run:
    """SDPA with one of its kernels."""

    def run(arguments: dict[str, Any], dropout: float) -> Tensor:
        with sdpa_kernel(kernel):
            return F.scaled_dot_product_attention(**arguments, dropout_p=dropout)

    return run


def by_triton(arguments: dict[str, Any], dropout: float) -> Tensor:
    """Our own kernel."""
    from metro_t0.kernels.biased_attention import biased_attention

    q, k, v, bias = (arguments[name] for name in ("query", "key", "value", "attn_mask"))
    if arguments["is_causal"] or bias is None or not bias.is_floating_point():
        raise RuntimeError("for a learned bias alone")
    return biased_attention(q, k, v, bias[0], None, q.size(-1) ** -0.5, dropout)


KERNELS: dict[str, Run] = {
    "flash": by_torch(SDPBackend.FLASH_ATTENTION),
    "efficient": by_torch(SDPBackend.EFFICIENT_ATTENTION),
    "cudnn": by_torch(SDPBackend.CUDNN_ATTENTION),
    "math": by_torch(SDPBackend.MATH),
    "triton": by_triton,
}
"""Ours last: a kernel that reads where it must not takes along all that its process would still have measured."""


class Recorder(Protocol):
    """Where figures go."""

    def add(self, kind: str, values: dict[str, Any]) -> None:
        """One line."""


@dataclass(frozen=True)
class Kind:
    """A kind of attention."""

    name: str
    causal: bool = False
    bias: bool = False
    padding: bool = False


KINDS = (
    Kind("encoder, learned bias", bias=True),
    Kind("decoder, causal", causal=True),
    Kind("cross"),
    Kind("cross, padding", padding=True),
)


def inputs(kind: Kind, batch: int, length: int, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of SDPA; those that learn ask for gradients."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (batch, HEADS, length, FEATURES)
    q, k, v = (torch.randn(shape, generator=generator, device=device, dtype=dtype, requires_grad=True) for _ in "qkv")
    mask: Tensor | None = None
    if kind.bias:
        mask = torch.randn(1, HEADS, length, length, generator=generator, device=device, dtype=dtype)
        mask.requires_grad_()
    if kind.padding:
        mask = torch.ones(batch, 1, 1, length, dtype=torch.bool, device=device)
        mask[-1, ..., -length // 3 :] = False
    return {"query": q, "key": k, "value": v, "attn_mask": mask, "is_causal": kind.causal}


def gradients(run: Run, arguments: dict[str, Any], dropout: float) -> list[Tensor]:
    """Output, then the gradients of everything that learns."""
    learned = [x for x in arguments.values() if isinstance(x, Tensor) and x.requires_grad]
    output = run(arguments, dropout)
    return [output.detach(), *torch.autograd.grad(output.float().square().sum(), learned)]


def error_of(arguments: dict[str, Any], run: Run) -> float:
    """Largest relative error against the definition in fp32."""

    def fp32(x: Any) -> Any:
        real = isinstance(x, Tensor) and x.is_floating_point()
        return x.detach().float().requires_grad_(x.requires_grad) if real else x

    expected = gradients(KERNELS["math"], {name: fp32(x) for name, x in arguments.items()}, 0.0)
    found = gradients(run, arguments, 0.0)
    return max(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def dropout_rate(kind: Kind, run: Run, device: str, dtype: torch.dtype) -> float:
    """Share of the attention probabilities that dropout set to 0, with values that show every one of them."""
    arguments = inputs(kind, 64, FEATURES, device, dtype)
    shows = torch.eye(FEATURES, device=device, dtype=dtype).expand(64, HEADS, -1, -1).contiguous().requires_grad_()
    zeros = torch.zeros_like(arguments["query"]).requires_grad_()
    arguments |= {"query": zeros, "key": zeros.clone(), "value": shows}
    output = run(arguments, RATE)
    seen = torch.ones(FEATURES, FEATURES, dtype=torch.bool, device=device)
    seen = (seen.tril() if kind.causal else seen).expand_as(output)
    if kind.padding:
        seen = seen & arguments["attn_mask"]
    return float((output == 0)[seen].float().mean())


def kernel_names(run: Callable[[], object], device: str) -> list[str]:
    """The longest-running kernels."""
    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as recorded:
        timed(run, device)
    events = sorted(
        recorded.key_averages(), key=lambda e: -(e.self_device_time_total if on_gpu else e.self_cpu_time_total)
    )
    return [event.key[:110] for event in events[:3]]


def attention_flops(kind: Kind, batch: int, length: int) -> float:
    """Forward and backward; a causal one counts half."""
    return 14 * batch * HEADS * length**2 * FEATURES / (2 if kind.causal else 1)


def run_attention(options: Any, record: Recorder) -> None:
    """One line per kind and kernel: error, dropout rate, milliseconds with and without dropout, kernel names."""
    dtype = torch.bfloat16
    for name, run in KERNELS.items():
        for kind in KINDS:
            line: dict[str, Any] = {"attention": kind.name, "kernel": name}
            try:
                fill(line, kind, run, options, dtype)
            except Exception as error:  # it does not take this kind; or does not compile: Triton's are no RuntimeErrors
                traceback.print_exc()
                line["problem"] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            record.add("attention", line)


def fill(found: dict[str, Any], kind: Kind, run: Run, options: Any, dtype: torch.dtype) -> None:
    """The figures of one kernel for one kind of attention, as far as it takes it."""
    arguments = inputs(kind, options.batch, options.length, options.device, dtype)

    def milliseconds(dropout: float) -> float:
        for _ in range(3):
            gradients(run, arguments, dropout)
        return 1000 * median(timed(lambda: gradients(run, arguments, dropout), options.device) for _ in range(10))

    plain = milliseconds(0.0)
    found |= {
        "ms": plain,
        "tflops": attention_flops(kind, options.batch, options.length) / plain / 1e9,
        "error": error_of(inputs(kind, 2, options.length, options.device, dtype), run),
        "error_odd": error_of(inputs(kind, 2, options.length - 27, options.device, dtype), run),
    }
    if not all(math.isfinite(found[key]) and found[key] < 0.05 for key in ("error", "error_odd")):
        found["problem"] = "refused: off from the definition"
    found["ms_dropout"] = milliseconds(RATE)
    found["kernels"] = kernel_names(lambda: gradients(run, arguments, RATE), options.device)
    found["dropout"] = dropout_rate(kind, run, options.device, dtype)
    if abs(found["dropout"] - RATE) > ALLOWED:
        found["problem"] = f"refused: dropout of {found['dropout']:.3f} instead of {RATE}"
