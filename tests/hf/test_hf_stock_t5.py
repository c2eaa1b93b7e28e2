"""Vanilla T5 settings against transformers' own implementation, with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_helpers import randomized
from transformers import T5Config, T5ForConditionalGeneration
from transformers.activations import ACT2FN

from metro_t0.hf.export import to_hugging_face
from metro_t0.hf.stock_t5 import FEED_FORWARD, from_stock_t5, is_stock_t5, to_stock_t5
from metro_t0.modeling import PRESETS, MetroT5, ModelConfig, preset
from metro_t0.modeling.layers import ACTIVATIONS

SIZES = {
    "vocab_size": 60, "d_model": 24, "ffn_dim": 40, "num_heads": 3, "head_dim": 8, "encoder_layers": 2,
    "decoder_layers": 3, "max_positions": 200,
}  # fmt: skip


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Longer than the largest relative distance, and padded."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, 60, (2, 150), generator=generator)
    mask = torch.arange(150) < torch.tensor([150, 11])[:, None]
    return source.masked_fill(~mask, 1), mask, torch.randint(4, 60, (2, 140), generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("activation", "gated"), FEED_FORWARD)
def test_same_logits(activation: str, gated: bool, tied: bool, tmp_path: Path) -> None:
    config = preset("t5_tiny", **SIZES, activation=activation, gated_ffn=gated, tied_head=tied, scale_head=tied)
    assert is_stock_t5(config)
    model = randomized(MetroT5(config, pad_id=1), deviation=0.15)
    state = {f"main.{name}": tensor for name, tensor in model.main.state_dict().items()}
    to_stock_t5(config, state).save_pretrained(tmp_path)
    stock = T5ForConditionalGeneration.from_pretrained(tmp_path)
    source, mask, target = batch()
    expected = stock(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits
    found = model.main.logits(model.main(source, target, mask)[0])
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    config_back, state_back = from_stock_t5(stock)
    assert config_back.replace(attention_dropout=config.attention_dropout) == config
    assert state_back.keys() == state.keys()
    assert all(torch.equal(state_back[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 2, "no_repeat_ngram_size": 2, "use_cache": False},
        {"do_sample": True, "top_k": 10, "temperature": 0.7, "num_return_sequences": 2},
        {"do_sample": True, "num_beams": 3},
        {"decoder_input_ids": torch.tensor([[2, 7, 8]] * 3)},
        {"min_new_tokens": 5, "repetition_penalty": 1.5},
        {"forced_bos_token_id": 9, "prefix_allowed_tokens_fn": lambda row, ids: [5, 6, 7, 2], "num_beams": 2},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=lambda options: "-".join(options) or "greedy",
)
def test_every_way_of_generating_gives_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    """Also with padding on either side. (transformers' own T5 generates with equal depths only.)"""
    config = preset("t5_tiny", **SIZES | {"encoder_layers": 3}, activation="relu", gated_ffn=False)
    model = randomized(MetroT5(config, pad_id=1), deviation=0.35)
    to_stock_t5(config, {f"main.{name}": tensor for name, tensor in model.main.state_dict().items()}).save_pretrained(
        tmp_path
    )
    source = torch.randint(4, 60, (3, 20), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(source)
    mask[1, 12:] = mask[2, :5] = 0
    if "prompt_lookup_num_tokens" in options:  # of one text
        source, mask = source[:1], mask[:1]
    batch = {"input_ids": source.masked_fill(mask == 0, 1), "attention_mask": mask, "max_new_tokens": 12}
    special = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    found = []
    for each in (to_hugging_face(model).eval(), T5ForConditionalGeneration.from_pretrained(tmp_path)):
        torch.manual_seed(0)
        found.append(each.generate(**batch, **special, **options).tolist())
    assert found[0] == found[1]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_a_model_that_transformers_initialized(kind: str) -> None:
    torch.manual_seed(0)
    stock = T5ForConditionalGeneration(
        T5Config(vocab_size=60, d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, feed_forward_proj=kind,
                 pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, tie_word_embeddings=kind == "relu")
    ).eval()  # fmt: skip
    config, state = from_stock_t5(stock)
    ours = MetroT5(config, pad_id=1).eval()
    ours.main.load_state_dict({name.removeprefix("main."): tensor for name, tensor in state.items()})
    source, mask, target = batch()
    expected = stock(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits
    torch.testing.assert_close(ours.main.logits(ours.main(source, target, mask)[0]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ours", "theirs"), [("relu", "relu"), ("gelu", "gelu"), ("gelu_tanh", "gelu_new")])
def test_activations_have_the_same_formula(ours: str, theirs: str) -> None:
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[ours](x), ACT2FN[theirs](x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"bias": True}, {"norm_placement": "post"}, {"absolute_positions": True}, {"relative_positions": "encoder"},
        {"relative_bias_shared": False}, {"scale_attention": True}, {"scale_head": False}, {"norm_kind": "layer"},
        {"activation": "gelu", "gated_ffn": True},
    ],
)  # fmt: skip
def test_every_other_setting_stays_ours(change: dict) -> None:
    assert not is_stock_t5(preset("t5_tiny", vocab_size=60, **change))


def test_presets() -> None:
    stock = {name for name, config in PRESETS.items() if is_stock_t5(config)}
    assert stock == {name for name in PRESETS if name.startswith("t5_")}
    assert not is_stock_t5(ModelConfig())
