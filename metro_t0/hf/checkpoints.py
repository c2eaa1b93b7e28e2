"""fairseq checkpoints as data: read without executing anything in them, and written for `fairseq-train` to start from.

No fairseq is needed for either. A METRO checkpoint holds the tensors of `metro_t0.modeling.MetroT5` under the prefix
`metro.`, the SHA-256 of its dict.txt, and the options of the run as plain values.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metro_t0.checkpoint_files import load_plain
from metro_t0.errors import UserError
from metro_t0.files import atomic_path, sha256_of
from metro_t0.hf.model_card import training_facts
from metro_t0.modeling import MetroT5, ModelConfig
from metro_t0.tokenization.vocabulary import PAD_ID

PREFIX = "metro."
MAIN = "main."
TOKEN_TABLE = "main.encoder.embeddings.tokens.weight"
FINGERPRINT = "dictionary_fingerprint"


@dataclass(frozen=True)
class Checkpoint:
    """The model of a fairseq checkpoint."""

    path: Path
    config: ModelConfig
    """Architecture of what the file holds; without auxiliary where it holds none."""
    tensors: dict[str, Tensor]
    """Name as in `MetroT5.state_dict()` -> tensor."""
    fingerprint: str | None
    """SHA-256 of the dict.txt it was trained with, hexadecimal."""
    data: Path | None
    """First data directory of the run."""
    training: dict[str, str]
    """How it was trained, for the model card."""

    def main_tensors(self) -> dict[str, Tensor]:
        """Tensors of the main model, `main.*`."""
        return {name: tensor for name, tensor in self.tensors.items() if name.startswith(MAIN)}

    def pretraining_tensors(self) -> dict[str, Tensor]:
        """Tensors of the auxiliary and of the heads that only pretraining needs."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(MAIN)}

    def check_dictionary(self, dict_path: Path) -> None:
        """Raise `UserError` where dict.txt is not the one the model was trained with."""
        if self.fingerprint is not None and sha256_of(dict_path) != self.fingerprint:
            raise UserError(f"{dict_path}: not the vocabulary that {self.path} was trained with; give its own dict.txt")


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a fairseq checkpoint of a `metro_t5` or `t5` model. Raises `UserError` where it is not one."""
    path = Path(path)
    state = load_plain(path)
    tensors = state.get("model") if isinstance(state, dict) else None
    if not isinstance(tensors, dict) or PREFIX + TOKEN_TABLE not in tensors:
        raise UserError(f"{path}: not a checkpoint of this project's models (no tensor {PREFIX + TOKEN_TABLE})")
    cfg = state.get("cfg")
    if not isinstance(cfg, dict) or not isinstance(cfg.get("model"), dict):
        raise UserError(f"{path}: the checkpoint has no cfg.model, so its architecture is not known")
    named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    config = _model_config(cfg["model"], named)
    _check_complete(path, config, named)
    data = (cfg.get("task") or {}).get("data")
    dictionary = tensors.get(FINGERPRINT)
    return Checkpoint(
        path=path,
        config=config,
        tensors=named,
        fingerprint=None if dictionary is None else bytes(dictionary.tolist()).hex(),
        data=Path(str(data).split(":")[0]) if data else None,
        training=training_facts(state),
    )


def _check_complete(path: Path, config: ModelConfig, tensors: dict[str, Tensor]) -> None:
    """Raise `UserError` naming the first tensor that is missing, left over or of another shape than the options say."""
    with torch.device("meta"):
        expected = MetroT5(config, pad_id=PAD_ID).state_dict()
    for name in sorted(expected.keys() ^ tensors.keys()):
        what = "missing" if name in expected else "unknown"
        raise UserError(f"{path}: tensor {name} is {what}: the architecture in its options is not the one it has")
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(tensor.shape)} as the options in the file say"
            raise UserError(f"{path}: tensor {name} is {shapes}")


def write_checkpoint(path: Path, config: ModelConfig, tensors: dict[str, Tensor], dict_path: Path) -> None:
    """Write what `fairseq-train --finetune-from-model` reads. tensors: named as in `MetroT5.state_dict()`."""
    with atomic_path(path) as temporary:
        torch.save(checkpoint_state(config, tensors, dict_path), temporary)


def checkpoint_state(config: ModelConfig, tensors: dict[str, Tensor], dict_path: Path) -> dict[str, Any]:
    """The content of a fairseq checkpoint: the model and its options, at update 0, without optimizer."""
    model = {PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}
    model[FINGERPRINT] = torch.tensor(list(bytes.fromhex(sha256_of(dict_path))), dtype=torch.uint8)
    options = {name: value for name, value in config.to_dict().items() if name != "vocab_size"}
    return {
        "args": None,
        "cfg": {"model": {"_name": "metro_t5", **options}},
        "model": model,
        "criterion": None,
        "optimizer_history": [
            {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0},
        ],
        "task_state": {},
        "extra_state": {
            "metrics": {},
            "previous_training_time": 0,
            "train_iterator": {"epoch": 1, "iterations_in_epoch": 0},
        },
        "last_optimizer_state": None,
    }


def _model_config(options: dict[str, Any], tensors: dict[str, Tensor]) -> ModelConfig:
    """The library's config from the options of a run and from what the file really holds."""
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    values = {name: value for name, value in options.items() if name in known}
    values["vocab_size"] = tensors[TOKEN_TABLE].shape[0]
    config = ModelConfig.from_dict(values)
    if any(name.startswith("auxiliary.") for name in tensors):
        return config
    return config.without_pretraining()
