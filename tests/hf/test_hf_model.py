"""The model behind transformers' interface: masks, caches, generation, losses, dtypes, saving."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, EncoderDecoderCache, StaticCache

from metro_t0.hf import MetroT5Config, MetroT5EncoderModel, MetroT5ForConditionalGeneration, MetroT5Model
from metro_t0.hf.export import to_hugging_face
from metro_t0.modeling import MetroT5, ModelConfig, preset

SOURCE = torch.tensor([[5, 9, 33, 70, 8, 120, 64, 2], [44, 7, 2, 1, 1, 1, 1, 1], [100, 13, 90, 6, 2, 1, 1, 1]])
MASK = (SOURCE != 1).long()
TARGET = torch.tensor([[8, 40, 2, 1], [90, 2, 1, 1], [15, 16, 17, 2]])


@pytest.fixture
def model(pretrained: MetroT5) -> MetroT5ForConditionalGeneration:
    return to_hugging_face(pretrained)


@pytest.fixture
def saved(model: MetroT5ForConditionalGeneration, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path)
    return tmp_path


def left_padded(ids: torch.Tensor) -> torch.Tensor:
    return torch.stack([row.roll(int((row == 1).sum())) for row in ids])


@torch.no_grad()
def test_logits_equal_those_of_the_pretraining_modules(
    model: MetroT5ForConditionalGeneration, pretrained: MetroT5
) -> None:
    expected = pretrained.main.logits(pretrained.main(SOURCE, TARGET, MASK.bool())[0])
    found = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padding_does_not_matter_on_either_side(model: MetroT5ForConditionalGeneration, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    rows = [
        model(input_ids=row[row != 1][None], decoder_input_ids=TARGET[i : i + 1]).logits for i, row in enumerate(SOURCE)
    ]
    alone = torch.cat(rows)
    right = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET).logits
    left = model(
        input_ids=left_padded(SOURCE), attention_mask=left_padded(SOURCE) != 1, decoder_input_ids=TARGET
    ).logits
    torch.testing.assert_close(right, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(left, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_left_padded_decoder_input(model: MetroT5ForConditionalGeneration) -> None:
    prefix = torch.tensor([[2, 8, 40]])
    padded = torch.tensor([[1, 1, 2, 8, 40]])
    alone = model(input_ids=SOURCE[:1], decoder_input_ids=prefix).logits
    found = model(input_ids=SOURCE[:1], decoder_input_ids=padded, decoder_attention_mask=(padded != 1).long()).logits
    torch.testing.assert_close(found[:, 2:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 4}, {"do_sample": True, "top_k": 0}, {"num_beams": 2, "do_sample": True}]
)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_generation_is_the_same_with_and_without_cache(
    model: MetroT5ForConditionalGeneration, settings: dict, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    results = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        results.append(model.generate(SOURCE, attention_mask=MASK, max_new_tokens=12, use_cache=use_cache, **settings))
    assert torch.equal(*results)
    assert results[0][:, 0].eq(model.config.decoder_start_token_id).all()


@torch.no_grad()
def test_greedy_generation_is_the_argmax_of_the_pretraining_modules(
    model: MetroT5ForConditionalGeneration, pretrained: MetroT5
) -> None:
    generated = model.generate(SOURCE[:1], max_new_tokens=10)
    decoder_input = torch.tensor([[2]])
    while decoder_input.size(1) < generated.size(1):
        decoded, _ = pretrained.main(SOURCE[:1], decoder_input)
        decoder_input = torch.cat((decoder_input, pretrained.main.logits(decoded[:, -1:]).argmax(-1)), dim=1)
    assert torch.equal(generated, decoder_input)


@torch.no_grad()
def test_many_targets_share_one_cached_source(model: MetroT5ForConditionalGeneration) -> None:
    encoded = model.get_encoder()(input_ids=SOURCE, attention_mask=MASK)
    first = model(encoder_outputs=encoded, attention_mask=MASK, decoder_input_ids=TARGET[:, :1], use_cache=True)
    assert isinstance(first.past_key_values, EncoderDecoderCache)
    keys = first.past_key_values.cross_attention_cache.layers[0].keys
    cache = first.past_key_values
    rest = model(encoder_outputs=encoded, attention_mask=MASK, decoder_input_ids=TARGET[:, 1:], past_key_values=cache)
    assert rest.past_key_values.cross_attention_cache.layers[0].keys is keys  # computed once
    whole = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET).logits
    torch.testing.assert_close(torch.cat((first.logits, rest.logits), dim=1), whole, rtol=1e-4, atol=1e-4)


def test_static_caches_are_refused(model: MetroT5ForConditionalGeneration) -> None:
    cache = EncoderDecoderCache(StaticCache(model.config, max_cache_len=8), StaticCache(model.config, max_cache_len=8))
    with pytest.raises(ValueError, match="dynamic"):
        model(input_ids=SOURCE, decoder_input_ids=TARGET, past_key_values=cache, use_cache=True)


@torch.no_grad()
def test_loss_is_the_mean_over_counted_labels(model: MetroT5ForConditionalGeneration) -> None:
    labels = TARGET.masked_fill(TARGET == 1, -100)
    output = model(input_ids=SOURCE, attention_mask=MASK, labels=labels)
    start = torch.full((3, 1), 2)
    decoder_input = torch.cat((start, TARGET[:, :-1]), dim=1)
    logits = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=decoder_input).logits
    torch.testing.assert_close(output.logits, logits)
    losses = [-F.log_softmax(logits[b, t], -1)[TARGET[b, t]] for b in range(3) for t in range(4) if TARGET[b, t] != 1]
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    scaled = model(input_ids=SOURCE, attention_mask=MASK, labels=labels, num_items_in_batch=40).loss
    torch.testing.assert_close(scaled, torch.stack(losses).sum() / 40)


@torch.no_grad()
def test_embeddings_instead_of_ids(model: MetroT5ForConditionalGeneration) -> None:
    table = model.get_input_embeddings()
    expected = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET).logits
    found = model(inputs_embeds=table(SOURCE), attention_mask=MASK, decoder_inputs_embeds=table(TARGET)).logits
    assert torch.equal(found, expected)
    generated = model.generate(inputs_embeds=table(SOURCE), attention_mask=MASK, max_new_tokens=6)
    assert torch.equal(generated, model.generate(SOURCE, attention_mask=MASK, max_new_tokens=6))
    with pytest.raises(ValueError, match="exactly one"):
        model(input_ids=SOURCE, inputs_embeds=table(SOURCE), decoder_input_ids=TARGET)


@torch.no_grad()
def test_hidden_states_and_tuples(model: MetroT5ForConditionalGeneration) -> None:
    output = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET, output_hidden_states=True)
    assert (len(output.encoder_hidden_states), len(output.decoder_hidden_states)) == (4, 3)
    assert torch.equal(output.encoder_hidden_states[-1], output.encoder_last_hidden_state)
    embedded = model.main.encoder.embeddings(SOURCE)
    assert torch.equal(output.encoder_hidden_states[0][SOURCE != 1], embedded[SOURCE != 1])
    torch.testing.assert_close(model.main.logits(output.decoder_hidden_states[-1]), output.logits)
    as_tuple = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET, return_dict=False)
    assert torch.equal(as_tuple[0], output.logits)
    with pytest.raises(ValueError, match="attention weights"):
        model(input_ids=SOURCE, decoder_input_ids=TARGET, output_attentions=True)


@torch.no_grad()
def test_attentions_of_the_eager_model(model: MetroT5ForConditionalGeneration) -> None:
    """They are the weights that the output was made with: zero on padding, rows that sum to one, causal."""
    expected = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET).logits
    model.set_attn_implementation("eager")
    output = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET, output_attentions=True)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)
    counts = [len(output[name]) for name in ("encoder_attentions", "decoder_attentions", "cross_attentions")]
    assert counts == [3, 2, 2]
    assert output.cross_attentions[0].shape == (3, 4, 4, 8)
    for weights in (*output.encoder_attentions, *output.cross_attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert not weights.masked_select((MASK == 0)[:, None, None, :]).any()
    assert all(not weights.triu(1).any() for weights in output.decoder_attentions)
    with_memory = model.generate(
        SOURCE, attention_mask=MASK, max_new_tokens=3, output_attentions=True, return_dict_in_generate=True
    )
    assert with_memory.cross_attentions[-1][0].shape == (3, 4, 1, 8)
    assert model(input_ids=SOURCE, decoder_input_ids=TARGET).cross_attentions is None


def test_gradient_checkpointing_changes_no_gradient(pretrained: MetroT5) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = to_hugging_face(pretrained.eval())
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        for module in model.modules():  # train mode without its randomness
            if hasattr(module, "dropout"):
                module.dropout = 0.0
        model.train()
        model(input_ids=SOURCE, attention_mask=MASK, labels=TARGET, use_cache=True).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradients[0][name].any() for name in gradients[0])
    for name in gradients[0]:
        torch.testing.assert_close(gradients[1][name], gradients[0][name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_stays_close(saved: Path, model: MetroT5ForConditionalGeneration, dtype: torch.dtype) -> None:
    half = AutoModelForSeq2SeqLM.from_pretrained(saved, dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    expected = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET).logits
    found = half(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET).logits
    assert found.dtype == dtype
    assert found.isfinite().all()
    allowed = 0.01 if dtype == torch.float16 else 0.08
    assert (found.float() - expected).abs().max() < allowed * expected.abs().max()


@torch.no_grad()
def test_saving_and_loading_with_the_auto_classes(saved: Path, model: MetroT5ForConditionalGeneration) -> None:
    assert (saved / "model.safetensors").is_file()
    config = AutoConfig.from_pretrained(saved)
    assert type(config) is MetroT5Config
    assert config.model_config() == model.config.model_config()
    loaded = AutoModelForSeq2SeqLM.from_pretrained(saved)
    assert type(loaded) is MetroT5ForConditionalGeneration
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert loaded.main.decoder.embeddings.tokens.weight is loaded.main.encoder.embeddings.tokens.weight
    body = AutoModel.from_pretrained(saved)
    assert type(body) is MetroT5Model
    hidden = body(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET).last_hidden_state
    expected = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET)
    torch.testing.assert_close(model.main.logits(hidden), expected.logits)
    encoder = MetroT5EncoderModel.from_pretrained(saved)
    assert not any("decoder" in name for name, _ in encoder.named_parameters())
    found = encoder(input_ids=SOURCE, attention_mask=MASK).last_hidden_state
    torch.testing.assert_close(found, expected.encoder_last_hidden_state)


@pytest.mark.parametrize("cls", [AutoModelForSeq2SeqLM, AutoModel, MetroT5EncoderModel])
def test_loading_prints_no_warning(saved: Path, cls: type, caplog: pytest.LogCaptureFixture,
                                   capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cls.from_pretrained(saved)
    finally:
        logger.removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr().err == ""


def test_a_new_model_has_the_initial_weights_of_pretraining(small_config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(MetroT5Config.from_model_config(small_config))
    layer = model.main.encoder.layers[0]
    fan = layer.feed_forward.wi.weight.shape
    assert layer.feed_forward.wi.weight.std().item() == pytest.approx(sum(fan) ** -0.5, rel=0.05)
    assert not layer.feed_forward.wi.bias.any()
    assert layer.feed_forward_norm.weight.eq(1).all()
    assert not model.main.encoder.relative_biases[0].table.weight.any()
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_only_missing_weights_are_drawn(saved: Path, model: MetroT5ForConditionalGeneration) -> None:
    state = load_file(saved / "model.safetensors")
    missing = "main.encoder.relative_biases.1.table.weight"
    save_file({name: t for name, t in state.items() if name != missing}, saved / "model.safetensors", {"format": "pt"})
    loaded = AutoModelForSeq2SeqLM.from_pretrained(saved).state_dict()
    assert not loaded.pop(missing).any()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in loaded.items())


def test_new_tokens_grow_every_table(model: MetroT5ForConditionalGeneration) -> None:
    before = model(input_ids=SOURCE, decoder_input_ids=TARGET).logits
    model.resize_token_embeddings(160)
    after = model(input_ids=SOURCE, decoder_input_ids=TARGET).logits
    assert after.shape[-1] == model.config.vocab_size == 160
    assert torch.equal(after[..., :152], before)
    assert model.main.decoder.embeddings.tokens is model.main.encoder.embeddings.tokens


def test_untied_head(tmp_path: Path) -> None:
    config = preset("t5_tiny", vocab_size=50, d_model=16, ffn_dim=16, num_heads=2, head_dim=8, encoder_layers=1,
                    decoder_layers=1, tied_head=False, scale_head=False)  # fmt: skip
    model = to_hugging_face(MetroT5(config, pad_id=1))
    model.save_pretrained(tmp_path)
    loaded = MetroT5ForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.get_output_embeddings().weight, model.main.head.weight)
    assert not torch.equal(loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight)


def test_unknown_attention_implementation_is_refused(model: MetroT5ForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="choose sdpa or eager"):
        model.set_attn_implementation("flash_attention_2")
