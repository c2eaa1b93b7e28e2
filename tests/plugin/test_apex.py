"""When apex is used: a stand-in that records its calls takes the place of NVIDIA's package; and the other `apex`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = {
    "apex/__init__.py": "calls = []\n",
    "apex/multi_tensor_apply.py": """
import apex
class Applier:
    available = True
    def __call__(self, kernel, buffer, lists, *rest):
        apex.calls.append(kernel)
multi_tensor_applier = Applier()
""",
    "apex/optimizers/__init__.py": """
import torch
class FusedAdam(torch.optim.Optimizer):
    multi_tensor_adam = "multi_tensor_adam"
    adam_w_mode, _dummy_overflow_buf = 1, None
    def __init__(self, params, **settings):
        super().__init__(params, dict(settings, bias_correction=True))
""",
    "amp_C.py": """
import apex, torch
def multi_tensor_l2norm(size, buffer, lists, per_tensor):
    apex.calls.append("multi_tensor_l2norm")
    return torch.stack([part.norm() for part in lists[0]]).norm()[None], None
""",
}
PROGRAM = """
import contextlib, json, sys, torch
import apex, fairseq_plugins
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq_plugins.optim.fused_adamw import FusedAdamW, FusedAdamWConfig
available = torch.cuda.is_available
torch.cuda.device = lambda device: contextlib.nullcontext()
used = {}
for name, kind, config in (("adam", FairseqAdam, FairseqAdamConfig), ("fused_adamw", FusedAdamW, FusedAdamWConfig)):
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    torch.cuda.is_available = lambda: True  # asked by fairseq now, and later by CUDA builds of torch
    optimizer = kind(config(lr=[0.1], adam_betas="(0.9,0.98)", tpu=False), weights)
    torch.cuda.is_available = available
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    apex.calls.clear()
    optimizer.optimizer.step()
    used[name] = list(apex.calls)
print(json.dumps([fairseq_plugins.apex_check.is_nvidias(), used]))
"""


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, cwd=folder
    )


def test_fairseqs_adam_uses_apex_and_ours_does_not(tmp_path: Path) -> None:
    for name, content in STAND_IN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    done = run(tmp_path, PROGRAM)
    assert done.returncode == 0, done.stderr[-3000:]
    nvidias, used = json.loads(done.stdout.splitlines()[-1])
    assert nvidias
    assert used["adam"] == ["multi_tensor_adam"]
    assert used["fused_adamw"] == []


def test_the_other_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    from fairseq_plugins import apex_check

    caplog.set_level("WARNING")
    apex_check.install()
    assert not caplog.records  # none installed: not a word
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    apex_check.install()
    assert "not NVIDIA's" in caplog.text
