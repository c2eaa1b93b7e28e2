"""The main model: token embeddings, a stack of layers on each side, a vocabulary projection.

Shapes: B batch, T decoder length, S encoder length, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metro_t0.errors import UserError
from metro_t0.kernels.attend import has_documents, positions_within
from metro_t0.kernels.execution import compile_each, run_layer
from metro_t0.kernels.key_value_cache import LayerCaches
from metro_t0.kernels.selection import Selection
from metro_t0.modeling.attention import RelativeBias
from metro_t0.modeling.config import ModelConfig
from metro_t0.modeling.layers import Layer, make_norm


class Embeddings(nn.Module):
    """Token + absolute position embeddings, normalized (paper section 4). Token rows are shared by all stacks."""

    def __init__(self, config: ModelConfig, tokens: nn.Embedding) -> None:
        super().__init__()
        self.tokens = tokens
        self.max_positions = config.max_positions
        self.dropout = config.dropout
        self.positions = nn.Embedding(config.max_positions, config.d_model) if config.absolute_positions else None
        self.norm = make_norm(config) if config.embedding_norm else None

    def forward(self, tokens: Tensor, offset: int = 0, positions: Tensor | None = None) -> Tensor:
        """tokens (B, T) ids, or (B, T, D) embeddings -> (B, T, D).

        Positions count from `offset`, or are given as (B, T) ids (left-padded input).
        """
        x = self.tokens(tokens) if tokens.dim() == 2 else tokens
        if self.positions is not None:
            end = offset + x.size(1)
            if end > self.max_positions:
                raise UserError(f"a sequence of {end} tokens is longer than max_positions ({self.max_positions})")
            where = torch.arange(offset, end, device=x.device) if positions is None else positions
            x = x + self.positions(where)
        if self.norm is not None:
            x = self.norm(x)
        return F.dropout(x, self.dropout, self.training)


class Stack(nn.Module):
    """Embeddings, layers and (Pre-LN only) a last norm: an encoder, a decoder, or the auxiliary's body."""

    def __init__(self, config: ModelConfig, embeddings: Embeddings, num_layers: int, is_decoder: bool) -> None:
        super().__init__()
        self.is_decoder = is_decoder
        self.checkpointing = config.activation_checkpointing
        self.fixed_shapes = config.compile_layers
        self.dropout = config.dropout
        self.embeddings = embeddings
        self.layers = nn.ModuleList(Layer(config, is_decoder) for _ in range(num_layers))
        has_bias = config.relative_positions == "both" or (config.relative_positions == "encoder" and not is_decoder)
        tables = (1 if config.relative_bias_shared else num_layers) if has_bias else 0
        self.relative_biases = nn.ModuleList(RelativeBias(config, bidirectional=not is_decoder) for _ in range(tables))
        self.last_norm = make_norm(config) if config.norm_placement == "pre" else None
        if config.compile_layers:
            compile_each(self.layers)

    def forward(
        self,
        tokens: Tensor,
        valid: Tensor | None = None,
        memory: Tensor | None = None,
        memory_valid: Tensor | None = None,
        caches: LayerCaches | None = None,
        offset: int = 0,
        positions: Tensor | None = None,
        at: Selection | None = None,
    ) -> Tensor:
        """tokens (B, T) ids or (B, T, D) embeddings; memory (B, S, D) of the encoder -> (B, T, D).

        at: the N positions where the output is needed -> (N, D).

        valid (B, offset + T) and memory_valid (B, S) are True on real tokens; None where all are real; or the numbers
        of the documents (see `attention`), in each of which positions begin anew.
        caches: per layer (self-attention, cross-attention) for incremental decoding after `offset` tokens.
        """
        if positions is None and valid is not None and has_documents(valid):
            positions = positions_within(valid)
        x = self.embeddings(tokens, offset, positions)
        biases: list[Tensor] = []
        if len(self.relative_biases):  # all tables have the same buckets
            buckets = cast(RelativeBias, self.relative_biases[0]).buckets_between(x.size(1), offset + x.size(1))
            biases = [table(buckets) for table in self.relative_biases]
        for number, layer in enumerate(self.layers):
            settings: dict[str, Any] = {"valid": valid, "memory": memory, "memory_valid": memory_valid}
            if biases:
                settings["bias"] = biases[min(number, len(biases) - 1)]
            if caches is not None:
                settings["self_cache"], settings["cross_cache"] = caches[number]
            if at is not None and number == len(self.layers) - 1:
                settings["at"] = at
            x = run_layer(layer, x, self.checkpointing and self.training, self.fixed_shapes, **settings)
        return x if self.last_norm is None else F.dropout(self.last_norm(x), self.dropout, self.training)


class T5(nn.Module):
    """Encoder-decoder of the paper (section 4), or vanilla T5, depending on the config."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, Embeddings(config, tokens), config.encoder_layers, is_decoder=False)
        self.decoder = Stack(config, Embeddings(config, tokens), config.decoder_layers, is_decoder=True)
        if not config.tied_head:
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(
        self, source: Tensor, decoder_input: Tensor, source_valid: Tensor | None = None, at: Selection | None = None
    ) -> tuple[Tensor, Tensor]:
        """source (B, S), decoder_input (B, T) ids -> decoder output (B, T, D), encoder output (B, S, D).

        at: the N decoder positions where the output is needed -> (N, D), (B, S, D).

        Padding of the decoder is on the right, where causal attention hides it. With document numbers in source_valid
        T is S, and the decoder keeps to its documents too.
        """
        memory = self.encoder(source, source_valid)
        documents = source_valid if source_valid is not None and has_documents(source_valid) else None
        return self.decoder(decoder_input, documents, memory, source_valid, at=at), memory

    def logits(self, hidden: Tensor) -> Tensor:
        """Decoder output (..., D) -> vocabulary logits (..., V). Give it only the positions whose logits are needed."""
        if not self.config.tied_head:
            return self.head(hidden)
        if self.config.scale_head:
            hidden = hidden * self.config.d_model**-0.5
        return F.linear(hidden, self.encoder.embeddings.tokens.weight)
