"""Load any sequence-to-sequence model of Hugging Face with its tokenizer, and say exactly which one it is."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from eval.settings import ModelSettings
from metro_t0.devices import choose_device
from metro_t0.errors import UserError
from metro_t0.files import sha256_of
from metro_t0.hf.loading import check_weight_files, load_part, load_seq2seq

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sp.model", "vocab.json", "vocab.txt")
FURTHER_FILES = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What else changes how a model reads, begins and writes."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: dict[str, str]
    """What tells this model from any other: name, revision, fingerprint of its weights, class, dtype."""

    def __post_init__(self) -> None:
        """Let targets have the language of sources where the tokenizer names none: M2M100's fails then."""
        if getattr(self.tokenizer, "tgt_lang", "") is None:
            self.tokenizer.tgt_lang = self.tokenizer.src_lang


@dataclass(frozen=True)
class ModelFiles:
    """A model of which everything is known but the values of its weights."""

    settings: ModelSettings
    device: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    identity: dict[str, str]
    """What tells this model from any other: name, revision, fingerprint of its weights, class, dtype."""

    def load(self) -> LoadedModel:
        """Read the weights. Raises `UserError` where they are not all there, or too few for the tokenizer."""
        settings, name = self.settings, self.settings.name
        common: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
        model = load_seq2seq(name, dtype=DTYPES[settings.dtype], **common)
        if len(self.tokenizer) > model.get_input_embeddings().num_embeddings:
            raise UserError(
                f"{name}: the tokenizer has {len(self.tokenizer)} tokens, more than the model has embeddings "
                f"({model.get_input_embeddings().num_embeddings}); they do not belong together"
            )
        model.eval().to(self.device)
        return LoadedModel(model, self.tokenizer, self.identity)


def open_model(settings: ModelSettings) -> ModelFiles:
    """Check what can be known of a model before its weights are read: configuration, tokenizer, headers of the files.

    Raises `UserError` for a model that is not encoder-decoder, has no tokenizer, cannot be found or read.
    """
    device = choose_device(settings.device)
    if settings.dtype == "float16":
        logger.warning("float16 overflows in T5-like models and can change predictions; bfloat16 or float32 is safer")
    name = settings.name
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"{name}: no such directory")
    common = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    config = load_part("configuration", AutoConfig, name, common)
    if not config.is_encoder_decoder:
        raise UserError(
            f"{name}: a {config.model_type} model is not encoder-decoder; rank classification here needs "
            "a sequence-to-sequence model (T5, BART, mT5, METRO-T0, ...)"
        )
    tokenizer = load_part("tokenizer", AutoTokenizer, name, common)
    vocabulary = vocabulary_files(tokenizer)
    if os.path.isdir(name) and vocabulary and not any(os.path.isfile(os.path.join(name, f)) for f in vocabulary):
        # transformers makes an empty tokenizer of the model's kind and says nothing.
        raise UserError(f"{name}: no tokenizer in it; save the model's own tokenizer beside it")
    if not isinstance(tokenizer.model_max_length, int | float):
        raise UserError(f"{name}: model_max_length in tokenizer_config.json must be a number")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: the tokenizer has no end token (eos_token in tokenizer_config.json)")
    check_weight_files(Path(name))
    identity = {
        "model": name,
        "revision": getattr(config, "_commit_hash", None) or settings.revision or "local",
        "fingerprint": fingerprint(name, config),
        "files": digest_of(Path(name), {*FURTHER_FILES, *vocabulary}, *[".py"] * settings.trust_remote_code),
        "class": _class_name(config),
        "dtype": settings.dtype,
    }
    return ModelFiles(settings, device, config, tokenizer, identity)


def load_model(settings: ModelSettings) -> LoadedModel:
    """Load model and tokenizer for inference. Raises `UserError` for whatever keeps it from being loaded."""
    return open_model(settings).load()


def _class_name(config: PretrainedConfig) -> str:
    known = AutoModelForSeq2SeqLM._model_mapping.get(type(config), None)
    if known is not None:
        return str(known.__name__)
    return str((getattr(config, "auto_map", None) or {}).get("AutoModelForSeq2SeqLM", config.model_type)).split(".")[-1]


def fingerprint(name: str, config: Any) -> str:
    """SHA-256 over weights, configuration and tokenizer of a directory; for a Hub model, configuration and commit."""
    if Path(name).is_dir():
        return digest_of(Path(name), {"config.json", "dict.txt", *TOKENIZER_FILES}, *WEIGHT_SUFFIXES)
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True, default=str).encode())
    digest.update(str(getattr(config, "_commit_hash", None)).encode())
    return digest.hexdigest()[:16]


def digest_of(directory: Path, names: Collection[str], *suffixes: str) -> str:
    """SHA-256 over the files of a directory that have one of these names or suffixes; of a name on the Hub, of none."""
    digest = hashlib.sha256()
    found = directory.iterdir() if directory.is_dir() else ()
    for path in sorted(p for p in found if p.suffix in suffixes or p.name in names):
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]


def vocabulary_files(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Files of which a directory has one at least; none for a tokenizer whose vocabulary is bytes (ByT5)."""
    own = set(tokenizer.vocab_files_names.values())
    return own | {*TOKENIZER_FILES} if own else set()


def decoder_start_ids(model: PreTrainedModel) -> list[int]:
    """What the decoder reads before the first scored token.

    The start token, then any token that generation is forced to begin with (BART's `<s>`).

    Raises `UserError` for a model that names no start token.
    """
    settings = (model.generation_config, model.config)
    found = (getattr(s, name, None) for name in ("decoder_start_token_id", "bos_token_id") for s in settings)
    start = next((value for value in found if value is not None), None)
    if start is None:
        raise UserError(f"{model.name_or_path}: config.json has no decoder_start_token_id; add it")
    forced = next((f for s in settings if (f := getattr(s, "forced_bos_token_id", None)) is not None), None)
    return [start] if forced is None else [start, forced]
