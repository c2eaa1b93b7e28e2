"""METRO-T5 for `transformers`: the modules of `metro_t0.modeling` behind the interface that its users know.

Shapes: B batch, S source length, T target length, D model width, V vocabulary.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers.initialization import guard_torch_init_functions
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.utils import can_return_tuple

from metro_t0.hf.caching import as_encoder_decoder_cache, layer_caches
from metro_t0.hf.configuration import MetroT5Config
from metro_t0.hf.recording import recording
from metro_t0.kernels.attend import padding_mask
from metro_t0.modeling.attention import Attention
from metro_t0.modeling.encoder_decoder import T5, Embeddings, Stack
from metro_t0.modeling.initialization import initialize
from metro_t0.modeling.layers import RMSNorm
from metro_t0.rows import shift_right


class EncoderInterface(nn.Module):
    """The encoder as `generate()` and other tools call it. Holds no weights of its own."""

    main_input_name = "input_ids"

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput:
        """input_ids (B, S) or inputs_embeds (B, S, D); attention_mask (B, S), 1 on real tokens, on either side."""
        tokens = _one_of(input_ids, inputs_embeds, "input_ids", "inputs_embeds")
        with recording(self.stack, bool(output_hidden_states), bool(output_attentions)) as record:
            hidden = self.stack(tokens, _valid(attention_mask), positions=_positions(attention_mask, tokens.size(1)))
        return BaseModelOutput(
            last_hidden_state=hidden, hidden_states=record.hidden_states(hidden), attentions=record.self_attentions()
        )


class DecoderInterface(nn.Module):
    """The decoder without the vocabulary projection. Holds no weights of its own."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """input_ids (B, T): the tokens after those in the cache; attention_mask (B, cached + T).

        encoder_hidden_states (B, S, D), encoder_attention_mask (B, S). With a cache whose cross-attention is filled,
        encoder_hidden_states is not read.
        """
        tokens = _one_of(input_ids, inputs_embeds, "decoder_input_ids", "decoder_inputs_embeds")
        offset = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        caches = None if past_key_values is None else layer_caches(past_key_values, len(self.stack.layers))
        with recording(self.stack, bool(output_hidden_states), bool(output_attentions)) as record:
            hidden = self.stack(
                tokens,
                valid=_valid(attention_mask),
                memory=encoder_hidden_states,
                memory_valid=_valid(encoder_attention_mask),
                caches=caches,
                offset=offset,
                positions=_positions(attention_mask, tokens.size(1)),
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden,
            past_key_values=past_key_values,
            hidden_states=record.hidden_states(hidden),
            attentions=record.self_attentions(),
            cross_attentions=record.cross_attentions(),
        )


class MetroT5PreTrainedModel(PreTrainedModel):
    """What all METRO-T5 models of this module share. `self.main` holds the weights under pretraining's names."""

    config_class = MetroT5Config
    main_input_name = "input_ids"
    base_model_prefix = "metro_t5"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Layer"]  # noqa: RUF012 - transformers' own name and kind
    _skip_keys_device_placement = ["past_key_values", "self_cache", "cross_cache"]  # noqa: RUF012

    main: nn.Module
    gradient_checkpointing = False

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LayerNorm | RMSNorm):
            super()._init_weights(module)

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Draw the weights that no checkpoint gave. Drawing looks at whole models, not at one module at a time."""
        super().initialize_weights()
        with guard_torch_init_functions():
            initialize(self.main, self.config.model_config())

    def _set_gradient_checkpointing(self, enable: bool = True, every_n_layers: int = 1, **settings: Any) -> None:
        if every_n_layers != 1:
            raise ValueError("MetroT5 recomputes every layer; every_n_layers must be 1")
        super()._set_gradient_checkpointing(enable=enable, **settings)
        for module in self.modules():
            if isinstance(module, Stack):
                module.checkpointing = enable

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], **settings: Any) -> None:
        """Switch between "sdpa" and "eager". Raises ValueError for any other name."""
        name = attn_implementation.get("") if isinstance(attn_implementation, dict) else attn_implementation
        if name not in ("sdpa", "eager"):
            raise ValueError(f"MetroT5 has no attention implementation {name!r}; choose sdpa or eager")
        self.config._attn_implementation_internal = name
        for module in self.modules():
            if isinstance(module, Attention):
                module.backend = "eager" if name == "eager" else "sdpa"

    def save_pretrained(self, save_directory: str | os.PathLike[str], *arguments: Any, **settings: Any) -> None:
        """As in transformers. Raises ValueError where the stacks have token tables that differ: loading keeps one."""
        first, *others = [module.tokens.weight for module in self.modules() if isinstance(module, Embeddings)]
        if any(other is not first and not torch.equal(other, first) for other in others):
            raise ValueError(
                "encoder and decoder have token tables of their own now, which a directory does not keep; to train "
                "tokens with PEFT use trainable_token_indices=[ids] instead of modules_to_save"
            )
        super().save_pretrained(save_directory, *arguments, **settings)

    @property
    def encoder(self) -> EncoderInterface:
        """The encoder alone."""
        return EncoderInterface(self.main.get_submodule("encoder"))  # type: ignore[arg-type]

    def get_encoder(self, modality: str | None = None) -> EncoderInterface:
        """The encoder alone; there is one modality, text."""
        return self.encoder

    def get_input_embeddings(self) -> nn.Module:
        """The (V, D) token table."""
        return self.main.get_submodule("encoder.embeddings.tokens")

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token table of every stack."""
        for module in self.modules():
            if isinstance(module, Embeddings):
                module.tokens = value  # type: ignore[assignment]


class MetroT5EncoderModel(MetroT5PreTrainedModel):
    """The encoder alone, for embeddings and classifiers. Loads from a full model's directory."""

    _keys_to_ignore_on_load_unexpected = [r"^main\.(decoder|head)\."]  # noqa: RUF012

    def __init__(self, config: MetroT5Config) -> None:
        super().__init__(config)
        model = config.model_config()
        embeddings = Embeddings(model, nn.Embedding(model.vocab_size, model.d_model))
        self.main = nn.ModuleDict({"encoder": Stack(model, embeddings, model.encoder_layers, is_decoder=False)})
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput:
        """input_ids (B, S) or inputs_embeds (B, S, D); attention_mask (B, S) -> last_hidden_state (B, S, D)."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        return self.encoder(input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states)


class _EncoderDecoder(MetroT5PreTrainedModel):
    """The whole main model; subclasses choose what comes after the decoder."""

    _tied_weights_keys = {  # noqa: RUF012
        "main.decoder.embeddings.tokens.weight": "main.encoder.embeddings.tokens.weight"
    }

    def __init__(self, config: MetroT5Config) -> None:
        super().__init__(config)
        self.main: T5 = T5(config.model_config())
        self.post_init()

    @property
    def decoder(self) -> DecoderInterface:
        """The decoder alone, without the vocabulary projection."""
        return DecoderInterface(self.main.decoder)

    def get_decoder(self) -> DecoderInterface:
        """The decoder alone, without the vocabulary projection."""
        return self.decoder

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Seq2SeqModelOutput:
        """Arguments as in `MetroT5ForConditionalGeneration` -> last_hidden_state (B, T, D)."""
        if use_cache is None:
            use_cache = self.config.use_cache
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        if self.gradient_checkpointing and self.training:
            use_cache, past_key_values = False, None  # recomputing a layer would append its keys and values twice
        # A cache that is given is read even where none is kept: prefix tuning puts its vectors there.
        cache = as_encoder_decoder_cache(past_key_values) if use_cache or past_key_values is not None else None
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            past_key_values=cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoded.last_hidden_state,
            past_key_values=decoded.past_key_values,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class MetroT5Model(_EncoderDecoder):
    """Encoder and decoder without the vocabulary projection."""

    _keys_to_ignore_on_load_unexpected = [r"^main\.head\."]  # noqa: RUF012


class MetroT5ForConditionalGeneration(_EncoderDecoder, GenerationMixin):
    """METRO-T5 with its vocabulary projection: training on labels, scoring and generation."""

    # Trainer divides the summed loss by the tokens of the whole accumulated batch.
    accepts_loss_kwargs = True

    def get_output_embeddings(self) -> nn.Module | None:
        """The vocabulary projection where it is not the token table itself."""
        return None if self.config.tied_head else self.main.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace an untied vocabulary projection."""
        self.main.head = new_embeddings  # type: ignore[assignment]

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """labels (B, T) -> what the decoder reads: the start token, then the labels but the last; -100 is padding."""
        shifted = shift_right(labels, self.config.decoder_start_token_id)
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Seq2SeqLMOutput:
        """Logits (B, T, V), and the cross-entropy where `labels` (B, T) are given (-100: not counted).

        Source: `input_ids` (B, S), `inputs_embeds` (B, S, D) or `encoder_outputs`; `attention_mask` (B, S), with
        padding on either side. Target: `decoder_input_ids` (B, T), made from `labels` where absent. The loss is the
        mean over counted labels, or their sum divided by `num_items_in_batch`. `past_key_values` is extended in
        place; its cross-attention part is computed once, so that many targets can share one encoded source.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if use_cache is None:
            use_cache = self.config.use_cache and labels is None
        outputs = super().forward(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, use_cache, output_attentions, output_hidden_states, return_dict=True,
        )  # fmt: skip
        # With a device map the decoder may end on another device than the token table it is projected by.
        logits = self.main.logits(outputs.last_hidden_state.to(self.get_input_embeddings().weight.device))
        loss = None if labels is None else _cross_entropy(logits, labels, num_items_in_batch)
        return Seq2SeqLMOutput(loss=loss, logits=logits, **beside_the_state(outputs))


def beside_the_state(outputs: Seq2SeqModelOutput) -> dict[str, Any]:
    """What a head passes on: caches, hidden states and attentions, where there are any."""
    return {name: value for name, value in outputs.items() if name != "last_hidden_state"}


def _cross_entropy(logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
    """Mean over labels other than -100, or their sum divided by `num_items`; computed in fp32."""
    flat = logits.flatten(0, 1).float()
    targets = labels.to(logits.device).flatten()
    if num_items is None:
        return F.cross_entropy(flat, targets, ignore_index=-100)
    return F.cross_entropy(flat, targets, ignore_index=-100, reduction="sum") / num_items


def _one_of(ids: Tensor | None, embeds: Tensor | None, ids_name: str, embeds_name: str) -> Tensor:
    if (ids is None) == (embeds is None):
        raise ValueError(f"give exactly one of {ids_name} and {embeds_name}")
    return ids if ids is not None else embeds  # type: ignore[return-value]


def _valid(attention_mask: Tensor | None) -> Tensor | None:
    """(B, S) 1 on real tokens -> bool, or None where nothing is padded (asked only outside of compiled graphs)."""
    if attention_mask is None:
        return None
    valid = attention_mask.bool()
    return valid if torch.compiler.is_compiling() else padding_mask(valid)


def _positions(attention_mask: Tensor | None, length: int) -> Tensor | None:
    """(B, length) position ids of the newest tokens, counting real tokens only, so that left padding is harmless."""
    if attention_mask is None:
        return None
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
