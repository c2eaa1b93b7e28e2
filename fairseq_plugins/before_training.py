"""What is looked at before fairseq reads data or builds a model: options, directories, the checkpoint to start from."""

from __future__ import annotations

import atexit
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import fairseq_cli.train
from fairseq import checkpoint_utils
from fairseq.logging import progress_bar
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict

from fairseq_plugins import run as runs
from fairseq_plugins.averaging import keep_precise
from fairseq_plugins.checkpoints import REMEDY, is_model_directory
from fairseq_plugins.console import divide, say, wait_for_file
from fairseq_plugins.differences import check_options
from fairseq_plugins.errors import agree
from fairseq_plugins.optim import half_precision
from fairseq_plugins.ranges import check_numbers
from fairseq_plugins.run import Run
from fairseq_plugins.utilization import peak_of_run
from metro_t0.checkpoint_files import check_readable, peek
from metro_t0.claims import lock
from metro_t0.errors import UserError

_held = ExitStack()
atexit.register(_held.close)
LAST = "checkpoint_last.pt"
"""fairseq's name for the newest checkpoint, and its default of --restore-file."""


def training_modules() -> Iterator[ModuleType]:
    """fairseq's training program: imported, and as `python -m fairseq_cli.train` runs it."""
    yield fairseq_cli.train
    main = sys.modules["__main__"]
    if getattr(main.__spec__, "name", "") == fairseq_cli.train.__name__:
        yield main


def install() -> None:
    """Have `begin` called where fairseq's `main` has completed the config, in all processes of a run."""
    for module in training_modules():
        original = module.add_defaults
        if getattr(original, "patched", False):
            continue

        @functools.wraps(original)
        def add_defaults(cfg: Any, original: Any = original) -> None:
            original(cfg)
            begin(cfg)

        add_defaults.patched = True  # type: ignore[attr-defined]
        module.add_defaults = add_defaults  # type: ignore[attr-defined]


def begin(cfg: Any) -> None:
    """Take note of the run; end it with one line where it cannot be meant."""
    give_each_job_a_directory(cfg)
    run = runs.begin(cfg)
    divide()
    wait_for_file()
    forget_earlier_runs()
    # Else fairseq would have hydra's handlers print everything again.
    with open_dict(cfg):
        cfg.pop("job_logging_cfg", None)
    keep_precise(cfg)
    half_precision.complete(cfg)
    _held.close()  # by an earlier run in this process

    def question() -> None:
        check(run)
        hold_save_dir(run)

    agree(question)
    start = starting_point(run)
    run.resumes = start is not None and start[1]
    if start is not None:
        warn_of_progress(run, start[0])


def hold_save_dir(run: Run) -> None:
    """Let no other run write the checkpoints while this process lives (see `metro_t0.claims`)."""
    if not run.cfg.checkpoint.no_save:
        _held.enter_context(lock(Path(run.cfg.checkpoint.save_dir)))


def forget_earlier_runs() -> None:
    """fairseq keeps the best loss, how long it was not beaten, and open event files for the life of a process.

    The next job of a multirun would take them for its own.
    """
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    for module in training_modules():
        vars(module.should_stop_early).clear()
    progress_bar._close_writers()
    progress_bar._tensorboard_writers.clear()
    peak_of_run.cache_clear()


def check(run: Run) -> None:
    """Raise `UserError` where numbers, directories or the checkpoint to start from cannot be meant."""
    check_numbers(run)
    options = run.cfg.checkpoint
    for option, path in (("save_dir", options.save_dir), ("tensorboard_logdir", run.cfg.common.tensorboard_logdir)):
        if path and os.path.lexists(path) and not os.path.isdir(path):
            section = "checkpoint" if option == "save_dir" else "common"
            raise UserError(f"{run.option(section, option)} {path}: is not a directory")
    if options.write_checkpoints_asynchronously:
        option = run.option("checkpoint", "write_checkpoints_asynchronously")
        raise UserError(f"{option}: fairseq then writes no {LAST}, from which a restart would go on; leave it out")
    check_subsets(run)
    start = starting_point(run)
    if start is None:
        return
    path, belongs = start
    if is_model_directory(path):
        return
    state = peek_at(path)
    if belongs:
        check_options(state, run, str(path))
        check_place(state, run, path)


def check_subsets(run: Run) -> None:
    """Raise `UserError` where a run validates on what it trains on: fairseq makes one iterator for both."""
    data = run.cfg.dataset
    if not data.disable_validation and data.train_subset in data.valid_subset.split(","):
        valid, train = run.option("dataset", "valid_subset"), run.option("dataset", "train_subset")
        raise UserError(
            f"{valid} {data.valid_subset} names what is trained on ({train}), and every validation would use up an "
            "epoch; link the files under another name, as in valid_seen, and validate on that"
        )


def check_place(state: dict[str, Any], run: Run, path: Path) -> None:
    """Raise `UserError` where a checkpoint has no place in the data: fairseq would go on in an epoch 0."""
    if "train_iterator" not in state.get("extra_state", {}) and not run.cfg.checkpoint.reset_dataloader:
        raise UserError(
            f"{path}: does not say where in the data it was, as crash.pt of an update that failed; continue from "
            f"another checkpoint, or begin the data anew with {run.option('checkpoint', 'reset_dataloader')}"
        )


def starting_point(run: Run) -> tuple[Path, bool] | None:
    """What fairseq will load first, and whether it has to have the run's options; None where it starts from scratch."""
    options = run.cfg.checkpoint
    suffix = options.checkpoint_suffix or ""
    restore, pretrained = run.option("checkpoint", "restore_file"), run.option("checkpoint", "finetune_from_model")
    last = Path(options.save_dir) / LAST.replace(".pt", f"{suffix}.pt")
    if options.restore_file != LAST:
        if options.finetune_from_model:
            raise UserError(f"{pretrained} and {restore} say two things about what to start from; give one of them")
        path = Path(options.restore_file.replace(".pt", f"{suffix}.pt"))
        if os.path.realpath(path) == os.path.realpath(last) and not last.exists():
            return None  # scripts name their own checkpoint, which the first start has not
        return existing(path, restore), True
    resets = [name for name in ("optimizer", "lr_scheduler", "meters", "dataloader") if options[f"reset_{name}"]]
    if options.finetune_from_model and resets:
        flags = " and ".join(run.option("checkpoint", f"reset_{name}") for name in resets)
        raise UserError(f"{pretrained} resets all of them: leave out {flags}")
    if last.exists():
        return last, True
    if options.finetune_from_model and run.cfg.model.get("init_from"):
        other = run.option("model", "init_from")
        raise UserError(f"{pretrained} and {other} say two things about what to start from; give one of them")
    return (existing(Path(options.finetune_from_model), pretrained), False) if options.finetune_from_model else None


def warn_of_progress(run: Run, start: Path) -> None:
    """Say that a run begins again elsewhere, although it has a checkpoint of its own: as after a restart of the job."""
    last = Path(run.cfg.checkpoint.save_dir) / LAST
    if run.cfg.checkpoint.restore_file != LAST and last.exists() and start.resolve().parent != last.resolve().parent:
        restore = run.option("checkpoint", "restore_file")
        say(f"warning: {restore} starts from {start} again and will replace {last}; to go on from that leave it out")


def existing(path: Path, option: str) -> Path:
    """The path. Raises `UserError` where it is neither a file nor a Hugging Face directory."""
    if path.is_file() or is_model_directory(path):
        return path
    what = "a directory without config.json" if path.is_dir() else "no such file or directory"
    raise UserError(f"{option} {path}: {what}; give a checkpoint file (.pt) or a Hugging Face directory")


def peek_at(path: Path) -> dict[str, Any]:
    """The values of a checkpoint. Raises `UserError` where it is damaged or none."""
    check_readable(path, REMEDY)
    state = peek(path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path}: not a checkpoint of fairseq (no field model)")
    return state


def give_each_job_a_directory(cfg: Any) -> None:
    """In a hydra multirun every job gets its own place below the common save_dir, as hydra.sweep.subdir names it."""
    name = job_name(cfg)
    if name is None:
        return
    with open_dict(cfg):
        cfg.checkpoint.save_dir = os.path.join(cfg.checkpoint.save_dir, name)
        if "save_dir" in cfg.task:
            cfg.task.save_dir = cfg.checkpoint.save_dir
        if cfg.common.tensorboard_logdir:
            cfg.common.tensorboard_logdir = os.path.join(cfg.common.tensorboard_logdir, name)
        if cfg.common.log_file:
            directory, file = os.path.split(cfg.common.log_file)
            cfg.common.log_file = os.path.join(directory, name, file)
            os.makedirs(os.path.dirname(cfg.common.log_file), exist_ok=True)


def job_name(cfg: Any) -> str | None:
    """The name of a job of a multirun, None of any other run."""
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        return str(hydra.sweep.subdir) if hydra.mode == RunMode.MULTIRUN else None
    # A process that fairseq started for one of several GPUs knows where hydra wanted its log.
    handlers = (cfg.get("job_logging_cfg") or {}).get("handlers") or {}
    log = (handlers.get("file") or {}).get("filename")
    inside = os.path.relpath(os.path.dirname(log), cfg.checkpoint.save_dir) if log else "."
    return None if inside.startswith(".") else inside
