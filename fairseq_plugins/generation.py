"""fairseq-generate and fairseq-interactive: this project's decoder, with its caches, behind fairseq's interface.

fairseq searches; it asks a model for `encoder` and `decoder`, which here are views of the one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor

from fairseq_plugins.errors import clear_errors
from metro_t0.kernels.attend import padding_mask
from metro_t0.modeling import T5
from metro_t0.rows import pad_rows
from metro_t0.tokenization import Tokenizer

CACHES = "caches"


class Kept:
    """Keys and values of one attention layer (`metro_t0.modeling.attention.KeyValueCache`)."""

    def __init__(self, grows: bool) -> None:
        self.grows = grows
        self.pair: tuple[Tensor, Tensor] | None = None

    def filled(self) -> bool:
        """True where nothing is added any more: of the encoder's output, after the first step."""
        return self.pair is not None and not self.grows

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values so far, (B, H, T, K) each."""
        assert self.pair is not None
        return self.pair

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new positions and give all."""
        if self.pair is not None:
            keys, values = torch.cat([self.pair[0], keys], 2), torch.cat([self.pair[1], values], 2)
        self.pair = (keys, values)
        return self.pair

    def reorder(self, order: Tensor) -> None:
        """Rows of the batch as a search has chosen them, order (B',)."""
        if self.pair is not None:
            self.pair = (self.pair[0].index_select(0, order), self.pair[1].index_select(0, order))


class EncoderView:
    """The encoder as fairseq's search calls it."""

    def __init__(self, main: T5, pad_id: int) -> None:
        self.main, self.pad_id = main, pad_id

    @clear_errors()
    def forward_torchscript(self, inputs: dict[str, Tensor]) -> dict[str, Tensor | None]:
        """src_tokens (B, S) -> memory (B, S, D) and valid (B, S), None where nothing is padded."""
        source = inputs["src_tokens"]
        valid = padding_mask(source != self.pad_id)
        return {"memory": self.main.encoder(source, valid), "valid": valid}

    @staticmethod
    def reorder_encoder_out(encoded: dict[str, Tensor | None], order: Tensor) -> dict[str, Tensor | None]:
        """The same rows in another order (B',)."""
        return {name: None if rows is None else rows.index_select(0, order) for name, rows in encoded.items()}


class DecoderView(FairseqIncrementalDecoder):
    """The decoder as fairseq's search calls it: one token at a time."""

    def __init__(self, main: T5) -> None:
        super().__init__(None)
        self.main = main

    def forward(
        self, prev_output_tokens: Tensor, encoder_out: Any = None, incremental_state: Any = None, **settings: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """(B, T) tokens so far -> logits (B, 1, V) of the next; all (B, T, V) without incremental_state."""
        memory, valid = encoder_out["memory"], encoder_out["valid"]
        if incremental_state is None:
            hidden = self.main.decoder(prev_output_tokens, None, memory, valid)
            return self.main.logits(hidden), {"attn": None}
        if CACHES not in incremental_state:
            incremental_state[CACHES] = [(Kept(grows=True), Kept(grows=False)) for _ in self.main.decoder.layers]
        newest, offset = prev_output_tokens[:, -1:], prev_output_tokens.size(1) - 1
        hidden = self.main.decoder(newest, None, memory, valid, incremental_state[CACHES], offset)
        return self.main.logits(hidden), {"attn": None}

    def reorder_incremental_state(self, incremental_state: Any, new_order: Tensor) -> None:
        """Follow the search."""
        for caches in incremental_state.get(CACHES, ()):
            for cache in caches:
                cache.reorder(new_order)

    def max_positions(self) -> int:
        """Longest target."""
        return self.main.config.max_positions


class Pieces:
    """A tokenizer in the place of fairseq's BPE: text to pieces of the dictionary, separated by spaces, and back."""

    def __init__(self, tokenizer: Tokenizer, dictionary: Dictionary) -> None:
        self.tokenizer, self.dictionary = tokenizer, dictionary

    def encode(self, text: str) -> str:
        """Pieces of a text."""
        return " ".join(self.dictionary[token] for token in self.tokenizer.encode(text))

    def decode(self, pieces: str) -> str:
        """Text of the pieces."""
        return self.tokenizer.decode([self.dictionary.index(piece) for piece in pieces.split()])


class Sources(FairseqDataset):
    """What fairseq-interactive was given, each with `first` in front."""

    def __init__(self, sources: Sequence[Tensor], first: list[int], pad_id: int) -> None:
        self.sources = [np.concatenate([first, source.numpy()]).astype(np.int64) for source in sources]
        self.pad_id = pad_id
        self.sizes = np.array([len(source) for source in self.sources])

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": int(index), "source": self.sources[index]}

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """id, and net_input with src_tokens and src_lengths."""
        rows = [sample["source"] for sample in samples]
        inputs = {
            "src_tokens": torch.from_numpy(pad_rows(rows, self.pad_id)),
            "src_lengths": torch.tensor([len(row) for row in rows]),
        }
        ids = torch.tensor([sample["id"] for sample in samples])
        return {"id": ids, "nsentences": len(rows), "ntokens": int(inputs["src_lengths"].sum()), "net_input": inputs}

    def num_tokens(self, index: int) -> int:
        """Tokens of one source."""
        return int(self.sizes[index])

    def size(self, index: int) -> int:
        """The same."""
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """As they were given."""
        return np.arange(len(self))

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes: Any) -> tuple[np.ndarray, list[int]]:
        """All of them: the model says what is too long for it."""
        return indices, []
