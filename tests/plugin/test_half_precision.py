"""Training in 16 bits against fairseq's loops over tensors, against training that never stopped, and against fp32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("fairseq")

from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim import build_optimizer
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer, _FP16OptimizerMixin
from omegaconf import OmegaConf

from fairseq_plugins.criterions.logging import summed
from fairseq_plugins.optim import half_precision
from fairseq_plugins.optim.fused_adamw import FusedAdamW, FusedAdamWConfig, ScalingAdamW
from fairseq_plugins.optim.muon import HIDDEN_MATRICES, MuonConfig


def bf16_optimizer(model: nn.Module) -> Any:
    config = OmegaConf.structured(FairseqConfig)
    config.common.bf16 = True
    config.optimizer = OmegaConf.structured(FusedAdamWConfig(lr=[0.01]))
    config.optimizer._name = "fused_adamw"
    return FP16Optimizer.build_optimizer(config, list(model.parameters()))


def train(model: nn.Module, steps: int = 5) -> list[torch.Tensor]:
    """One parameter is frozen, another gets no gradient in the first steps."""
    generator = torch.Generator().manual_seed(1)
    optimizer = bf16_optimizer(model)
    norms = []
    for step in range(steps):
        for _ in range(2):  # accumulated
            x = torch.randn(4, 6, generator=generator).to(torch.bfloat16)
            loss = model[0](x).float().square().sum()
            optimizer.backward(loss + model[1](x).float().sum() if step > 2 else loss)
        optimizer.multiply_grads(0.5)
        norms.append(optimizer.clip_grad_norm(0.3))
        optimizer.step()
        optimizer.zero_grad()
    return [*norms, *model.parameters(), *optimizer.fp32_params]


def test_bf16_training_is_that_of_fairseq(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(6, 3)).to(torch.bfloat16)
    model[0].bias.requires_grad_(False)
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    half_precision.install()
    found = train(ours)
    with monkeypatch.context() as patch:
        for name in ("_sync_fp16_grads_to_fp32", "_sync_fp32_params_to_fp16", "zero_grad"):
            patch.setattr(FP16Optimizer, name, getattr(_FP16OptimizerMixin, name))
        patch.delattr(FusedAdamW, "clip_grad_norm")
        patch.setattr(ScalingAdamW, "supports_step_with_scale", False)
        expected = train(theirs)
    assert not torch.equal(ours[0].weight, model[0].weight)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)


def test_a_restart_keeps_the_fp32_copies() -> None:
    half_precision.install()

    def steps(optimizer: Any, number: int) -> list[torch.Tensor]:
        for step in range(number):
            for p in optimizer.fp16_params:
                p.grad = torch.full_like(p, 0.1 * (-1) ** step)
            optimizer._needs_sync = True
            optimizer.step()
            optimizer.zero_grad()
        return optimizer.fp32_params

    torch.manual_seed(0)
    whole = nn.Linear(6, 5).to(torch.bfloat16)
    halted = copy.deepcopy(whole)
    expected = steps(bf16_optimizer(whole), 4)
    before, after = bf16_optimizer(halted), None
    steps(before, 2)
    after = bf16_optimizer(halted)
    after.load_state_dict(before.state_dict())
    assert all(map(torch.equal, steps(after, 2), expected))
    assert all(map(torch.equal, halted.parameters(), whole.parameters()))
    assert not all(torch.equal(copy, copy.to(torch.bfloat16).float()) for copy in expected)
    other = nn.Linear(6, 5).to(torch.bfloat16)  # of weights that are not the state's, those count
    after = bf16_optimizer(other)
    after.load_state_dict(before.state_dict())
    assert all(map(torch.equal, after.fp32_params, (p.float() for p in other.parameters())))


@pytest.mark.parametrize("name", ["fused_adamw", "muon"])
def test_amp_unscales_gradients_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small gradients and a large loss scale: a second division would put them far below Adam's epsilon."""
    half_precision.install()
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda **given: torch.amp.GradScaler("cpu", **given))
    config = OmegaConf.structured(FairseqConfig)
    config.common.fp16_init_scale = 2**16
    config.optimizer = OmegaConf.structured({"muon": MuonConfig, "fused_adamw": FusedAdamWConfig}[name](lr=[0.1]))
    config.optimizer._name, config.optimizer.adam_eps = name, 1e-6
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    made = []
    for build in (lambda p: build_optimizer(config.optimizer, p), lambda p: AMPOptimizer.build_optimizer(config, p)):
        matrix, vector = nn.Parameter(start.clone()), nn.Parameter(start[0].clone())
        matrix.param_group = HIDDEN_MATRICES  # type: ignore[attr-defined]
        optimizer = build([matrix, vector])
        for _ in range(2):
            optimizer.zero_grad()
            optimizer.backward(1e-4 * (matrix.square().sum() + vector.square().sum()))
            optimizer.clip_grad_norm(1.0)
            optimizer.step()
        made.append((matrix, vector))
    for plain, scaled in zip(*made, strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-6)
    optimizer.scaler.update(2.0**9)
    again = AMPOptimizer.build_optimizer(config, list(made[1]))
    again.load_state_dict(optimizer.state_dict())
    assert again.scaler.get_scale() == 2.0**9


@pytest.mark.parametrize("scale", [4.0, torch.tensor(4.0)])
def test_gradients_are_scaled_inside_the_update(scale: float | torch.Tensor) -> None:
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    plain, scaled = (nn.Parameter(start.clone()) for _ in range(2))
    plain.grad, scaled.grad = torch.ones(3, 4), torch.full((3, 4), 4.0)
    torch.optim.AdamW([plain], lr=0.1, fused=True).step()
    ScalingAdamW([scaled], lr=0.1, fused=True).step(scale=scale)
    assert torch.equal(plain, scaled)


@pytest.mark.parametrize(
    "values", [lambda x: x, lambda x: torch.tensor(x), lambda x: torch.tensor(x, dtype=torch.int32)]
)
def test_log_outputs_are_added_up_to_python_numbers(values: Callable[[int], Any]) -> None:
    total = summed([{"a": values(3), "b": 1}, {"a": values(4), "c": 2.5}])
    assert total == {"a": 7, "b": 1, "c": 2.5}
    assert not any(isinstance(value, torch.Tensor) for value in total.values())
    assert total["nowhere"] == 0
    assert summed([]) == {}


def test_what_the_options_for_16_bits_imply() -> None:
    """fairseq's command line turns bf16 on with its memory-efficient kind; its configs would train in 32 bits."""
    config = OmegaConf.structured(FairseqConfig)
    config.common.memory_efficient_bf16 = True
    config.optimization.update_freq = [1, 2]
    half_precision.complete(config)
    assert config.common.bf16
    assert not config.common.fp16
    FP16Optimizer(config, [], None, [])  # fairseq asks for a window of the loss scale, which bf16 has not
