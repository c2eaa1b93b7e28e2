"""Weights on disk, whoever wrote them: fairseq checkpoints of this project and Hugging Face directories."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from metro_t0.checkpoint_files import load_plain
from metro_t0.files import atomic_path
from metro_t0.hf.checkpoints import PREFIX, read_checkpoint
from metro_t0.hf.loading import FILES, INDEXES, directory_tensors, load_seq2seq, weight_files


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a model by name. Raises `UserError` where `path` is neither kind, or has not all of them."""
    if path.is_dir():
        load_seq2seq(path)
        return directory_tensors(path)
    read_checkpoint(path)
    return {name.removeprefix(PREFIX): tensor for name, tensor in load_plain(path)["model"].items()}


def write_like(template: Path, tensors: dict[str, Tensor], output: Path) -> None:
    """A copy of `template` with these tensors (named as `read_weights` gave them) in place of its own.

    A fairseq checkpoint loses its optimizer state and starts at update 0; a directory keeps its other files.
    """
    if template.is_dir():
        output.mkdir(parents=True, exist_ok=True)
        replaced = {*weight_files(template), *(template / index for index in INDEXES.values())}
        for file in template.iterdir():
            if file.is_file() and file not in replaced:
                shutil.copy2(file, output / file.name)
        with atomic_path(output / FILES[".safetensors"]) as temporary:
            save_file(_untied(tensors), temporary, metadata={"format": "pt"})
        return
    state = load_plain(template)
    own = {name: tensors[name.removeprefix(PREFIX)] for name in state["model"]}
    fresh = [
        {**history, "num_updates": 0, "lr_scheduler_state": {}} for history in state.get("optimizer_history") or []
    ]
    extra = {"metrics": {}, "previous_training_time": 0, "train_iterator": {"epoch": 1, "iterations_in_epoch": 0}}
    made = {**state, "model": own, "optimizer_history": fresh, "extra_state": extra, "last_optimizer_state": None}
    with atomic_path(output) as temporary:
        torch.save(made, temporary)


def _untied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory; tied ones are written as they were read, each on its own."""
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
