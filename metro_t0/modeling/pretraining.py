"""METRO-T5 in pretraining: auxiliary -> noised text -> encoder (RTD) -> decoder (CLM); figure 1, equations 10-13.

Shapes: B batch, S source length, T decoder length, M masked positions, C decoder positions whose logits are needed,
D model width, V vocabulary. Positions are indices into the flattened (B * S) or (B * T) batch, so that nothing of
shape (B, T, V) ever exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metro_t0.kernels.sampling import sample_tokens
from metro_t0.kernels.selection import make_selection
from metro_t0.modeling.config import ModelConfig
from metro_t0.modeling.encoder_decoder import T5, Embeddings, Stack
from metro_t0.modeling.heads import HEADS
from metro_t0.modeling.initialization import initialize, initialize_as_bert

PRETRAINING_MODULES = ("auxiliary", *(head.name for head in HEADS))
"""Modules of `MetroT5` beside the main model, each there only where a pretraining field of the config asks for it."""


@dataclass
class PretrainingBatch:
    """One batch of any objective. The masks are None where the auxiliary has nothing to do, or there is none."""

    source_tokens: Tensor
    """(B, S) X^orig for METRO; the corrupted text for T5 span corruption. Padding on the right."""
    decoder_input: Tensor
    """(B, T) what the decoder reads: its target shifted right."""
    clm_positions: Tensor
    """(C,) decoder positions whose logits are computed."""
    clm_targets: Tensor
    """(C,) token to predict there."""
    clm_in_loss: Tensor | None = None
    """(C,) True where the position counts in the loss; None where all do (the others are for metrics)."""
    masked_tokens: Tensor | None = None
    """(B, S) X^orig with [MASK] at the masked positions: what the auxiliary reads."""
    masked_positions: Tensor | None = None
    """(M,) masked positions of the source."""
    sample_uniforms: Tensor | None = None
    """(M,) uniform numbers in [0, 1) that decide the sample at each masked position."""
    documents: Tensor | None = None
    """(B, S) number of the document of each token, 0 on padding: attention keeps to documents. None: one per row."""
    most_clm_in_row: int | None = None
    """No row has more clm_positions. Where it is known, the decoder's last layer is computed at those alone."""
    most_masked_in_row: int | None = None
    """The same of masked_positions, for the auxiliary's last layer."""
    decoder_writes: Literal["source", "masked", "other"] = "source"
    """The source, token by token; the masked tokens alone; or another text."""
    has_padding: bool = True
    """False where every source token is real, which spares attention the masking. Known without asking a GPU."""


@dataclass
class Noise:
    """What the auxiliary makes of the masks."""

    logits: Tensor
    """(M, V)"""
    originals: Tensor
    """(M,) the masked tokens, which it is to predict."""
    tokens: Tensor
    """(B, S) X^noise: a sample of its at every mask."""
    replaced: Tensor
    """(B, S) True where X^noise differs from X^orig."""


@dataclass
class PretrainingOutput:
    """What the losses and metrics need."""

    clm_logits: Tensor
    """(C, V)"""
    valid: Tensor
    """(B, S) True on real source tokens."""
    noise: Noise | None
    """None where no token was masked for an auxiliary."""
    heads: dict[str, Tensor]
    """Logits of `modeling.heads` by name: rtd_head (B, S) of "replaced", copy_gate (C,) of copying the noised token."""
    compiled_losses: bool = False
    """Whether cross-entropies of these logits are to be compiled."""

    @property
    def replaced(self) -> Tensor:
        """(B, S) True where X^noise differs from X^orig; where there is noise."""
        assert self.noise is not None
        return self.noise.replaced


class Auxiliary(nn.Module):
    """A small encoder trained as a masked LM: the main model's width, fewer layers, no dropout, shared embeddings."""

    def __init__(self, config: ModelConfig, main: Embeddings) -> None:
        super().__init__()
        plain = config.replace(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
        embeddings = Embeddings(plain, main.tokens)
        if config.auxiliary_sharing == "embeddings":
            embeddings.positions = main.positions
            embeddings.norm = main.norm
        self.stack = Stack(plain, embeddings, config.auxiliary_layers, is_decoder=False)
        self.bias = nn.Parameter(main.tokens.weight.new_zeros(config.vocab_size))

    def forward(
        self, masked_tokens: Tensor, valid: Tensor | None, masked_positions: Tensor, most_in_row: int | None = None
    ) -> Tensor:
        """MLM logits (M, V) of the M masked positions only (equation 10).

        masked_tokens: (B, T) ids with [MASK]; masked_positions: (M,) indices into the flattened (B * T) batch,
        ascending, of which no row has more than most_in_row (None: not known).
        The head is one linear layer tied to the token embedding.
        """
        at = make_selection(masked_positions, most_in_row, *masked_tokens.shape) if len(self.stack.layers) else None
        hidden = self.stack(masked_tokens, valid, at=at)
        if at is None:
            hidden = hidden.flatten(0, 1)[masked_positions]
        return F.linear(hidden, self.stack.embeddings.tokens.weight, self.bias)


class MetroT5(nn.Module):
    """Main model, auxiliary and heads. With `auxiliary_layers=0` it is the T5 baseline."""

    def __init__(self, config: ModelConfig, pad_id: int) -> None:
        super().__init__()
        self.config = config
        self.pad_id = pad_id
        self.main = T5(config)
        if config.auxiliary_layers:
            self.auxiliary = Auxiliary(config, self.main.encoder.embeddings)
        self.reads = {head.name: head.reads(config) for head in HEADS if head.reads(config) != "none"}
        for head in HEADS:
            if head.name in self.reads:
                self.add_module(head.name, head.build(config))
        initialize(self, config)
        if config.auxiliary_layers:
            initialize_as_bert(self.auxiliary, config)

    def forward(self, batch: PretrainingBatch) -> PretrainingOutput:
        """Run one pretraining step's forward pass."""
        valid = batch.source_tokens != self.pad_id
        mask = batch.documents if batch.documents is not None or not batch.has_padding else valid
        noise = self._corrupt(batch, mask) if self.config.auxiliary_layers and batch.masked_tokens is not None else None
        source = batch.source_tokens if noise is None else noise.tokens
        at = None
        if self.config.decoder_layers and "decoder" not in self.reads.values():
            at = make_selection(batch.clm_positions, batch.most_clm_in_row, *batch.decoder_input.shape)
        decoded, encoded = self.main(source, batch.decoder_input, mask, at)

        predicted = decoded.flatten(0, 1)[batch.clm_positions] if at is None else decoded
        hidden = {"encoder": encoded, "decoder": decoded, "predicted": predicted}
        heads = {
            head.name: self.get_submodule(head.name)(hidden[self.reads[head.name]])
            for head in HEADS
            if head.name in self.reads and (noise is not None or not head.needs_noise)
        }
        clm_logits = self.main.logits(heads.pop("clm_projection", predicted))
        return PretrainingOutput(clm_logits, valid, noise, heads, self.config.compile_losses)

    def idle_parameters(self, batch: PretrainingBatch) -> list[nn.Parameter]:
        """The parameters that a batch without masks does not use; they get no gradient."""
        if batch.masked_tokens is not None:
            return []
        modules = ["auxiliary", *(head.name for head in HEADS if head.needs_noise)]
        shared = {id(parameter) for parameter in self.main.parameters()}
        idle = [p for name, module in self.named_children() if name in modules for p in module.parameters()]
        return [parameter for parameter in idle if id(parameter) not in shared]

    def _corrupt(self, batch: PretrainingBatch, mask: Tensor | None) -> Noise:
        """Fill the masks with samples of the auxiliary: X^noise. No gradient passes through the sampling."""
        if batch.masked_tokens is None or batch.masked_positions is None or batch.sample_uniforms is None:
            raise ValueError("a batch has masked_tokens, masked_positions and sample_uniforms, or none of them")
        source, places = batch.source_tokens, batch.masked_positions
        logits = self.auxiliary(batch.masked_tokens, mask, places, batch.most_masked_in_row)
        sampled = sample_tokens(logits.detach(), batch.sample_uniforms, self.config.compile_losses)
        noised = source.flatten().index_copy(0, places, sampled).view_as(source)
        return Noise(logits, source.flatten()[places], noised, noised != source)
