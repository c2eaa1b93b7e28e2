"""Correctness and speed of a pretraining step on one GPU (started by gpu.sh).

    python -m scripts.benchmarks.gpu --output results                         # base, then large_pp if time is left
    python -m scripts.benchmarks.gpu --output results --presets base --routes compiled --minutes 4
    python -m scripts.benchmarks.gpu --output results --device cpu --presets demo --batch 2 --length 64    # a trial

Every job is a process of its own with a budget of seconds, so that nothing that hangs or crashes takes the rest along;
what a job had found until then stays. In this order:

1. Rates of a large matrix product and of a copy: the ceilings.
2. Attention alone (gpu_attention.py): error, dropout rate, time and kernel names of torch's kernels.
3. Every way to compute the step: seconds, tokens/s, share of the measured matrix rate (MFU), peak memory; whether the
   host waits for the device; where the time goes; then loss and gradients against the definition spelled out in fp32
   (attention_backend=eager). A path that is off loses its figures and makes the exit status 1.
4. Hugging Face's T5 of the same shape, with its loss on all positions and on as many as ours; optimizers.

Writes into OUTPUT as it goes: gpu.json, gpu.md, profile.txt.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metro_t0.command import Parser
from metro_t0.tables import markdown_table, print_table
from scripts.benchmarks.gpu_jobs import PEERS, ROUTES, Record, Result, Route

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = {"ceilings": 60, "attention": 100, "route": 120, "peer": 60, "optimizers": 60}
"""Budgets; those of routes and peers are three times as long for presets of more than base size."""
ALONE = ("attention", "optimizers")
"""Jobs that are no routes: a text of --routes that is such a name means nothing else."""
MAIN = 3
"""Routes that come before peers and optimizers."""
LEAST_SECONDS = 20
"""No job is begun with less time left."""


@dataclass
class Job:
    """One process."""

    name: str
    seconds: float
    row: Result | None = None
    """Where it is a route or a peer: the row that says why there are no figures."""


def applicable(device: str) -> list[Route]:
    """FlexAttention trains on CUDA only, and so does our own kernel."""
    cpu = [route for route in ROUTES if route.changes.get("attention_backend") not in ("flex", "triton")]
    return list(ROUTES) if device == "cuda" else cpu


def plan(options: Any) -> list[Job]:
    """All jobs, the most telling first."""
    jobs = [Job("ceilings", SECONDS["ceilings"])]
    if wanted("attention", options):
        jobs.append(Job("attention", SECONDS["attention"]))
    for number, preset in enumerate(options.presets):
        routes, peers = jobs_of(preset, options)
        if number:  # fp32 once: a large model may not fit, and nobody trains it so
            routes = [job for job in routes if not job.name.endswith("fp32")]
        jobs += [*routes[:MAIN], *peers]
        if not number and wanted("optimizers", options):
            jobs.append(Job(f"optimizers:{preset}", SECONDS["optimizers"]))
        jobs += routes[MAIN:]
    return jobs


def jobs_of(preset: str, options: Any) -> tuple[list[Job], list[Job]]:
    """Routes and peers of one preset that are wanted."""
    factor = 3 if preset.startswith("large") else 1
    routes = [
        Job(f"{preset}:{route.name}:{route.dtype}", factor * SECONDS["route"], Result(preset, route.name, route.dtype))
        for route in applicable(options.device)
        if wanted(f"{route.name} {route.dtype}", options)
    ]
    peers = [
        Job(f"{preset}:{peer}:bf16", factor * SECONDS["peer"], Result(preset, peer, "bf16"))
        for peer in PEERS
        if wanted(peer, options) and importlib.util.find_spec("transformers")
    ]
    return routes, peers


def wanted(name: str, options: Any) -> bool:
    """True for every job, or for those with a text of --routes in their name."""
    return not options.routes or any(text == name if text in ALONE else text in name for text in options.routes)


def run(job: Job, options: Any, seconds: float, ceilings: dict[str, float]) -> str:
    """Run a job to its end or to the end of its budget; what went wrong, in one line."""
    command = [
        sys.executable, "-m", "scripts.benchmarks.gpu_jobs", job.name, "--output", str(options.output.resolve()),
        "--record", str(options.output.resolve() / "record.jsonl"), "--ceilings", json.dumps(ceilings), "--batch",
        str(options.batch), "--length", str(options.length), "--device", options.device,
        *(["--batches", str(options.batches.resolve())] if options.batches else []),
        *(["--timing-only"] if options.timing_only else []),
    ]  # fmt: skip
    with (options.output / "log.txt").open("a+") as log:
        log.write(f"==== {job.name}\n")
        log.flush()
        begins = log.tell()
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=REPOSITORY
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"stopped after {seconds:.0f} s"
        log.seek(begins)
        lines = [line for line in log.read().splitlines() if line.strip()]
    return f"{lines[-1][:200] if lines else 'no message'} (status {status})" if status else ""


def read_record(path: Path) -> list[dict[str, Any]]:
    """Lines so far; a line cut by the end of its process is left out."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def results_of(lines: Iterable[dict[str, Any]]) -> list[Result]:
    """The last state of every route."""
    last: dict[tuple[str, str, str], Result] = {}
    for line in lines:
        if line["kind"] == "result":
            result = Result(**{name: value for name, value in line.items() if name != "kind"})
            last[result.preset, result.path, result.dtype] = result
    return list(last.values())


COLUMNS: dict[str, Callable[[Result], str]] = {
    "preset": lambda r: r.preset,
    "path": lambda r: r.path,
    "dtype": lambda r: r.dtype,
    "ms/step": lambda r: _or_dash(r.seconds_per_step, "{:.1f}", 1000),
    "tokens/s": lambda r: _or_dash(r.tokens_per_second, "{:,.0f}"),
    "MFU": lambda r: _or_dash(r.mfu, "{:.1%}"),
    "peak GiB": lambda r: _or_dash(r.peak_gib, "{:.1f}"),
    "loss error": lambda r: _or_dash(r.loss_error, "{:.0e}"),
    "gradient error": lambda r: _or_dash(r.gradient_error, "{:.0e}"),
    "checked": lambda r: r.checked or "-",
    "problem": lambda r: r.problem,
}


TEXT_COLUMNS = [number for number, name in enumerate(COLUMNS) if name in ("path", "dtype", "checked", "problem")]


def _or_dash(value: float | None, form: str, factor: float = 1) -> str:
    return "-" if value is None else form.format(value * factor)


def markdown(results: list[Result]) -> str:
    """The table as it stands in docs/benchmarks.md."""
    return markdown_table(list(COLUMNS), cells_of(results), left=TEXT_COLUMNS)


def cells_of(results: list[Result]) -> list[list[str]]:
    """One row of text per result."""
    return [[cell(result) for cell in COLUMNS.values()] for result in results]


def attention_markdown(lines: list[dict[str, Any]]) -> str:
    """One row per kind of attention and kernel."""
    figures = ["ms", "TFLOP/s", "ms with dropout", "dropout", "error", "odd"]
    titles = ["attention", "kernel", *figures, "problem", "kernels"]
    keys = ["ms", "tflops", "ms_dropout", "dropout", "error", "error_odd"]
    forms = ["{:.2f}", "{:.0f}", "{:.2f}", "{:.4f}", "{:.0e}", "{:.0e}"]
    rows = [
        [line["attention"], line["kernel"]]
        + [_or_dash(line.get(key), form) for key, form in zip(keys, forms, strict=True)]
        + [line.get("problem", ""), ", ".join(line.get("kernels", [])[:2])]
        for line in lines
    ]
    return markdown_table(titles, rows, left=[1, 8, 9]) if rows else ""


def write_report(options: Any, heading: str, lines: list[dict[str, Any]]) -> None:
    """gpu.md and gpu.json of what is known so far."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_kind.setdefault(line["kind"], []).append(line)
    text = f"{heading}\n\n{markdown(results_of(lines))}\n{attention_markdown(by_kind.get('attention', []))}"
    for kind in ("optimizer", "batches", "problem"):
        text += "".join(f"\n{json.dumps(line)}" for line in by_kind.get(kind, []))
    (options.output / "gpu.md").write_text(text + "\n")
    (options.output / "gpu.json").write_text(json.dumps({"machine": heading, "lines": lines}, indent=1) + "\n")


def failed(job: Job, problem: str, lines: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """What is recorded of a job that failed: the row of a route, with the figures that it had found."""
    if job.row is None:
        return "problem", {"job": job.name, "problem": problem}
    done = {(r.preset, r.path, r.dtype): r for r in results_of(lines)}
    row = done.get((job.row.preset, job.row.path, job.row.dtype), job.row)
    row.problem = f"{row.problem}; {problem}".removeprefix("; ")
    return "result", vars(row)


def run_all(options: Any) -> tuple[str, list[Result]]:
    """Run the jobs that fit the time, and write the report after each."""
    deadline = time.monotonic() + 60 * options.minutes
    record = options.output / "record.jsonl"
    record.unlink(missing_ok=True)
    heading, ceilings = f"{options.device}; {options.batch} x {options.length} tokens", {"fp32": 1e15, "bf16": 1e15}
    for job in plan(options):
        left = deadline - time.monotonic()
        started = time.monotonic()
        problem = "no time left" if left < LEAST_SECONDS else run(job, options, min(job.seconds, left), ceilings)
        lines = read_record(record)
        if job.name == "ceilings" and lines:
            ceilings = lines[0]["rates"]
            rates = ", ".join(f"{name} {rate / 1e12:.1f} TFLOP/s" for name, rate in ceilings.items())
            copy = f"copy {lines[0]['bandwidth'] / 1e12:.2f} TB/s"
            heading = (
                f"{lines[0]['machine']}; matrix products: {rates}; {copy}; {options.batch} x {options.length} tokens"
            )
        if problem:
            Record(record).add(*failed(job, problem, lines))
            lines = read_record(record)
        print(f"{job.name}: {time.monotonic() - started:.0f} s {problem}", flush=True)
        write_report(options, heading, lines)
    return heading, results_of(read_record(record))


def main() -> int:
    """Run everything that fits the time; returns the exit status."""
    parser = Parser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--presets", nargs="+", default=["base", "large_pp"])
    parser.add_argument("--routes", nargs="+", help="only jobs with one of these texts in their name, and ceilings")
    parser.add_argument("--batches", type=Path, help="batches of a loader (loader.py --save) to replay on each route")
    parser.add_argument("--timing-only", action="store_true", help="without the checks of loss and gradients")
    parser.add_argument("--batch", type=int, default=32, help="sequences per step")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=8.7, help="everything has ended after this time")
    options = parser.parse_args()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device: this is a benchmark of one (--device cpu only tries the script)")
    options.output.mkdir(parents=True, exist_ok=True)
    heading, results = run_all(options)
    print_table(list(COLUMNS), cells_of(results), heading, TEXT_COLUMNS)
    return 1 if any(result.problem for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
