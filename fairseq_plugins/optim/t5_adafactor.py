"""Adafactor as T5's recipe has it, with options that hydra configs can set.

The update rule is that of transformers. fairseq's own multiplies the learning rate of the group by the scale of every
parameter in turn, so that with a rate from outside a parameter's step depends on those before it.

No momentum, factored second moment with exponent 0.8, updates clipped at 1 and multiplied by the scale of the
parameter. The learning rate is the scheduler's. Unlike T5X, every matrix is factored, not only those of 128 and more.
"""

# fairseq reads the types of dataclass fields at run time: no `from __future__ import annotations` here.
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from transformers.optimization import Adafactor

from metro_t0.options import option


@dataclass
class T5AdafactorConfig(FairseqDataclass):
    """Options of `--optimizer t5_adafactor`; the defaults are the recipe's."""

    clip_threshold: float = option(1.0, "largest root mean square of an update", above=0)
    decay_exponent: float = option(0.8, "second-moment decay at step t is 1 - t ** -exponent", above=0, at_most=10)
    scale_parameter: bool = option(True, "multiply steps by the parameter's scale")
    weight_decay: float = option(0.0, "weight decay", at_least=0, at_most=1000)
    lr: list[float] = II("optimization.lr")


class _Adafactor(Adafactor):
    """That of transformers, which asks the device for the scale of every parameter in turn."""

    @staticmethod
    def _get_lr(param_group: dict[str, Any], param_state: dict[str, Any]) -> Any:
        scale = param_state["RMS"].clamp(min=param_group["eps"][1]) if param_group["scale_parameter"] else 1.0
        return scale * param_group["lr"]


@register_optimizer("t5_adafactor", dataclass=T5AdafactorConfig)
class T5Adafactor(FairseqOptimizer):
    """Adafactor with a schedule from outside."""

    def __init__(self, cfg: T5AdafactorConfig, params: Iterable[torch.nn.Parameter]) -> None:
        super().__init__(cfg)
        self._optimizer = _Adafactor(params, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What a restored checkpoint is given again."""
        return {
            "lr": self.cfg.lr[0],
            "eps": (1e-30, 1e-3),
            "clip_threshold": self.cfg.clip_threshold,
            "decay_rate": -self.cfg.decay_exponent,
            "beta1": None,
            "weight_decay": self.cfg.weight_decay,
            "scale_parameter": self.cfg.scale_parameter,
            "relative_step": False,
            "warmup_init": False,
        }

    @property
    def supports_memory_efficient_fp16(self) -> bool:
        """Yes: gradients, moments and the step itself are in fp32, whatever the weights are."""
        return True
