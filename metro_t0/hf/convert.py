"""The three conversions of `metro-t0-convert`, each with its checks and a printed summary."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, T5ForConditionalGeneration

import metro_t0.hf  # registers the model type
from metro_t0.errors import UserError
from metro_t0.files import atomic_path, read_json, write_json
from metro_t0.hf.checkpoints import MAIN, Checkpoint, checkpoint_state, read_checkpoint, write_checkpoint
from metro_t0.hf.export import from_main_state, save_directory, save_tokenizer
from metro_t0.hf.loading import load_seq2seq, read_safetensors
from metro_t0.hf.model_card import write_card
from metro_t0.hf.release import fetch, read_release
from metro_t0.hf.stock_t5 import from_stock_t5, is_stock_t5, to_stock_t5
from metro_t0.modeling import T5, MetroT5, ModelConfig
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.tokenizer import DICT_NAME, TOKENIZER_NAME
from metro_t0.tokenization.vocabulary import PAD_ID

PRETRAINING_WEIGHTS = "pretraining.safetensors"
PRETRAINING_CONFIG = "pretraining.json"
CHECKPOINT_NAME = "checkpoint.pt"
SHARED_WITH_MAIN = "auxiliary.stack.embeddings."
# Logits are compared in fp32, whatever the dtype of the weights.
TOLERANCE = 1e-4


def fairseq_to_hugging_face(
    source: Path, destination: Path, tokenizer_directory: Path | None, dtype: str,
    *, keep_pretraining: bool, with_code: bool, license_id: str = "mit", evaluation: Path | None = None,
) -> None:  # fmt: skip
    """A fairseq checkpoint as a Hugging Face directory; a vanilla T5 as one that needs no code of this project."""
    checkpoint = read_checkpoint(source)
    tokenizer = _tokenizer_of(checkpoint, tokenizer_directory)
    state = _cast(checkpoint.main_tensors(), dtype)
    with new_directory(destination) as written:
        if is_stock_t5(checkpoint.config):
            model: PreTrainedModel = to_stock_t5(checkpoint.config.without_pretraining(), state)
            model.save_pretrained(written)
            save_tokenizer(tokenizer, written, checkpoint.config.vocab_size, checkpoint.config.max_positions)
        else:
            model = from_main_state(checkpoint.config, state)
            save_directory(model, written, tokenizer, with_code=with_code)
        if keep_pretraining:
            _save_pretraining_parts(checkpoint, written)
        write_card(written, model, checkpoint.training, license_id, evaluation)
        difference = compare_with_source(checkpoint.config, state, written)
    dropped = {} if keep_pretraining else checkpoint.pretraining_tensors()
    _summary(source, destination, model, tokenizer, dropped=_own_elements(dropped), difference=difference)


def release_to_hugging_face(
    source: str, destination: Path, dtype: str,
    *, with_code: bool, license_id: str = "mit", evaluation: Path | None = None,
) -> None:  # fmt: skip
    """A checkpoint of the authors' release as a Hugging Face directory."""
    directory = fetch(source)
    config, state = read_release(directory)
    tokenizer = Tokenizer.load(directory)
    state = _cast(state, dtype)
    model = from_main_state(config, state)
    with new_directory(destination) as written:
        save_directory(model, written, tokenizer, with_code=with_code)
        facts = {"converted from": source if not Path(source).exists() else Path(source).name}
        write_card(written, model, facts, license_id, evaluation)
        difference = compare_with_source(config, state, written)
    _summary(source, destination, model, tokenizer, dropped=0, difference=difference)


def hugging_face_to_fairseq(source: Path, destination: Path) -> None:
    """A directory that this command wrote (or transformers saved since) as a fairseq checkpoint with its vocabulary."""
    config, state, model, dict_path = _read_directory(source)
    dtype = model.dtype
    with new_directory(destination) as directory:
        write_checkpoint(directory / CHECKPOINT_NAME, config, state, dict_path)
        for name in (DICT_NAME, TOKENIZER_NAME):
            if (source / name).is_file():
                shutil.copyfile(source / name, directory / name)
        written = read_checkpoint(directory / CHECKPOINT_NAME)
        again = _logits_of_modules(written.config, written.main_tensors())
        difference = _checked_difference(again, _logits(model.float()), destination)
    _summary(source, destination / CHECKPOINT_NAME, model.to(dtype), None, dropped=0, difference=difference)


def checkpoint_of_directory(source: Path) -> dict[str, Any]:
    """What `hugging_face_to_fairseq` would write, in memory: fairseq trains from a directory as it is."""
    config, state, _, dict_path = _read_directory(source)
    return checkpoint_state(config, state, dict_path)


def _read_directory(source: Path) -> tuple[ModelConfig, dict[str, Tensor], PreTrainedModel, Path]:
    """Config, tensors (of pretraining too, where they were kept), transformers' model, and dict.txt."""
    if not (source / "config.json").is_file():
        raise UserError(f"{source}: no config.json; give a Hugging Face directory")
    dict_path = source / DICT_NAME
    if not dict_path.is_file():
        raise UserError(f"{dict_path}: no such file; copy dict.txt of the model's vocabulary there")
    model = _load(source)
    config, state = _main_of(model)
    if (source / PRETRAINING_WEIGHTS).is_file():
        config, state = _with_pretraining_parts(config, state, source)
    return config, state, model, dict_path


@contextmanager
def new_directory(destination: Path) -> Iterator[Path]:
    """A temporary directory beside `destination` that gets its name once everything in it is written and checked.

    Raises `UserError` where `destination` already holds something.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"{destination}: already exists; remove it or choose another name")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as parent:
        temporary = Path(parent) / destination.name
        temporary.mkdir()
        yield temporary
        os.replace(temporary, destination)


def compare_with_source(config: ModelConfig, state: dict[str, Tensor], directory: Path) -> float:
    """Largest difference between the logits of the source's modules and of the written directory, padded batch, fp32.

    Raises `UserError` where it is not within rounding.
    """
    reloaded = _load(directory).float()
    return _checked_difference(_logits_of_modules(config, state), _logits(reloaded), directory)


def probe(vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch of three lengths: source ids (3, 12), its mask, decoder ids (3, 8)."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(4, vocab_size, (3, 12), generator=generator)
    mask = torch.arange(12) < torch.tensor([12, 7, 3])[:, None]
    return source.masked_fill(~mask, 1), mask, torch.randint(4, vocab_size, (3, 8), generator=generator)


@torch.no_grad()
def _logits(model: PreTrainedModel) -> Tensor:
    source, mask, target = probe(model.config.vocab_size)
    output = model.eval()(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target)
    return cast(Tensor, output.logits)


@torch.no_grad()
def _logits_of_modules(config: ModelConfig, state: dict[str, Tensor]) -> Tensor:
    with torch.device("meta"):
        model = T5(config.without_pretraining())
    weights = {name.removeprefix(MAIN): tensor.float() for name, tensor in state.items() if name.startswith(MAIN)}
    model.load_state_dict(weights, assign=True)
    source, mask, target = probe(config.vocab_size)
    return model.eval().logits(model.eval()(source, target, mask)[0])


def _checked_difference(a: Tensor, b: Tensor, directory: Path) -> float:
    difference = float((a - b).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(f"{directory}: its logits differ from the source's by {difference:.2g}; do not use it")
    return difference


def _load(directory: Path) -> PreTrainedModel:
    if read_json(directory / "config.json", dict[str, Any]).get("model_type") not in ("metro_t5", "t5"):
        raise UserError(f"{directory}/config.json: not a model that this command wrote (model_type metro_t5 or t5)")
    return load_seq2seq(directory, exact=True, dtype="auto")


def _main_of(model: PreTrainedModel) -> tuple[ModelConfig, dict[str, Tensor]]:
    if isinstance(model, T5ForConditionalGeneration):
        return from_stock_t5(model)
    assert isinstance(model, metro_t0.hf.MetroT5ForConditionalGeneration)
    return model.config.model_config(), dict(model.state_dict())


def _tokenizer_of(checkpoint: Checkpoint, directory: Path | None) -> Tokenizer:
    directory = directory or checkpoint.data
    if directory is None or not (directory / DICT_NAME).is_file():
        raise UserError(
            f"{checkpoint.path}: its data directory {directory} has no dict.txt; give it with --tokenizer DIR"
        )
    checkpoint.check_dictionary(directory / DICT_NAME)
    return Tokenizer.load(directory)


def _cast(state: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    return state if dtype == "keep" else {name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()}


def _save_pretraining_parts(checkpoint: Checkpoint, directory: Path) -> None:
    """Auxiliary and heads beside the main model. What the auxiliary shares with it is not written twice."""
    parts = {name: tensor.contiguous() for name, tensor in checkpoint.pretraining_tensors().items()}
    for name in [name for name in parts if name.startswith(SHARED_WITH_MAIN)]:
        original = checkpoint.tensors.get(name.replace(SHARED_WITH_MAIN, "main.encoder.embeddings."))
        if original is not None and torch.equal(parts[name], original):
            del parts[name]
    if not parts:
        raise UserError(f"{checkpoint.path}: holds no auxiliary and no pretraining heads to keep")
    with atomic_path(directory / PRETRAINING_WEIGHTS) as temporary:
        save_file(parts, temporary, metadata={"format": "pt"})
    write_json(directory / PRETRAINING_CONFIG, checkpoint.config.to_dict())


def _with_pretraining_parts(
    config: ModelConfig, main: dict[str, Tensor], directory: Path
) -> tuple[ModelConfig, dict[str, Tensor]]:
    full = ModelConfig.from_dict(read_json(directory / PRETRAINING_CONFIG, dict[str, Any]))
    parts = read_safetensors(directory / PRETRAINING_WEIGHTS)
    with torch.device("meta"):
        names = MetroT5(full, pad_id=PAD_ID).state_dict().keys()
    state = main | parts
    for name in sorted(names - state.keys()):
        shared = name.replace(SHARED_WITH_MAIN, "main.encoder.embeddings.")
        if shared not in main:
            raise UserError(
                f"{directory / PRETRAINING_WEIGHTS}: tensor {name} is missing; {PRETRAINING_CONFIG} names it"
            )
        state[name] = main[shared]
    return full, {name: state[name] for name in names}


def _own_elements(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() for name, tensor in tensors.items() if not name.startswith(SHARED_WITH_MAIN))


def _summary(
    source: str | Path, destination: Path, model: PreTrainedModel, tokenizer: Tokenizer | None,
    *, dropped: int, difference: float,
) -> None:  # fmt: skip
    table = Table(show_header=False)
    table.add_row("model", f"{type(model).__name__}, {str(model.dtype).removeprefix('torch.')}")
    table.add_row("parameters", f"{model.num_parameters():,}")
    if dropped:
        table.add_row("left out", f"{dropped:,} parameters of the auxiliary and the pretraining heads")
    if tokenizer is not None:
        sentinels = model.config.vocab_size - len(tokenizer)
        table.add_row("vocabulary", f"{len(tokenizer):,} pieces and special tokens, {sentinels} sentinels")
    table.add_row("logits", f"both sides agree to {difference:.1e} on a padded batch in fp32")
    console = Console()
    console.print(f"{source} -> {destination}", soft_wrap=True, highlight=False)
    console.print(table)
