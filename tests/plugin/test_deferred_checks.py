"""Nothing of an update is read before the next is computed, and no harm comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fairseq")

import rank_processes
from deferring import defer
from fairseq.trainer import Trainer
from torch.utils._python_dispatch import TorchDispatchMode

import fairseq_plugins  # noqa: F401
from fairseq_plugins import deferred_checks, deferred_logs
from fairseq_plugins.optim.fused_adamw import FusedAdamW, ScalingAdamW
from fairseq_plugins.optim.muon import MuonWithAdamW

Train = Callable[..., list[dict[str, Any]]]
aten = torch.ops.aten
WAITS = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.is_nonzero.default)


class NoWaits(TorchDispatchMode):
    """Makes an error of what would make the host wait for a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        by_flags = function == aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in arguments[1])
        if function in WAITS or by_flags:
            raise AssertionError(f"{function} waits for the device")
        return function(*arguments, **(settings or {}))


@pytest.fixture
def deferring(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (deferred_logs, deferred_checks):
        monkeypatch.setattr(module, "defers", lambda trainer: True)


@pytest.mark.parametrize(
    "options",
    ["--bf16 --clip-norm 0", "--bf16 --clip-norm 1.0 --optimizer muon --muon-weight-decay 0.1"],
)
@pytest.mark.usefixtures("deferring")
def test_an_update_reads_nothing_back(
    options: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, watched = Trainer.train_step, []

    def without_waits(self: Trainer, samples: Any, raise_oom: bool = False) -> Any:
        if self.get_num_updates() == 0:  # the first is logged at once
            return step(self, samples, raise_oom)
        with NoWaits():
            watched.append(self.get_num_updates())
            monkeypatch.setattr(deferred_checks, "settle", lambda trainer: None)  # reads what has arrived
            return step(self, samples, raise_oom)

    monkeypatch.setattr(Trainer, "train_step", without_waits)
    train(f"--save-dir {tmp_path} --max-update 4 --update-freq 2 --log-interval 2 --no-save {options}")
    assert watched == [1, 2, 3]


def test_what_waits_is_noticed() -> None:
    for wait in (torch.Tensor.item, torch.Tensor.nonzero, lambda x: x[x > 0], bool):
        with pytest.raises(AssertionError, match="waits"), NoWaits():
            wait(torch.ones(1))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path / "checkpoint_last.pt", weights_only=False)["model"]


def test_two_processes_end_with_the_same_weights(token_directory: Path, common_options: str, tmp_path: Path) -> None:
    made = []
    for name, before in (("at_once", None), ("later", defer)):
        given = f"{token_directory} --task metro_pretraining {common_options} --save-dir {tmp_path / name}"
        ranks = rank_processes.start(2, f"{given} --max-update 4 --clip-norm 0.5".split(), tmp_path / "log", before)
        assert rank_processes.statuses(ranks) == [0, 0], (tmp_path / "log").read_text()[-3000:]
        made.append(weights(tmp_path / name))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.usefixtures("deferring")
def test_divergence_is_found_before_a_checkpoint_is_written(
    train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of update 3 is no number: the weights stay those of update 2, and the run ends."""
    clip = FusedAdamW.clip_grad_norm

    def spoilt(self: FusedAdamW, *arguments: Any, **settings: Any) -> torch.Tensor:
        if self.optimizer.state and int(next(iter(self.optimizer.state.values()))["step"]) == 2:
            next(iter(self.params)).grad.fill_(torch.nan)
        return clip(self, *arguments, **settings)

    monkeypatch.setattr(FusedAdamW, "clip_grad_norm", spoilt)
    often = "--save-interval-updates 1 --keep-interval-updates 9 --log-interval 100"
    with pytest.raises(SystemExit):
        train(f"--save-dir {tmp_path} --max-update 6 --clip-norm 1.0 {often}")
    error = capfd.readouterr().err
    assert "training diverged at update 3: gradients are Nan/Inf" in error
    assert f"the last good checkpoint is {tmp_path / 'checkpoint_1_2.pt'}" in error
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "checkpoint_1_1.pt", "checkpoint_1_2.pt", "checkpoint_last.pt"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [ScalingAdamW, MuonWithAdamW])
def test_a_bad_gradient_changes_nothing(kind: type[ScalingAdamW]) -> None:
    torch.manual_seed(0)
    vector, matrix = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((5,), (4, 3)))
    if kind is MuonWithAdamW:
        given = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "ns_steps": 5, "adjust_lr_fn": "original"}
        optimizer: ScalingAdamW = MuonWithAdamW([vector], [matrix], {"lr": 0.01}, lr=0.02, **given)
    else:
        optimizer = ScalingAdamW([vector, matrix], lr=0.01, fused=True)
    states = []
    for value, bad in ((1.0, 0.0), (float("nan"), 1.0), (1.0, 0.0)):
        vector.grad, matrix.grad = torch.full_like(vector, value), torch.full_like(matrix, value)
        optimizer.bad = torch.tensor(bad)
        optimizer.step()
        states.append([x.detach().clone() for p in (vector, matrix) for x in (p, *optimizer.state[p].values())])
    assert all(map(torch.equal, states[0], states[1]))
    assert not any(map(torch.equal, states[1], states[2]))
