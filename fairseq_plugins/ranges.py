"""Numbers that cannot be meant are refused before anything is read.

The fields of this project's classes declare their ranges beside help and default (`at_least`, `above`, `at_most`,
`below`; see `metro_t0.options`). Those of fairseq's own options stand here; any other number must be finite.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import ListConfig

from fairseq_plugins.run import Run
from metro_t0.errors import UserError
from metro_t0.options import out_of_range

Bounds = Mapping[str, Any]
POSITIVE: Bounds = {"at_least": 1}
COUNT: Bounds = {"at_least": 0}
SHARE: Bounds = {"at_least": 0, "at_most": 1}
FAIRSEQ: dict[str, dict[str, Bounds]] = {
    "common": {"seed": {"at_least": 0, "below": 2**31}, "log_interval": POSITIVE},
    "dataset": {
        "batch_size": POSITIVE, "batch_size_valid": POSITIVE, "max_tokens": POSITIVE, "max_tokens_valid": POSITIVE,
        "num_workers": {"at_least": 0, "at_most": 1024}, "required_batch_size_multiple": POSITIVE,
        "validate_interval": POSITIVE, "validate_interval_updates": COUNT, "data_buffer_size": COUNT,
    },
    "optimization": {
        "lr": COUNT, "clip_norm": COUNT, "max_update": COUNT, "max_epoch": COUNT, "update_freq": POSITIVE,
        "stop_time_hours": COUNT,
    },
    "checkpoint": {"save_interval": POSITIVE, "save_interval_updates": COUNT},
    "distributed_training": {"distributed_world_size": POSITIVE},
    "ema": {"ema_decay": SHARE, "ema_update_freq": POSITIVE, "ema_start_update": COUNT},
    "optimizer": {
        "adam_betas": {"at_least": 0, "below": 1}, "adam_eps": {"above": 0, "at_most": 1},
        "weight_decay": {"at_least": 0, "at_most": 1000},
    },
    "lr_scheduler": {"warmup_updates": COUNT, "total_num_update": POSITIVE, "end_learning_rate": COUNT},
}  # fmt: skip


def check_numbers(run: Run) -> None:
    """Raise `UserError` naming the first option whose number is out of its range, or that the device cannot do."""
    declared = {section: _declared(run, section) for section in ("task", "model", "criterion", "optimizer")}
    for section, field, value in run.fields():
        bounds = {**FAIRSEQ.get(section, {}).get(field, {}), **declared.get(section, {}).get(field, {})}
        for number in _numbers(value, bool(bounds)):
            if problem := out_of_range(number, bounds):
                raise UserError(f"{run.option(section, field)} is {number}; it {problem}")
    common, data = run.cfg.common, run.cfg.dataset
    if data.max_tokens is None and data.batch_size is None:
        raise UserError(f"give {run.option('dataset', 'batch_size')} or {run.option('dataset', 'max_tokens')}")
    fp16, bf16 = run.option("common", "fp16"), run.option("common", "bf16")
    if common.fp16 and common.bf16:
        raise UserError(f"{fp16} and {bf16} exclude each other")
    if common.fp16 and common.fp16_scale_window is None and len(run.cfg.optimization.update_freq) > 1:
        window, schedule = run.option("common", "fp16_scale_window"), run.option("optimization", "update_freq")
        raise UserError(f"{fp16} with a schedule of {schedule} needs {window}, as 2000 (updates until the scale grows)")
    if common.fp16 and (common.cpu or not torch.cuda.is_available()):
        raise UserError(f"{fp16} needs a GPU; on a CPU train in 32 bits, or with {bf16}")


def _declared(run: Run, section: str) -> dict[str, Bounds]:
    """Field -> metadata, of the class that the run has in a section."""
    name = getattr(run.cfg.get(section), "_name", None)
    if section == "task":
        found = TASK_DATACLASS_REGISTRY.get(name)
    elif section == "model":
        found = MODEL_DATACLASS_REGISTRY.get(ARCH_MODEL_NAME_REGISTRY.get(name, name))
    else:
        found = REGISTRIES[section]["dataclass_registry"].get(name)
    return {field.name: field.metadata for field in dataclasses.fields(found)} if found else {}


def _numbers(value: Any, in_text: bool) -> Iterator[float]:
    """The numbers of a value: itself, those of a list, and (where `in_text`) of a list written as text."""
    if in_text and isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return
    if isinstance(value, list | tuple | ListConfig):
        for part in value:
            yield from _numbers(part, in_text)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
