"""What gpu.py runs in a process each: ceilings, attention kernels, and one way to compute a pretraining step.

Every figure is appended to a file of JSON lines as soon as it is known, so that a job that is stopped, or that breaks
the device for its process, leaves what it had found.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from metro_t0.command import Parser
from metro_t0.modeling import MetroT5, ModelConfig, PretrainingBatch, preset
from metro_t0.modeling.flops import training_flops
from scripts.benchmarks.costs import VOCABULARIES
from scripts.benchmarks.gpu_attention import run_attention
from scripts.benchmarks.measuring import DTYPES, matrix_flops, peak_gib, timed
from scripts.benchmarks.steps import (
    PAD,
    metro_batch,
    metro_loss_of,
    metro_step,
    optimizer_makers,
    t5_step,
    training_step,
)

TOLERANCE = {"fp32": 2e-3, "bf16": 1e-1}
"""Largest relative error of the loss and of the gradient's norm-wise difference."""
WARM_UP, STEPS = 3, 10
MASK_RATIO = 0.15
ODD = 27
"""What odd batches are shorter by than full ones."""
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
    Route("triton, compiled", "bf16", {"attention_backend": "triton", "compile_layers": True}),
    Route("sdpa, compiled", "bf16", {"compile_layers": True}),
    Route("sdpa, compiled with losses", "bf16", {"compile_layers": True, "compile_losses": True}),
    Route("sdpa", "bf16"),
    Route("sdpa without attention dropout, compiled", "bf16", {"compile_layers": True, "attention_dropout": 0.0}),
    Route(FLEX, "bf16", {"attention_backend": "flex", "attention_dropout": 0.0, "compile_layers": True}),
    Route("sdpa", "fp32"),
)
"""In the order in which they are worth their time. FlexAttention has no dropout: its fair neighbor is SDPA without."""
PEERS = {"Hugging Face T5": 1.0, "Hugging Face T5, loss on 15%": MASK_RATIO}
"""Share of the positions whose logits the peer computes: all, as T5 trains, or as many as ours."""


@dataclass
class Result:
    """Figures of one preset and path; None where it was not measured."""

    preset: str
    path: str
    dtype: str
    seconds_per_step: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    """Share of the measured matrix rate."""
    peak_gib: float | None = None
    loss_error: float | None = None
    gradient_error: float | None = None
    checked: str = ""
    """Kinds of batches on which loss and gradients were held against the definition."""
    problem: str = ""


class Record:
    """Appends what is known so far; the last line of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, kind: str, values: dict[str, Any]) -> None:
        """One JSON line, written through."""
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")

    def result(self, result: Result) -> None:
        """The figures of a route so far."""
        self.add("result", asdict(result))


def gradients_of(
    config: ModelConfig, device: str, dtype: torch.dtype, length: int, kind: str
) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of one small batch, always the same weights; samples do not depend on rounding."""
    length = length - ODD if kind == "odd" else length
    batch = metro_batch(config, 2, length, device, padded=kind in ("padded", "odd"), documents=kind == "documents")
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


def checks_of(route: Route) -> Iterable[tuple[str, str]]:
    """(dtype, kind of batch) of what is compared: fp32 tells mistakes from rounding, padding takes ways of its own."""
    yield route.dtype, "full"
    yield "fp32", "padded"
    if route.dtype != "fp32":
        yield route.dtype, "odd"
    if route.name in ("sdpa", FLEX):  # a mask of documents is no other thing for a compiled layer
        yield route.dtype, "documents"


def check(route: Route, config: ModelConfig, device: str, length: int, dtype: str, kind: str) -> tuple[float, float]:
    """Relative errors of loss and gradient in `dtype` against the definition in fp32, without dropout."""
    plain = config.replace(dropout=0.0, attention_dropout=0.0)
    reference, expected = gradients_of(plain.replace(attention_backend="eager"), device, torch.float32, length, kind)
    changes = {name: value for name, value in route.changes.items() if name != "attention_dropout"}
    loss, found = gradients_of(plain.replace(**changes), device, DTYPES[dtype], length, kind)
    difference = sum((a - b).double().square().sum() for a, b in zip(found, expected, strict=True))
    size = sum(b.double().square().sum() for b in expected)
    return abs(loss - reference) / abs(reference), float((difference / size) ** 0.5)


def check_all(route: Route, config: ModelConfig, options: Any, result: Result, record: Record) -> None:
    """Hold the route against the definition on every kind of batch, two layers deep; stops at the first that is off."""
    small = config.replace(encoder_layers=2, decoder_layers=2, auxiliary_layers=1)
    for dtype, kind in checks_of(route):
        torch._dynamo.reset()  # the graphs of one precision must not use up how many may be made of a layer
        loss, gradient = check(route, small, options.device, options.length, dtype, kind)
        if dtype == route.dtype or max(loss, gradient) > TOLERANCE[dtype]:
            result.loss_error = max(loss, result.loss_error or 0)
            result.gradient_error = max(gradient, result.gradient_error or 0)
        if max(loss, gradient) > TOLERANCE[dtype]:
            result.problem = f"wrong: off by more than {dtype} allows ({kind})"
            result.seconds_per_step = result.tokens_per_second = result.mfu = None
            record.result(result)
            return
        result.checked = f"{result.checked}, {dtype} {kind}".removeprefix(", ")
        record.result(result)


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


def full_config(name: str, length: int) -> ModelConfig:
    """A preset with its vocabulary and sentinels."""
    return preset(name, vocab_size=VOCABULARIES.get(name, 32_768) + length)


def run_route(name: str, route: Route, options: Any, record: Record, ceilings: dict[str, float]) -> Result:
    """Time, profile, then check one route of one preset. What is off loses its figures."""
    result = Result(name, route.name, route.dtype)
    config = full_config(name, options.length)
    changed = config.replace(**route.changes)
    with torch.device(options.device):  # weights are drawn where they are used
        _, step = metro_step(changed, options.batch, options.length, options.device, DTYPES[route.dtype])
    flops = training_flops(changed, options.length, MASK_RATIO)
    measure(result, step, options.batch * options.length, flops, ceilings[route.dtype], options.device)
    record.result(result)
    if options.device == "cuda":
        result.problem = waits_for_the_device(step)
        record.result(result)
    title = f"{name}, {route.name}, {route.dtype}"
    with (options.output / "profile.txt").open("a") as file:
        file.write(f"{title}\n{kernels_of(step, options.device, 40)}\n\n")
    if options.batches:
        replay(changed, route, options, record, title)
    del step
    if options.timing_only:
        return result
    check_all(route, config, options, result, record)
    return result


def replay(config: ModelConfig, route: Route, options: Any, record: Record, title: str) -> None:
    """Steps on the batches that a loader made, after a first round in which every shape is seen."""
    stored = torch.load(options.batches, weights_only=True)
    config = config.replace(vocab_size=max(int(fields["vocab_size"]) for fields in stored))
    batches = [on_device(fields, options.device) for fields in stored]
    with torch.device(options.device):
        model = MetroT5(config, PAD).to(options.device, DTYPES[route.dtype])
    turn = {"at": 0}

    def loss() -> torch.Tensor:
        turn["at"] += 1
        return metro_loss_of(model, batches[turn["at"] % len(batches)])

    step = training_step(model, loss)
    first = timed(lambda: [step() for _ in batches], options.device)
    again = timed(lambda: [step() for _ in batches], options.device)
    tokens = sum(int(batch.source_tokens.ne(PAD).sum()) for batch in batches)
    places = sum(batch.source_tokens.numel() for batch in batches)
    shapes = len({(batch.source_tokens.shape, batch.clm_positions.shape) for batch in batches})
    figures = {
        "batches": len(batches),
        "shapes": shapes,
        "filled": tokens / places,
        "tokens_per_second": tokens / again,
    }
    record.add("batches", {"path": title, "first_round_s": first, "second_round_s": again, **figures})


def on_device(fields: dict[str, Any], device: str) -> PretrainingBatch:
    """A stored batch."""
    moved: dict[str, Any] = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in fields.items()}
    del moved["vocab_size"]
    if "sample_uniforms" in moved:
        moved["sample_uniforms"] = moved["sample_uniforms"].float()
    return PretrainingBatch(**moved)


def run_peer(name: str, path: str, options: Any, ceilings: dict[str, float]) -> Result:
    """Hugging Face's T5 of the same shape, in bf16."""
    result = Result(name, path, "bf16")
    config, share = full_config(name, options.length), PEERS[path]
    _, step = t5_step(config, options.batch, options.length, options.device, torch.bfloat16, share)
    flops = training_flops(config.without_pretraining(), options.length, share, last_layers=1)
    measure(result, step, options.batch * options.length, flops, ceilings["bf16"], options.device)
    return result


def kernels_of(step: Step, device: str, rows: int) -> str:
    """Kernels of a step by their own time on the device, with their names in full."""
    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        timed(step, device)
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return str(recorded.key_averages().table(sort_by=order, row_limit=rows, max_name_column_width=90))


def ceilings_of(options: Any, record: Record) -> None:
    """Rates of a large matrix product, and of a copy."""
    rates = {name: matrix_flops(options.device, dtype) for name, dtype in DTYPES.items()}
    size = 1 << (28 if options.device == "cuda" else 22)
    source = torch.zeros(size, device=options.device)
    target = torch.empty_like(source)
    bandwidth = 8 * size / min(timed(lambda: target.copy_(source), options.device) for _ in range(8))
    record.add("ceilings", {"machine": machine(options.device), "rates": rates, "bandwidth": bandwidth})


def optimizers_of(name: str, options: Any, record: Record) -> None:
    """Milliseconds per update of all parameters: fused AdamW, and Muon where fairseq is there."""
    for title, make in optimizer_makers().items():
        torch.manual_seed(0)
        with torch.device(options.device):
            model = MetroT5(full_config(name, options.length), PAD)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer = make(model)
        optimizer.step()
        milliseconds = 1000 * median(timed(optimizer.step, options.device) for _ in range(STEPS))
        record.add("optimizer", {"preset": name, "optimizer": title, "ms": milliseconds})
        del model, optimizer


def machine(device: str) -> str:
    """What the figures were taken on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}"


def run_job(job: str, options: Any, record: Record) -> None:
    """`ceilings`, `attention`, `optimizers:PRESET`, or `PRESET:PATH:DTYPE`."""
    if job == "ceilings":
        return ceilings_of(options, record)
    if job == "attention":
        return run_attention(options, record)
    if job.startswith("optimizers:"):
        return optimizers_of(job.partition(":")[2], options, record)
    name, path, dtype = job.split(":")
    ceilings = json.loads(options.ceilings)
    if path in PEERS:
        record.result(run_peer(name, path, options, ceilings))
        return None
    route = next(route for route in ROUTES if (route.name, route.dtype) == (path, dtype))
    record.result(run_route(name, route, options, record, ceilings))
    return None


def main() -> int:
    """Run one job."""
    parser = Parser(description=__doc__)
    parser.add_argument("job")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--ceilings", default="{}", help="JSON of the matrix rates")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=Path)
    parser.add_argument("--timing-only", action="store_true")
    options = parser.parse_args()
    run_job(options.job, options, Record(options.record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
