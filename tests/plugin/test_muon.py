"""Muon beside AdamW: against torch's, and under the real fairseq-train."""

from __future__ import annotations

import copy
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

pytest.importorskip("fairseq")

from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim.fp16_optimizer import FP16Optimizer

from fairseq_plugins.models.metro_t5 import MetroT5Model
from fairseq_plugins.optim import muon
from fairseq_plugins.optim.muon import HIDDEN_MATRICES, Muon, MuonConfig
from metro_t0.modeling import preset

Train = Callable[..., list[dict[str, Any]]]
REPOSITORY = Path(__file__).resolve().parents[2]
SHAPES = [(8, 8), (8, 16), (16, 8), (8, 8)]
NO_DROPOUT = "--dropout 0 --attention-dropout 0"


def parameters() -> list[nn.Parameter]:
    """Four hidden matrices of two kinds, an embedding and a bias."""
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [*SHAPES, (20, 8), (8,)]]
    for matrix in made[:4]:
        matrix.param_group = HIDDEN_MATRICES
    return made


def settings(**changes: Any) -> MuonConfig:
    return MuonConfig(
        **{"lr": [0.001], "muon_lr": 0.01, "adam_betas": "(0.9, 0.98)", "weight_decay": 0.1, **changes}  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "changes", [{}, {"muon_plain_momentum": True, "muon_weight_decay": 0.3}, {"muon_adjust_lr": "match_rms_adamw"}]
)
def test_updates_are_those_of_torch(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch iterates each matrix by itself, in bfloat16: here without that rounding."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    monkeypatch.setattr(muon, "iteration_dtype", lambda device_type: torch.float32)
    ours, theirs = parameters(), parameters()
    optimizer = Muon(settings(**changes), ours)
    expected = [
        torch.optim.Muon(
            theirs[:4], lr=0.01, momentum=0.95, weight_decay=changes.get("muon_weight_decay", 0.0),
            nesterov="muon_plain_momentum" not in changes, adjust_lr_fn=changes.get("muon_adjust_lr"),
        ),
        torch.optim.AdamW(theirs[4:], lr=0.001, betas=(0.9, 0.98), weight_decay=0.1, fused=True),
    ]  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator) * 10**step
            other.grad = mine.grad.clone()
        if step == 1:  # a matrix without a gradient stays where it is
            ours[0].grad = theirs[0].grad = None
        optimizer.step()
        for each in expected:
            each.step()
    for mine, other, start in zip(ours, theirs, parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
        assert not torch.equal(mine, start)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_singular_values_come_near_1_and_directions_stay(
    dtype: torch.dtype, rounding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "iteration_dtype", lambda device_type: dtype)
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.randn(shape, generator=generator) for shape in [(24, 48), (48, 24)]]
    together = muon.orthogonalized(matrices, 5)
    monkeypatch.setattr(muon, "BATCH_ELEMENTS", 1)
    assert muon.equal_shapes(matrices) == [[0], [1]]
    for matrix, found in zip(matrices, together, strict=True):
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        rotated = u.T @ found @ vh.T
        values = rotated.diagonal()
        assert values.min() > 0.6
        assert values.max() < 1.3
        torch.testing.assert_close(rotated, values.diag(), atol=rounding, rtol=0)
        torch.testing.assert_close(found, muon.orthogonalized([matrix], 5)[0], atol=rounding / 10, rtol=0)
    assert not muon.orthogonalized([torch.zeros(3, 4)], 5)[0].any()


def test_both_rates_follow_the_scheduler_and_checkpoints_keep_both_states() -> None:
    optimizer = Muon(settings(), parameters())
    optimizer.set_lr(0.0005)
    assert optimizer.get_lr() == 0.0005
    assert {group[HIDDEN_MATRICES]: group["lr"] for group in optimizer.param_groups} == {
        False: 0.0005,
        True: pytest.approx(0.005),
    }
    for p in optimizer.params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    other = Muon(settings(muon_lr=0.03), parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()), {"weight_decay": 0.2})
    assert [group["lr"] for group in other.param_groups] == [0.0005, pytest.approx(0.015)]
    for mine, restored in zip(optimizer.params, other.params, strict=True):
        one, two = optimizer.optimizer.state[mine], other.optimizer.state[restored]
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_that_goes_on_has_its_own_options() -> None:
    """fairseq would take those of the checkpoint, whatever --accept-changed-options says."""
    before, after = (Muon(settings(**changes), parameters()) for changes in ({}, {"weight_decay": 0.5, "lr": [0.004]}))
    after.load_state_dict(before.state_dict(), {"eps": 0.5})
    rest, matrices = after.param_groups
    assert (rest["weight_decay"], rest["eps"], matrices["momentum"]) == (0.5, 0.5, 0.95)
    assert rest["lr"] == 0.001, "a scheduler may have left it there"


def test_the_hidden_matrices_are_the_linear_maps_of_the_layers() -> None:
    config = preset("demo").replace(encoder_layers=1, decoder_layers=1, auxiliary_layers=1)
    model = MetroT5Model(config, 1, torch.zeros(32, dtype=torch.uint8))
    found = {name for name, p in model.named_parameters() if getattr(p, "param_group", None) == HIDDEN_MATRICES}
    attention, feed_forward = 4, 2
    assert len(found) == 3 * (attention + feed_forward) + attention
    assert all(name.endswith(".weight") and ".layers.0." in name for name in found)


def test_bf16_keeps_matrices_in_fp32() -> None:
    config = OmegaConf.structured(FairseqConfig)
    config.common.bf16 = True
    config.optimizer = OmegaConf.structured(settings())
    config.optimizer._name = "muon"
    halves = parameters()
    for p in halves:
        p.data = p.data.to(torch.bfloat16)
    optimizer = FP16Optimizer.build_optimizer(config, halves)
    optimizer.backward(sum(p.square().sum() for p in halves))
    plain = parameters()
    for p, half in zip(plain, halves, strict=True):
        p.data, p.grad = half.detach().float(), half.grad.float()
    alone = Muon(settings(), plain)
    alone.clip_grad_norm(1.0)
    alone.step()
    optimizer.clip_grad_norm(1.0)
    optimizer.step()
    for mine, other in zip(optimizer.fp32_params, plain, strict=True):
        torch.testing.assert_close(mine.data, other.data)
    states = optimizer.optimizer.state
    assert len(states) == len(halves)
    assert {value.dtype for state in states.values() for value in state.values()} == {torch.float32}
    for half, full in zip(halves, optimizer.fp32_params, strict=True):
        assert torch.equal(half, full.to(torch.bfloat16))


def test_resuming_gives_the_same_run_to_the_bit(train: Train, tmp_path: Path) -> None:
    options = "--optimizer muon --lr-scheduler polynomial_decay --warmup-updates 3 --total-num-update 9"
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    uninterrupted = train(f"--save-dir {whole} --max-update 9 {options}")
    train(f"--save-dir {halted} --max-update 4 {options}")
    resumed = train(f"--save-dir {halted} --max-update 9 {options}")
    assert [r["loss"] for r in resumed] == [r["loss"] for r in uninterrupted[4:]]
    assert [r["lr"] for r in resumed] == [r["lr"] for r in uninterrupted[4:]]
    states = [torch.load(run / "checkpoint_last.pt", weights_only=False)["model"] for run in (whole, halted)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_two_processes_equal_one_with_twice_the_batch(
    train: Train, token_directory: Path, common_options: str, tmp_path: Path
) -> None:
    # Every update sees all data; AdamW, whose first steps are those of signs, has next to no rate.
    options = f"--optimizer muon --lr 1e-6 --muon-lr 0.02 --clip-norm 1.0 --max-update 2 {NO_DROPOUT}"
    train(f"--save-dir {tmp_path / 'one'} --batch-size 24 {options}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (
        f"-m torch.distributed.run --nproc_per_node 2 --master_port {port} -m fairseq_cli.train {token_directory} "
        f"--task metro_pretraining {common_options} --batch-size 12 {options} --distributed-world-size 2 "
        f"--distributed-backend gloo --save-dir {tmp_path / 'two'}"
    )
    run = subprocess.run(
        [sys.executable, *command.split()], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    one, two = (torch.load(tmp_path / run / "checkpoint_last.pt", weights_only=False) for run in ("one", "two"))
    for name, tensor in one["model"].items():
        # Two updates move a 32 x 32 matrix by 0.2 or so; a CPU that iterates in bfloat16 rounds at 2% of that.
        assert torch.dist(tensor.float(), two["model"][name].float()) < 0.01, name


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([nn.Parameter(torch.zeros(24))], "found no hidden matrices"),
        (None, "needs a positive --lr"),
    ],
)
def test_what_muon_cannot_train_is_said_in_one_line(
    params: list[nn.Parameter] | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        Muon(settings(lr=[0.0]), params or parameters())
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
