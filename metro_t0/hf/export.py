"""A pretrained or fine-tuned model as a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GenerationConfig

from metro_t0.errors import UserError
from metro_t0.files import atomic_path
from metro_t0.hf.configuration import MetroT5Config
from metro_t0.hf.model_card import default_new_tokens, write_card
from metro_t0.hf.modeling import MetroT5ForConditionalGeneration
from metro_t0.hf.remote_code import write_code
from metro_t0.hf.tokenization import MetroT5TokenizerFast
from metro_t0.modeling import T5, MetroT5, ModelConfig
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.tokenizer import DICT_NAME

MAIN = "main."


def to_hugging_face(model: MetroT5 | T5) -> MetroT5ForConditionalGeneration:
    """The main part of a model, in evaluation mode, with copies of its weights in their dtype."""
    main = model.main if isinstance(model, MetroT5) else model
    return from_main_state(model.config, {MAIN + name: tensor for name, tensor in main.state_dict().items()})


def from_main_state(config: ModelConfig, state: dict[str, torch.Tensor]) -> MetroT5ForConditionalGeneration:
    """A model from the `main.*` tensors of a checkpoint, in their dtype, in evaluation mode.

    Raises `UserError` where tensors are missing, left over, or of another shape than the config says.
    """
    dtype = state["main.encoder.embeddings.tokens.weight"].dtype
    with torch.device("meta"):
        model = MetroT5ForConditionalGeneration(MetroT5Config.from_model_config(config, dtype=dtype))
    check_state(model.state_dict(), state)
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.generation_config.max_new_tokens = default_new_tokens(config.max_positions)
    model.eval()
    return model


def check_state(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    """Raise `UserError` naming the first tensor that is missing, left over, or of another shape than expected."""
    for name in expected.keys() - found.keys():
        raise UserError(f"checkpoint tensor {name} is missing: the architecture in its config is not the one it has")
    for name in found.keys() - expected.keys():
        raise UserError(f"checkpoint tensor {name} is unknown: the architecture in its config is not the one it has")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise UserError(f"checkpoint tensor {name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}")


def save_directory(
    model: MetroT5ForConditionalGeneration,
    directory: str | Path,
    tokenizer: Tokenizer | None,
    *,
    with_code: bool = True,
) -> None:
    """Write config, safetensors weights, tokenizer, model card and (by default) the model's code into a directory.

    Raises `UserError` where the vocabulary has more ids than the model.
    """
    directory = Path(directory)
    model.save_pretrained(directory)
    if with_code:
        write_code(directory)
    if tokenizer is not None:
        save_tokenizer(tokenizer, directory, model.config.vocab_size, model.config.max_positions)
    write_card(directory, model, {})


def save_tokenizer(tokenizer: Tokenizer, directory: Path, vocab_size: int, max_length: int | None = None) -> None:
    """Write tokenizer.json, tokenizer_config.json and dict.txt; ids above the vocabulary become sentinels."""
    num_sentinels = vocab_size - len(tokenizer)
    if num_sentinels < 0:
        raise UserError(
            f"{tokenizer.dict_path}: {len(tokenizer)} ids, but the model has {vocab_size}; "
            "give the dict.txt that the model was trained with"
        )
    MetroT5TokenizerFast.from_vocabulary(tokenizer, num_sentinels, max_length).save_pretrained(directory)
    with atomic_path(directory / DICT_NAME) as temporary:
        temporary.write_bytes(tokenizer.dict_path.read_bytes())
