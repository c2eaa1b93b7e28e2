"""The auxiliary model: a small Transformer encoder trained as a masked LM beside the main model (paper section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from metro_t0.kernels.selection import make_selection
from metro_t0.modeling.config import ModelConfig
from metro_t0.modeling.encoder_decoder import Embeddings, Stack


class Auxiliary(nn.Module):
    """Same width as the main model, fewer layers, no dropout, embeddings shared with the main encoder."""

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
