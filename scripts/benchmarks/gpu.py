"""Correctness, then speed, of a pretraining step on one GPU (started by gpu.sh).

    python scripts/benchmarks/gpu.py --output results                       # base, then large_pp if time is left
    python scripts/benchmarks/gpu.py --output results --presets base --minutes 4
    python scripts/benchmarks/gpu.py --output results --device cpu --presets demo --batch 2 --length 64    # a trial

1. Loss and gradients of every fast path against the definition spelled out in fp32 (attention_backend=eager); a path
   that is off by more than its precision allows is reported, not timed, and makes the exit status 1.
2. On CUDA, a step in which any wait of the host for the device is an error.
3. Seconds per step, tokens/s, share of the measured matrix rate (MFU) and peak memory of every path that passed.
4. Where the time of the fastest path goes, by kernel (profile.txt).

Writes OUTPUT/gpu.json and OUTPUT/gpu.md.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from costs import VOCABULARIES, training_flops
from pretrain import PAD, matrix_flops, metro_batch, metro_loss_of, metro_step, peak_gib, t5_step, timed
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from metro_t0.command import Parser
from metro_t0.modeling import MetroT5, ModelConfig, preset

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 2e-3, "bf16": 1e-1}
"""Largest relative error of the loss and of the gradient's norm-wise difference. Every path is checked in fp32 too."""
WARM_UP, STEPS = 3, 10
Step = Callable[[], None]


@dataclass(frozen=True)
class Route:
    """One way to compute the same step."""

    name: str
    dtype: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the model config."""


FLEX = "flex, compiled"
ROUTES = (
    Route("sdpa", "fp32"),
    Route("sdpa", "bf16"),
    Route("sdpa, compiled", "bf16", {"compile_layers": True}),
    Route("sdpa without attention dropout, compiled", "bf16", {"compile_layers": True, "attention_dropout": 0.0}),
    Route(FLEX, "bf16", {"attention_backend": "flex", "attention_dropout": 0.0, "compile_layers": True}),
)
"""FlexAttention has no dropout: its fair neighbor is SDPA without."""


@dataclass
class Result:
    """Figures of one preset and path; None where it was not timed."""

    preset: str
    path: str
    dtype: str
    loss_error: float | None = None
    gradient_error: float | None = None
    problem: str = ""
    seconds_per_step: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    peak_gib: float | None = None


def applicable(device: str) -> list[Route]:
    """FlexAttention trains on CUDA only."""
    return [path for path in ROUTES if device == "cuda" or path.changes.get("attention_backend") != "flex"]


def gradients_of(
    config: ModelConfig, device: str, dtype: torch.dtype, length: int, kind: str
) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of one small batch, always the same weights; samples do not depend on rounding."""
    batch = metro_batch(config, 2, length, device, padded=kind == "padded", documents=kind == "documents")
    assert batch.sample_uniforms is not None
    batch.sample_uniforms.zero_()  # always the first token: a sample near a border would differ between precisions
    torch.manual_seed(0)
    model = MetroT5(config, PAD)
    for parameter in model.parameters():  # relative biases and others begin at zero, where nothing depends on them
        parameter.data += 0.02 * torch.randn_like(parameter)
    model = model.to(device, dtype)
    loss = metro_loss_of(model, batch)
    loss.backward()
    return loss.item(), [p.grad.float() for p in model.parameters() if p.grad is not None]


def checks_of(path: Route) -> Iterable[tuple[str, str]]:
    """(dtype, kind of batch) of what is compared: fp32 tells mistakes from rounding, padding takes ways of its own."""
    yield "fp32", "padded"
    yield path.dtype, "full"
    if path.dtype != "fp32":
        yield path.dtype, "padded"
    if path.name in ("sdpa", FLEX):  # a mask of documents is no other thing for a compiled layer
        yield path.dtype, "documents"


def check(path: Route, config: ModelConfig, device: str, length: int, dtype: str, kind: str) -> tuple[float, float]:
    """Relative errors of loss and gradient in `dtype` against the definition in fp32, without dropout."""
    plain = config.replace(dropout=0.0, attention_dropout=0.0)
    reference, expected = gradients_of(plain.replace(attention_backend="eager"), device, torch.float32, length, kind)
    changes = {name: value for name, value in path.changes.items() if name != "attention_dropout"}
    loss, found = gradients_of(plain.replace(**changes), device, DTYPES[dtype], length, kind)
    difference = sum((a - b).double().square().sum() for a, b in zip(found, expected, strict=True))
    size = sum(b.double().square().sum() for b in expected)
    return abs(loss - reference) / abs(reference), float((difference / size) ** 0.5)


def waits_for_the_device(step: Step) -> str:
    """Where a step makes the host wait for the GPU; empty where it does not."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def measure(result: Result, step: Step, tokens: int, flops: float, ceiling: float, device: str) -> None:
    """Fill in the figures of a step."""
    for _ in range(WARM_UP):
        step()
    result.peak_gib = peak_gib(step, device)
    result.seconds_per_step = median(timed(step, device) for _ in range(STEPS))
    result.tokens_per_second = tokens / result.seconds_per_step
    result.mfu = result.tokens_per_second * flops / ceiling


def run_path(path: Route, name: str, config: ModelConfig, options: Any, ceilings: dict[str, float]) -> Result:
    """Check, then time, one path of one preset."""
    result = Result(name, path.name, path.dtype)
    small = config.replace(encoder_layers=2, decoder_layers=2, auxiliary_layers=1)
    for dtype, kind in checks_of(path):
        loss, gradient = check(path, small, options.device, options.length, dtype, kind)
        if max(loss, gradient) > TOLERANCE[dtype]:
            result.loss_error, result.gradient_error = loss, gradient
            result.problem = f"wrong: off by more than {dtype} allows ({kind})"
            return result
        if dtype == path.dtype:
            result.loss_error = max(loss, result.loss_error or 0)
            result.gradient_error = max(gradient, result.gradient_error or 0)
    torch._dynamo.reset()  # the graphs of the small model must not use up how many may be made of a layer
    config = config.replace(**path.changes)
    _, step = metro_step(config, options.batch, options.length, options.device, DTYPES[path.dtype])
    flops = training_flops(config, options.length, mask_ratio=0.15)
    measure(result, step, options.batch * options.length, flops, ceilings[path.dtype], options.device)
    if options.device == "cuda":
        result.problem = waits_for_the_device(step)
    return result


def run_peer(name: str, config: ModelConfig, options: Any, ceilings: dict[str, float]) -> Result:
    """Hugging Face's T5 of the same shape, in bf16."""
    result = Result(name, "Hugging Face T5", "bf16")
    _, step = t5_step(config, options.batch, options.length, options.device, torch.bfloat16)
    flops = training_flops(config.without_pretraining(), options.length, mask_ratio=1.0)
    measure(result, step, options.batch * options.length, flops, ceilings["bf16"], options.device)
    return result


def attempt(result: Callable[[], Result], name: str, path: str, dtype: str) -> Result:
    """The result, or the error in one line; memory is given back either way."""
    try:
        return result()
    except Exception as error:
        return Result(name, path, dtype, problem=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
    finally:
        torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def results_of(name: str, options: Any, ceilings: dict[str, float]) -> Iterable[Result]:
    """One result per path, then the peer's."""
    config = preset(name, vocab_size=VOCABULARIES.get(name, 32_768) + options.length)
    for path in applicable(options.device):
        if path.dtype == "fp32" and name != options.presets[0]:
            continue  # a large model may not fit, and nobody trains it so
        yield attempt(partial(run_path, path, name, config, options, ceilings), name, path.name, path.dtype)
    if importlib.util.find_spec("transformers"):
        yield attempt(partial(run_peer, name, config, options, ceilings), name, "Hugging Face T5", "bf16")


def profile_fastest(results: list[Result], options: Any) -> str:
    """Kernels of the fastest path of the first preset, by their own time on the device."""
    mine = [r for r in results if r.tokens_per_second and r.path != "Hugging Face T5"]
    if not mine:
        return "no path was timed\n"
    best = max(mine, key=lambda r: (r.preset == options.presets[0], r.tokens_per_second))
    path = next(path for path in ROUTES if (path.name, path.dtype) == (best.path, best.dtype))
    config = preset(best.preset, vocab_size=VOCABULARIES.get(best.preset, 32_768) + options.length, **path.changes)
    _, step = metro_step(config, options.batch, options.length, options.device, DTYPES[path.dtype])
    for _ in range(WARM_UP):
        step()
    on_gpu = options.device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        step()
        timed(step, options.device)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return f"{best.preset}, {best.path}, {best.dtype}\n" + recorded.key_averages().table(sort_by=order, row_limit=40)


COLUMNS: dict[str, Callable[[Result], str]] = {
    "preset": lambda r: r.preset,
    "path": lambda r: r.path,
    "dtype": lambda r: r.dtype,
    "loss error": lambda r: _or_dash(r.loss_error, "{:.0e}"),
    "gradient error": lambda r: _or_dash(r.gradient_error, "{:.0e}"),
    "ms/step": lambda r: _or_dash(r.seconds_per_step, "{:.1f}", 1000),
    "tokens/s": lambda r: _or_dash(r.tokens_per_second, "{:,.0f}"),
    "MFU": lambda r: _or_dash(r.mfu, "{:.1%}"),
    "peak GiB": lambda r: _or_dash(r.peak_gib, "{:.1f}"),
    "problem": lambda r: r.problem,
}


def _or_dash(value: float | None, form: str, factor: float = 1) -> str:
    return "-" if value is None else form.format(value * factor)


def markdown(results: list[Result]) -> str:
    """The table as it stands in docs/benchmarks.md."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    lines += [[cell(result) for cell in COLUMNS.values()] for result in results]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def machine(device: str) -> str:
    """What the figures were taken on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}"


def main() -> int:
    """Run everything that fits the time; gives the exit status."""
    parser = Parser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--presets", nargs="+", default=["base", "large_pp"])
    parser.add_argument("--batch", type=int, default=32, help="sequences per step")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=8.0, help="no preset is begun after this time")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device: this is a benchmark of one (--device cpu only tries the script)")
    started = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    ceilings = {name: matrix_flops(options.device, dtype) for name, dtype in DTYPES.items()}
    rates = ", ".join(f"{name} {rate / 1e12:.1f} TFLOP/s" for name, rate in ceilings.items())
    heading = f"{machine(options.device)}; matrix products: {rates}; {options.batch} x {options.length} tokens"
    print(heading, flush=True)
    results: list[Result] = []
    for name in options.presets:
        if time.monotonic() - started > 60 * options.minutes:
            print(f"{name}: no time left", flush=True)
            continue
        for result in results_of(name, options, ceilings):
            print(" ".join(f"{title}={cell(result)}" for title, cell in COLUMNS.items() if cell(result)), flush=True)
            results.append(result)
            record = {"machine": heading, "ceilings": ceilings, "results": [asdict(r) for r in results]}
            (options.output / "gpu.json").write_text(json.dumps(record, indent=2) + "\n")
    (options.output / "gpu.md").write_text(f"{heading}\n\n{markdown(results)}")
    (options.output / "profile.txt").write_text(profile_fastest(results, options))
    table = Table(*COLUMNS, title=heading)
    for result in results:
        table.add_row(*(cell(result) for cell in COLUMNS.values()))
    Console(width=None if Console().is_terminal else 180).print(table)
    return 1 if any(result.problem for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
