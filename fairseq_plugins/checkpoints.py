"""Checkpoints that fairseq reads and writes: whole ones only, by every process of a run, or a Hugging Face directory.

- A damaged checkpoint is reported in one line that says what to do, instead of a traceback out of the unpickler.
- With several processes rank 0 reads and sends; fairseq sends a pickle of its config's classes, which torch refuses to
  load. Here plain values and tensors travel, and nothing else is loaded.
- A Hugging Face directory stands for the checkpoint that `metro-t0-convert to-fairseq` would make of it.
- The copy checkpoint_last.pt of a new checkpoint gets its name once it is whole, so that a kill cannot cut it.
- Where writing fails, as on a full disk, the next attempt begins the file anew; fairseq writes after what is there.
- An optimizer that goes on keeps the options of its own run, of which fairseq takes the learning rate alone.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.optim import FairseqOptimizer
from omegaconf import OmegaConf

from fairseq_plugins import run as runs
from fairseq_plugins.errors import clear_errors, refuse
from metro_t0.checkpoint_files import check_readable
from metro_t0.errors import first_line
from metro_t0.files import describe

REMEDY = "continue from the one before with --restore-file"
MODEL_CONFIG = "config.json"
ATTEMPTS, PAUSE = 3, 2.5
"""To write a checkpoint, and seconds between them, as fairseq has it."""
TRAINED = ("params", "lr")
"""What a group of parameters has from the checkpoint; a scheduler may have left the rate there."""


def install() -> None:
    """Mend fairseq once."""
    original = checkpoint_utils.load_checkpoint_to_cpu
    if getattr(original, "patched", False):
        return

    @functools.wraps(original)
    def load_checkpoint_to_cpu(path: str, *arguments: Any, **settings: Any) -> Any:
        with clear_errors():
            if is_model_directory(path):
                return with_average(state_of_directory(Path(path)))
            if Path(path).exists():
                check_readable(Path(path), REMEDY)
        return with_average(original(path, *arguments, **settings))

    load_checkpoint_to_cpu.patched = True  # type: ignore[attr-defined]
    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
    checkpoint_utils._torch_persistent_save = write_whole
    FairseqOptimizer.load_state_dict = load_with_own_options
    distributed_utils._broadcast_object_slow = broadcast_plain
    is_file, copy = PathManager.isfile, PathManager.copy
    # Asked before a checkpoint is read.
    PathManager.isfile = staticmethod(lambda path: is_file(path) or is_model_directory(path))
    PathManager.copy = staticmethod(functools.partial(copy_whole, copy))


def with_average(state: Any) -> Any:
    """The state; where --store-ema begins with it, its weights are the first average (fairseq wants to, and fails)."""
    run = runs.current
    if run is not None and run.cfg.ema.store_ema and "ema" not in state["extra_state"]:
        state["extra_state"]["ema"] = state["model"]
    return state


def load_with_own_options(self: Any, state: dict[str, Any], optimizer_overrides: Any = None) -> None:
    """fairseq's, with the betas, weight decay and so on that the run was given, not those of the checkpoint."""
    own = [{name: value for name, value in group.items() if name not in TRAINED} for group in self.param_groups]
    self.optimizer.load_state_dict(state)
    for group, options in zip(self.param_groups, own, strict=True):
        group.update({**options, **(optimizer_overrides or {})})


def is_model_directory(path: str | Path) -> bool:
    """True of a directory that Hugging Face would load a model from."""
    return (Path(path) / MODEL_CONFIG).is_file()


def state_of_directory(directory: Path) -> dict[str, Any]:
    """The checkpoint (at update 0, without optimizer) of a Hugging Face directory's model."""
    from metro_t0.hf.convert import checkpoint_of_directory  # imports transformers

    return checkpoint_of_directory(directory)


def copy_whole(copy: Callable[..., Any], source: str, destination: str, overwrite: bool = False) -> Any:
    """fairseq's `copy`, but on local disks a file's new name never stands for a part of it."""
    if not os.path.isfile(source) or not Path(destination).parent.is_dir():
        return copy(source, destination, overwrite=overwrite)
    temporary = f"{destination}.tmp"
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, destination)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        refuse(f"{destination}: cannot be written ({describe(error)}); {source} is whole")
    return True


def write_whole(state: Any, file: Any) -> None:
    """Write a checkpoint into a file that was just opened; after three attempts the run ends in one line."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            torch.save(state, file)
            file.flush()
            return
        except (OSError, RuntimeError) as error:  # torch has words of its own for some errors of the system
            file.seek(0)
            file.truncate()
            if attempt == ATTEMPTS:
                why = describe(error) if isinstance(error, OSError) else first_line(error)
                refuse(f"{file.name}: cannot be written ({why}); the checkpoints before it are whole")
            time.sleep(PAUSE)


def broadcast_plain(value: Any, src_rank: int, group: Any, dist_device: torch.device) -> Any:
    """Give all processes of a group what rank `src_rank` has: plain values, of which configs become dictionaries.

    In place of fairseq's function of the same signature, which sends the config's classes. Nothing that is received is
    executed, and no class is built but those named here.
    """
    is_source = distributed_utils.get_rank(group) == src_rank
    content = bytearray()
    if is_source:
        buffer = io.BytesIO()
        torch.save(_plain(value), buffer)
        content = bytearray(buffer.getbuffer())
    length = torch.tensor([len(content)], dtype=torch.long, device=dist_device)
    distributed_utils.broadcast(length, src=src_rank, group=group)
    if is_source:
        sent = torch.frombuffer(content, dtype=torch.uint8).to(dist_device)
    else:
        sent = torch.empty(int(length), dtype=torch.uint8, device=dist_device)
    distributed_utils.broadcast(sent, src=src_rank, group=group)
    if is_source:
        return value
    with torch.serialization.safe_globals([argparse.Namespace, distributed_utils._TensorPlaceholder]):
        return torch.load(io.BytesIO(sent.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)


def _plain(value: Any) -> Any:
    """Configs as dictionaries, at any depth of dictionaries and lists."""
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True, enum_to_str=True)
    if type(value) is dict:
        return {key: _plain(part) for key, part in value.items()}
    if type(value) is list:
        return [_plain(part) for part in value]
    return value
