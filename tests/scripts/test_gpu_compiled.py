"""Our Triton kernels compiled for GPUs that are not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def test_no_kernel_spills_registers_on_an_a100_or_h100() -> None:
    pytest.importorskip("triton", reason="Triton is not installed (requirements-dev.txt)")
    environment = {**os.environ, "COLUMNS": "120"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "scripts.benchmarks.gpu_compiled"]
    run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    for name in ("forward", "backward_keys", "backward_queries", "backward_bias"):
        assert run.stdout.count(name) == 2
