"""Every sequence-to-sequence class of the installed transformers, built tiny from its configuration."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

CLASSES = tuple(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
"""Model types."""
VOCABULARY_SIZE = 200
PAD, END, START = 1, 2, 0
SMALL: dict[str, Any] = {
    # widths
    "d_model": 32, "hidden_size": 32, "d_kv": 8, "head_dim": 8, "d_ff": 48, "intermediate_size": 48,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    # depths
    "num_layers": 2, "num_decoder_layers": 2, "num_hidden_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_encoder_layers": 2,
    # heads
    "num_heads": 4, "num_attention_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4,
    # tables
    "vocab_size": VOCABULARY_SIZE, "max_position_embeddings": 128, "max_encoder_position_embeddings": 128,
    "max_decoder_position_embeddings": 128, "src_vocab_size": VOCABULARY_SIZE, "tgt_vocab_size": VOCABULARY_SIZE,
    "decoder_vocab_size": VOCABULARY_SIZE,
    # special ids
    "pad_token_id": PAD, "eos_token_id": END, "bos_token_id": START, "decoder_start_token_id": START,
    "forced_eos_token_id": END,
    # mixtures of experts, sparse and local attention
    "num_experts": 4, "expert_capacity": 64, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
    "encoder_sparse_step": 2, "decoder_sparse_step": 2, "block_size": 8, "attention_window": 8, "local_radius": 7,
    "global_block_size": 4, "num_global_tokens": 4, "sliding_window": 16, "num_blocks": 2, "ngram": 2,
    # spread enough that answers differ
    "init_std": 0.3, "initializer_range": 0.3, "initializer_factor": 1.0, "dropout": 0.0, "dropout_rate": 0.0,
    "scale_embedding": False,
}  # fmt: skip


def tiny_config(model_type: str) -> PretrainedConfig:
    """Two layers of width 32; what a configuration does not have is left out."""
    if model_type == "encoder-decoder":
        return _encoder_decoder()
    config_class = type(AutoConfig.for_model(model_type))
    if model_type.startswith("t5gemma"):
        return _t5gemma(config_class)
    default = config_class()
    known = {name: value for name, value in SMALL.items() if hasattr(default, name) or name.endswith("_token_id")}
    if "encoder_layers" in known or "num_encoder_layers" in known:
        known.pop("num_hidden_layers", None)
    return config_class(**known)


def tiny_model(model_type: str) -> PreTrainedModel:
    """With random weights, in evaluation mode."""
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(tiny_config(model_type)).eval()


def _encoder_decoder() -> PretrainedConfig:
    sizes = {name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    bert = transformers.BertConfig(
        **sizes, vocab_size=VOCABULARY_SIZE, intermediate_size=48, max_position_embeddings=128, initializer_range=0.3
    )
    both = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(bert, bert)
    both.decoder_start_token_id, both.pad_token_id, both.eos_token_id = START, PAD, END
    return both


def _t5gemma(config_class: type[PretrainedConfig]) -> PretrainedConfig:
    ids = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": START}
    default = config_class()

    def part(side: str) -> dict[str, Any]:
        text = getattr(default, side)
        text = getattr(text, "text_config", text)
        known = {name: SMALL[name] for name in SMALL if hasattr(text, name)} | ids
        known.pop("layer_types", None)
        return known | (
            {"layer_types": ["sliding_attention", "full_attention"]} if hasattr(text, "layer_types") else {}
        )

    encoder, decoder = part("encoder"), part("decoder")
    if hasattr(default.encoder, "text_config"):
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        encoder = {"text_config": encoder, "vision_config": vision | {"image_size": 28, "patch_size": 14}}
    return config_class(encoder=encoder, decoder=decoder, vocab_size=VOCABULARY_SIZE, **ids)
