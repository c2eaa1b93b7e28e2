"""A checkpoint belongs to the options it was trained with: a run with others is refused, naming what differs.

More updates, another number of processes or workers, another batch size are no difference. What is meant says so:
fairseq's --reset-optimizer (other objective, optimizer, schedule, precision), --reset-lr-scheduler (other schedule),
--reset-dataloader (other data), --finetune-from-model (anything), or our own --accept-changed-options.
"""

from __future__ import annotations

import ast
import math
import os
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf

from fairseq_plugins.run import OWN_SECTIONS, Run
from metro_t0.errors import UserError
from metro_t0.modeling.config import fields_of

COMPARED = {
    "optimization": ("lr", "clip_norm"),
    "checkpoint": ("finetune_from_model",),
    "dataset": ("train_subset",),
    # fairseq stores another optimizer state with each of them.
    "common": ("fp16", "bf16", "amp", "memory_efficient_fp16", "memory_efficient_bf16"),
}
"""fairseq's own options that say what is learned from what."""
LENGTH_OF_RUN = {"lr_scheduler": {"total_num_update", "max_update"}, "criterion": {"max_update"}}
ONLY_THIS_RUN = {
    "model": {*fields_of("run"), "accept_changed_options", "peak_tflops"},
    "task": {"save_dir", "valid_examples", "accuracy_target"},
    "optimizer": {"tpu", "lr"},  # the same as optimization.lr
    "lr_scheduler": {"lr"},
}
"""Fields that say how a run goes, not what is learned."""
MEANT_BY = {
    "reset_optimizer": ("criterion", "optimizer", "lr_scheduler", "optimization", "common"),
    "reset_lr_scheduler": ("lr_scheduler", "optimization"),
    "reset_dataloader": ("task", "dataset"),
}
"""fairseq's option -> sections that may then differ."""
DATA_FILES = "data_files"
"""In a checkpoint's state of a task: see `data_files`."""


def check_options(state: dict[str, Any], run: Run, path: str) -> None:
    """Raise `UserError` where the options in a checkpoint (its field cfg) differ from the run's."""
    trained = state.get("cfg")
    if not isinstance(trained, dict):
        return
    accepted = bool(getattr(run.cfg.model, "accept_changed_options", False))
    meant = {
        section for option, sections in MEANT_BY.items() if getattr(run.cfg.checkpoint, option) for section in sections
    }
    found = {
        f"{run.option(section, field)} ({_shown(before)} there, {_shown(now)} here)": _needs_reset(section, field)
        for section, field, before, now in differences(trained, run.cfg)
        if section not in meant and not (field == "data" and _moved(state, now))
    }
    if accepted:
        found = {difference: True for difference, needs_reset in found.items() if needs_reset}
    if found:
        say = ("checkpoint", "reset_optimizer") if any(found.values()) else ("model", "accept_changed_options")
        raise UserError(
            f"{path} was trained with other options: {', '.join(found)}; choose another "
            f"{run.option('checkpoint', 'save_dir')}, or say that it is meant with {run.option(*say)}"
        )


def _needs_reset(section: str, field: str) -> bool:
    """True where fairseq could not load the optimizer's state."""
    return section == "common" or (section in ("criterion", "optimizer") and field == "_name")


def data_files(paths: str) -> list[list[Any]]:
    """Names and sizes of the files in data directories (a:b:c): they know data that was moved or copied."""
    found = []
    for directory in str(paths).split(os.pathsep):
        files = os.scandir(directory) if os.path.isdir(directory) else ()
        found.append(sorted([file.name, file.stat().st_size] for file in files if file.is_file()))
    return found


def _moved(state: dict[str, Any], paths: str) -> bool:
    """True where a checkpoint was trained on the same data in another place (see `OneDictionaryTask`)."""
    of_tasks = (value for value in state.get("extra_state", {}).values() if isinstance(value, dict))
    return any(of_task.get(DATA_FILES) == data_files(paths) for of_task in of_tasks)


def differences(trained: dict[str, Any], cfg: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """Section, field, value then, value now of what differs. A field that only one of the two has is no difference."""
    for section in (*OWN_SECTIONS, *COMPARED):
        before, now = trained.get(section), cfg.get(section)
        if not isinstance(before, dict) or not OmegaConf.is_config(now):
            continue
        left_out = ONLY_THIS_RUN.get(section, set()) | LENGTH_OF_RUN.get(section, set())
        now = OmegaConf.to_container(now, resolve=True, enum_to_str=True)
        assert isinstance(now, dict)
        for field in COMPARED.get(section, before):
            if field in before and field in now and field not in left_out:
                a, b = before[field], now[field]
                if not _same(a, b, is_path=field in ("data", "finetune_from_model", "init_from")):
                    yield section, str(field), a, b


def _same(a: Any, b: Any, is_path: bool) -> bool:
    if is_path:
        # What a run starts from may be left out when it is continued.
        return not a or not b or _real(a) == _real(b)
    a, b = _value(a), _value(b)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


def _real(paths: Any) -> list[str]:
    return [os.path.realpath(path) for path in str(paths).split(os.pathsep)]


def _value(value: Any) -> Any:
    """ "(0.9, 0.98)" is the list of both numbers, as fairseq reads it."""
    if isinstance(value, str) and value[:1] in ("(", "["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return list(value) if isinstance(value, tuple | list) else value


def _shown(value: Any) -> str:
    return str(value) if not isinstance(value, list) or len(value) != 1 else str(value[0])
