"""Vanilla T5 as transformers' own `T5ForConditionalGeneration`, so that it needs no code of this project."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

from metro_t0.hf.configuration import MetroT5Config
from metro_t0.hf.export import check_state
from metro_t0.hf.model_card import default_new_tokens
from metro_t0.modeling import ModelConfig
from metro_t0.modeling.config import VANILLA_T5
from metro_t0.tensor_names import THEIR_RELATIVE_BIAS, block_modules

# (activation, gated) -> T5Config.feed_forward_proj; "gated-gelu" is the tanh approximation there.
FEED_FORWARD = {
    ("relu", False): "relu",
    ("relu", True): "gated-relu",
    ("gelu", False): "gelu",
    ("gelu_tanh", False): "gelu_new",
    ("gelu_tanh", True): "gated-gelu",
}
# What transformers' T5 fixes in its code. Dropouts, epsilon and the auxiliary are no part of it.
FIXED = {
    name: VANILLA_T5[name]
    for name in (
        "norm_placement", "norm_kind", "embedding_norm", "absolute_positions", "relative_positions",
        "relative_bias_shared", "relative_rule", "bias", "scale_attention",
    )
}  # fmt: skip
TOKEN_TABLES = ("main.encoder.embeddings.tokens.weight", "main.decoder.embeddings.tokens.weight")


def is_stock_t5(config: ModelConfig) -> bool:
    """Whether transformers' T5 computes the same function. It scales the head exactly where it is tied."""
    fixed = all(getattr(config, name) == value for name, value in FIXED.items())
    return fixed and (config.activation, config.gated_ffn) in FEED_FORWARD and config.tied_head == config.scale_head


def stock_config(config: ModelConfig, dtype: torch.dtype) -> T5Config:
    """The T5Config of a vanilla setting, with this project's special tokens."""
    tokens = MetroT5Config()
    return T5Config(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.head_dim,
        d_ff=config.ffn_dim,
        num_layers=config.encoder_layers,
        num_decoder_layers=config.decoder_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.relative_buckets,
        relative_attention_max_distance=config.relative_max_distance,
        dropout_rate=config.dropout,
        layer_norm_epsilon=config.norm_eps,
        feed_forward_proj=FEED_FORWARD[config.activation, config.gated_ffn],
        tie_word_embeddings=config.tied_head,
        n_positions=config.max_positions,
        bos_token_id=tokens.bos_token_id,
        pad_token_id=tokens.pad_token_id,
        eos_token_id=tokens.eos_token_id,
        decoder_start_token_id=tokens.decoder_start_token_id,
        dtype=dtype,
    )


def to_stock_t5(config: ModelConfig, state: dict[str, Tensor]) -> T5ForConditionalGeneration:
    """transformers' T5 with the weights of a vanilla setting (`main.*` tensors), in evaluation mode.

    Raises `UserError` where tensors are missing, left over, or of another shape than the config says.
    """
    names = stock_names(config)
    check_state({name: torch.empty(0) for name in names}, {name: torch.empty(0) for name in state})
    model = T5ForConditionalGeneration(stock_config(config, state[TOKEN_TABLES[0]].dtype))
    renamed = {names[name]: tensor.clone() for name, tensor in state.items()}
    renamed |= dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), renamed["shared.weight"])
    renamed.setdefault("lm_head.weight", renamed["shared.weight"])
    check_state(model.state_dict(), renamed)
    model.load_state_dict(renamed, assign=True)
    if config.tied_head:
        model.tie_weights()
    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.generation_config.max_new_tokens = default_new_tokens(config.max_positions)
    return model.eval()


def from_stock_t5(model: T5ForConditionalGeneration) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The inverse of `to_stock_t5`: config and `main.*` tensors."""
    stock = model.config
    activation, gated = next(key for key, name in FEED_FORWARD.items() if name == stock.feed_forward_proj)
    values: dict[str, Any] = dict(
        VANILLA_T5,
        vocab_size=stock.vocab_size, d_model=stock.d_model, ffn_dim=stock.d_ff, num_heads=stock.num_heads,
        head_dim=stock.d_kv, encoder_layers=stock.num_layers, decoder_layers=stock.num_decoder_layers,
        max_positions=getattr(stock, "n_positions", 512), norm_eps=stock.layer_norm_epsilon, activation=activation,
        gated_ffn=gated, relative_buckets=stock.relative_attention_num_buckets,
        relative_max_distance=stock.relative_attention_max_distance, tied_head=stock.scale_decoder_outputs,
        scale_head=stock.scale_decoder_outputs, dropout=stock.dropout_rate, attention_dropout=stock.dropout_rate,
        activation_dropout=stock.dropout_rate,
    )  # fmt: skip
    config = ModelConfig.from_dict(values)
    state = model.state_dict()
    return config, {ours: state[theirs] for ours, theirs in stock_names(config).items()}


def stock_names(config: ModelConfig) -> dict[str, str]:
    """Name of every main tensor of a vanilla setting -> its name in transformers' T5."""
    names = dict.fromkeys(TOKEN_TABLES, "shared.weight")
    if not config.tied_head:
        names["main.head.weight"] = "lm_head.weight"
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        names[f"main.{side}.relative_biases.0.table.weight"] = f"{side}.block.0.layer.{THEIR_RELATIVE_BIAS}.weight"
        names[f"main.{side}.last_norm.weight"] = f"{side}.final_layer_norm.weight"
        for layer in range(layers):
            for ours, theirs in block_modules(side == "decoder", config.gated_ffn).items():
                names[f"main.{side}.layers.{layer}.{ours}.weight"] = f"{side}.block.{layer}.layer.{theirs}.weight"
    return names
