"""The GPU benchmark's own checks, on the CPU: right paths pass, a wrong one is caught, errors become rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metro_t0.modeling import preset
from scripts.benchmarks import gpu_attention
from scripts.benchmarks.gpu import (
    COLUMNS,
    REPOSITORY,
    Job,
    applicable,
    failed,
    markdown,
    plan,
    read_record,
    results_of,
    run,
    write_report,
)  # fmt: skip
from scripts.benchmarks.gpu_attention import KERNELS, KINDS, Kind, dropout_rate, error_of, inputs
from scripts.benchmarks.gpu_jobs import PEERS, ROUTES, TOLERANCE, Record, Result, Route, check, checks_of, gradients_of
from scripts.benchmarks.measuring import DTYPES
from scripts.benchmarks.steps import t5_step

CONFIG = preset("demo", vocab_size=300)
KINDS_OF_BATCHES = ("full", "padded", "odd", "documents")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_fast_paths_agree_with_the_definition(dtype: str) -> None:
    route = next(route for route in ROUTES if route.dtype == dtype and not route.changes)
    checked = list(checks_of(route))
    assert {kind for _, kind in checked} >= {"full", "padded", "documents"}
    for precision, kind in checked:
        assert max(check(route, CONFIG, "cpu", 32, precision, kind)) < TOLERANCE[precision]


def test_every_kind_of_batch_is_another_one() -> None:
    route = ROUTES[0]
    losses = {gradients_of(CONFIG, "cpu", DTYPES[route.dtype], 32, kind)[0] for kind in KINDS_OF_BATCHES}
    assert len(losses) == len(KINDS_OF_BATCHES)


@pytest.mark.parametrize("wrong", [{"scale_attention": False}, {"relative_rule": "t5"}, {"norm_eps": 1e-2}])
def test_a_path_that_computes_something_else_is_caught(wrong: dict[str, object]) -> None:
    assert check(Route("wrong", "fp32", wrong), CONFIG, "cpu", 32, "fp32", "full")[1] > TOLERANCE["fp32"]


def test_it_starts_where_torch_numpy_and_rich_are_all_there_is() -> None:
    """A machine with a GPU that reaches no package index."""
    absent = ["zstandard", "yaml", "transformers", "tokenizers", "safetensors", "datasets", "pyarrow", "fairseq"]
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); import scripts.benchmarks.gpu"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_flex_attention_is_timed_on_cuda_only() -> None:
    names = {device: [route.name for route in applicable(device)] for device in ("cpu", "cuda")}
    assert "flex, compiled" in names["cuda"]
    assert "flex, compiled" not in names["cpu"]


def options(tmp_path: Path, **changes: Any) -> SimpleNamespace:
    """What gpu.py is told."""
    made = {
        "output": tmp_path,
        "presets": ["demo"],
        "routes": None,
        "device": "cpu",
        "batch": 2,
        "length": 32,
        "timing_only": False,
    }
    return SimpleNamespace(**{**made, "batches": None, "timing_only": False, "minutes": 1.0, **changes})


def test_routes_are_chosen_by_name(tmp_path: Path) -> None:
    everything = [job.name for job in plan(options(tmp_path))]
    assert everything[0] == "ceilings"
    chosen = [job.name for job in plan(options(tmp_path, routes=["fp32"]))]
    assert chosen == ["ceilings", "demo:sdpa:fp32"]
    assert set(chosen) < set(everything)
    alone = [job.name for job in plan(options(tmp_path, routes=["attention", "optimizers"]))]
    assert alone == ["ceilings", "attention", "optimizers:demo"]


def test_a_job_leaves_its_figures_and_its_error(tmp_path: Path) -> None:
    told = options(tmp_path)
    assert run(Job("demo:sdpa:fp32", 200), told, 200, {"fp32": 1e12}) == ""
    (result,) = results_of(read_record(tmp_path / "record.jsonl"))
    assert result.checked == "fp32 full, fp32 padded, fp32 documents"
    assert result.tokens_per_second
    assert "sdpa, fp32" in (tmp_path / "profile.txt").read_text()
    assert "StopIteration" in run(Job("demo:nothing:fp32", 60), told, 60, {"fp32": 1e12})


def test_a_job_that_hangs_is_stopped(tmp_path: Path) -> None:
    assert run(Job("ceilings", 1), options(tmp_path), 0.5, {}) == "stopped after 0 s"


def test_the_last_state_of_a_route_counts_and_a_cut_line_does_not(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.jsonl")
    record.result(Result("base", "sdpa", "bf16"))
    record.result(Result("base", "sdpa", "bf16", problem="RuntimeError: out of memory"))
    with record.path.open("a") as file:
        file.write('{"kind": "res')
    (row,) = results_of(read_record(record.path))
    lines = markdown([row]).splitlines()
    assert lines[2] == "| base | sdpa | bf16 | - | - | - | - | - | - | - | RuntimeError: out of memory |"
    assert lines[0].count("|") == len(COLUMNS) + 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_attention_is_held_against_the_definition_and_dropout_against_its_rate(kind: Kind) -> None:
    assert error_of(inputs(kind, 2, 33, "cpu", torch.float32), KERNELS["math"]) < 1e-5
    assert abs(dropout_rate(kind, KERNELS["math"], "cpu", torch.float32) - 0.1) < 0.005


def test_a_kernel_that_does_not_compile_takes_nothing_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NotCompiled(Exception):
        """As Triton's, no RuntimeError."""

    def broken(arguments: dict[str, Any], dropout: float) -> torch.Tensor:
        raise NotCompiled("at 12:8")

    monkeypatch.setattr(gpu_attention, "KERNELS", {"broken": broken, "math": KERNELS["math"]})
    monkeypatch.setattr(gpu_attention, "KINDS", KINDS[:1])
    gpu_attention.run_attention(options(tmp_path), Record(tmp_path / "record.jsonl"))
    first, second = read_record(tmp_path / "record.jsonl")
    assert first["problem"] == "NotCompiled: at 12:8"
    assert second["dropout"]


def test_a_job_that_fails_is_in_the_report(tmp_path: Path) -> None:
    record = Record(tmp_path / "record.jsonl")
    record.add(*failed(Job("optimizers:demo", 60), "stopped after 60 s", []))
    write_report(options(tmp_path), "here", read_record(record.path))
    assert '"job": "optimizers:demo", "problem": "stopped after 60 s"' in (tmp_path / "gpu.md").read_text()


def test_the_peer_with_the_loss_on_a_share_of_the_positions_trains() -> None:
    for share in PEERS.values():
        model, step = t5_step(CONFIG, 2, 16, "cpu", torch.float32, share)
        before = [p.detach().clone() for p in model.parameters()]
        step()
        assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
