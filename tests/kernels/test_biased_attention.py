"""Our attention kernels against the definition, in Triton's interpreter (chosen at import: a process of its own)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metro_t0.errors import UserError
from metro_t0.kernels.attend import attend
from metro_t0.modeling import preset

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (requirements-dev.txt)"
)
CHECK = Path(__file__).with_name("biased_attention_interpreted.py")


@needs_triton
def test_outputs_and_gradients_are_those_of_the_definition() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, str(CHECK)], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split() == ["plain", "odd", "padded", "row_of_padding", "dropout", "model"]


def test_it_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    q = torch.randn(1, 2, 4, 16)
    with pytest.raises(UserError, match="CUDA only"):
        attend(q, q, q, bias=torch.zeros(2, 7), valid=None, causal=False, scale=1.0, backend="triton")
    with pytest.raises(UserError, match="head_dim"):
        preset("base", attention_backend="triton", head_dim=48)


def test_other_kinds_of_attention_keep_torchs_kernels() -> None:
    q = torch.randn(1, 2, 4, 16)
    for causal, bias in ((True, None), (False, None)):
        both = [
            attend(q, q, q, bias=bias, valid=None, causal=causal, scale=1.0, backend=backend)  # type: ignore[arg-type]
            for backend in ("sdpa", "triton")
        ]
        assert torch.equal(*both)
