"""Load a sequence-to-sequence model of Hugging Face, all of it or not at all.

transformers draws weights that a checkpoint does not have at random and goes on; numbers of such a model mean nothing.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

import metro_t0.hf  # noqa: F401  registers the model type of this project with the Auto classes
from metro_t0.checkpoint_files import load_plain
from metro_t0.errors import UserError, first_line, one_line
from metro_t0.files import read_json
from metro_t0.shapes import field

INDEXES = {".safetensors": "model.safetensors.index.json", ".bin": "pytorch_model.bin.index.json"}
FILES = {".safetensors": "model.safetensors", ".bin": "pytorch_model.bin"}
LONGEST_REASON = 300


def load_seq2seq(name: str | Path, *, exact: bool = False, **options: Any) -> PreTrainedModel:
    """The encoder-decoder model in a directory (or of that name on the Hub), every one of its tensors read from files.

    exact: tensors that the model has no place for are refused too. Otherwise they are refused only where they show that
        config.json describes a smaller model (a layer more than it has).
    options: of `from_pretrained` (dtype, revision, trust_remote_code, local_files_only).
    Raises `UserError` for files that are truncated, missing or hold more than tensors, for tensors that are missing
    or of another shape than config.json says, and for whatever else keeps the model from being loaded. Tensors that
    are tied to others need not be in the files.
    """
    check_weight_files(Path(name))
    settings = {"output_loading_info": True, "ignore_mismatched_sizes": True, **options}
    model, report = load_part("model", AutoModelForSeq2SeqLM, name, settings)
    for tensor, found, expected in sorted(report["mismatched_keys"]):
        raise UserError(f"{name}: tensor {tensor} is {tuple(found)}, not {tuple(expected)} as config.json says")
    missing, unknown = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        hint = f"; there is {unknown[0]}, which the model does not have" if unknown else ""
        raise UserError(
            f"{name}: tensor {missing[0]} is missing ({len(missing)} of them){hint}; "
            "config.json is not that of the weights, or the checkpoint is incomplete"
        )
    surplus = unknown if exact else _of_a_larger_model(unknown, model.state_dict().keys())
    if surplus:
        raise UserError(
            f"{name}: tensor {surplus[0]} has no place in the model that config.json describes ({len(surplus)} of them)"
        )
    if model.config.model_type == "umt5":
        # transformers 5 takes every umT5 for tied and scales what goes into its head: right for tied ones alone.
        where = {key: options[key] for key in ("revision", "local_files_only") if key in options}
        written, _ = PretrainedConfig.get_config_dict(name, **where)
        model.config.tie_word_embeddings = written.get("tie_word_embeddings", True)
    return model


def load_part(what: str, auto: Any, name: str | Path, options: dict[str, Any]) -> Any:
    """`auto.from_pretrained(name)`, whose many ways to fail become one line.

    what: configuration, tokenizer or model, for the message.
    """
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise UserError(f"{name}: no config.json, so it is not a Hugging Face model directory")
    try:
        with _silenced_report():
            return auto.from_pretrained(name, **options)
    # A foreign directory can make any line of transformers, or of the model's own code, raise anything.
    except Exception as error:
        reason = one_line(str(error))[:LONGEST_REASON] or type(error).__name__
        if isinstance(error, OSError) and not os.path.isdir(name):
            raise UserError(
                f"{name}: not a local directory, and its {what} could not be read from the Hugging Face Hub "
                f"(wrong name, or no network: then give a directory): {reason}"
            ) from None
        if isinstance(error, (SafetensorError, pickle.UnpicklingError)):
            reason = "truncated, or not a file of plain tensors"
        raise UserError(f"{name}: its {what} could not be loaded: {reason}") from None


def check_weight_files(directory: Path) -> None:
    """Read the headers of a local directory's weight files, in the order in which transformers prefers them.

    Raises `UserError` naming the file that is truncated, missing from its index, or holds more than tensors.
    A directory without any is left to transformers, which says so; a name on the Hub has no files here.
    """
    for file in weight_files(directory):
        check = _check_safetensors if file.suffix == ".safetensors" else _check_plain
        check(file)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a directory's weights, of the kind that transformers prefers; none where there are none."""
    for suffix, single in FILES.items():
        if (directory / single).is_file():
            return [directory / single]
        if (directory / INDEXES[suffix]).is_file():
            return _shards(directory / INDEXES[suffix])
    return []


def directory_tensors(directory: Path) -> dict[str, Tensor]:
    """All tensors in a directory's weight files by name. Raises `UserError` where it has none, or one is damaged."""
    check_weight_files(directory)
    files = weight_files(directory)
    if not files:
        raise UserError(f"{directory}: holds neither {' nor '.join(FILES.values())}")
    parts = [read_safetensors(file) if file.suffix == ".safetensors" else load_plain(file) for file in files]
    return {name: tensor for part in parts for name, tensor in part.items()}


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file by name. Raises `UserError` where it is missing, truncated or of another kind."""
    _check_safetensors(file)
    return load_file(file)


def _shards(index: Path) -> list[Path]:
    table: dict[str, str] = field(read_json(index, dict[str, Any]), "weight_map", dict[str, str], str(index))
    files = [index.parent / file for file in sorted(set(table.values()))]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file, though {index.name} names it")
    return files


def _check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, framework="pt") as opened:
            opened.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file}: truncated or not a safetensors file ({first_line(error)})") from None


def _check_plain(file: Path) -> None:
    tensors = load_plain(file, device="meta")
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{file}: not a table of tensors")


def _of_a_larger_model(unknown: Collection[str], known: Collection[str]) -> list[str]:
    """Tensors that differ from the model's own in numbers only: layers that it does not have."""
    patterns = {re.sub(r"\d+", "N", name) for name in known if re.search(r"\d", name)}
    return [name for name in unknown if re.sub(r"\d+", "N", name) in patterns]


@contextmanager
def _silenced_report() -> Iterator[None]:
    """Without transformers' own report of a load (it is said here, in one line) and, in a log, without its bar."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
