"""fairseq's exponential moving average of the weights (--store-ema) for models with shared weights and other tensors.

fairseq's own averages every entry of the model's state: it fails at tensors that are no floating-point numbers (the
fingerprint of the dictionary), and averages a weight with several names, as the token table is, several times. In 16
bits an average does not move: a thousandth of the difference is below their precision. It is kept in fp32 then.
"""

from __future__ import annotations

from typing import Any

import torch
from fairseq import trainer as fairseq_trainer
from fairseq.models.ema.ema import EMA
from torch import Tensor


def install() -> None:
    """Have fairseq's trainer build this average."""
    fairseq_trainer.build_ema = WeightAverage


def keep_precise(cfg: Any) -> None:
    """Set --ema-fp32 where the weights have 16 bits."""
    sixteen = ("fp16", "bf16", "memory_efficient_fp16", "memory_efficient_bf16")
    if cfg.ema.store_ema and any(cfg.common[name] for name in sixteen):
        cfg.ema.ema_fp32 = True


class WeightAverage(EMA):
    """Same state in checkpoints, same options; one fused operation for all weights."""

    def step(self, new_model: Any, updates: int | None = None) -> None:
        """fairseq's; where --ema-update-freq stands is said by the updates, not by those since the last restart."""
        if updates is not None:
            self.update_freq_counter = (updates - 1) % self.config.ema_update_freq
        super().step(new_model, updates)

    def _step_internal(self, new_model: Any, updates: int | None = None) -> None:
        weights, rest = _by_storage(new_model)
        own, own_rest = _by_storage(self.model)
        averages = list(own.values())
        if self.config.ema_fp32:
            averages = [self.fp32_params[name] for name in own]
        with torch.no_grad():
            new = [weights[name].to(average.dtype) for name, average in zip(own, averages, strict=True)]
            torch._foreach_lerp_(averages, new, 1 - self.get_decay())
            if self.config.ema_fp32:
                torch._foreach_copy_(list(own.values()), averages)
            for name, tensor in own_rest.items():
                tensor.copy_(rest[name])

    def build_fp32_params(self, state_dict: dict[str, Tensor] | None = None) -> None:
        """fp32 copies of their own, one for each weight, from the model's state or a checkpoint's."""
        state = self.model.state_dict() if state_dict is None else state_dict
        weights, _ = _by_storage(self.model)
        device = next(iter(weights.values())).device
        self.fp32_params = {name: state[name].to(device, torch.float32, copy=True) for name in weights}


def _by_storage(model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters, each under its first name, and all that is no parameter."""
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    return parameters, dict(model.named_buffers())
