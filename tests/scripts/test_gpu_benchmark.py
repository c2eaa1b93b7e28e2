"""The GPU benchmark's own checks, on the CPU: right paths pass, a wrong one is caught, errors become rows."""

from __future__ import annotations

import pytest
from gpu import (
    COLUMNS,
    DTYPES,
    ROUTES,
    TOLERANCE,
    Result,
    Route,
    applicable,
    attempt,
    check,
    checks_of,
    gradients_of,
    markdown,
)

from metro_t0.modeling import preset

CONFIG = preset("demo", vocab_size=300)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_fast_paths_agree_with_the_definition(dtype: str) -> None:
    route = next(route for route in ROUTES if route.dtype == dtype and not route.changes)
    checked = list(checks_of(route))
    assert {kind for _, kind in checked} == {"full", "padded", "documents"}
    for precision, kind in checked:
        assert max(check(route, CONFIG, "cpu", 32, precision, kind)) < TOLERANCE[precision]


def test_every_kind_of_batch_is_another_one() -> None:
    route = ROUTES[0]
    losses = {gradients_of(CONFIG, "cpu", DTYPES[route.dtype], 32, kind)[0] for kind in ("full", "padded", "documents")}
    assert len(losses) == 3


@pytest.mark.parametrize("wrong", [{"scale_attention": False}, {"relative_rule": "t5"}, {"norm_eps": 1e-2}])
def test_a_path_that_computes_something_else_is_caught(wrong: dict[str, object]) -> None:
    assert check(Route("wrong", "fp32", wrong), CONFIG, "cpu", 32, "fp32", "full")[1] > TOLERANCE["fp32"]


def test_flex_attention_is_timed_on_cuda_only() -> None:
    names = {device: [route.name for route in applicable(device)] for device in ("cpu", "cuda")}
    assert "flex, compiled" in names["cuda"]
    assert "flex, compiled" not in names["cpu"]


def test_an_error_becomes_a_row() -> None:
    def fail() -> Result:
        raise RuntimeError("out of memory\nand more")

    row = attempt(fail, "base", "sdpa", "bf16")
    assert row.problem == "RuntimeError: out of memory"
    lines = markdown([row]).splitlines()
    assert lines[2] == "| base | sdpa | bf16 | - | - | - | - | - | - | RuntimeError: out of memory |"
    assert lines[0].count("|") == len(COLUMNS) + 1
