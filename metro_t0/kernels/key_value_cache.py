"""What decoding token by token keeps of a layer; fairseq's search and transformers' caches are adapted to this."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class KeyValueCache(Protocol):
    """Keys and values of one attention layer. Shapes: B batch, H heads, S keys, K features per head."""

    def filled(self) -> bool:
        """True where keys and values need not be computed again (cross-attention after the first step)."""

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values of a filled cache, (B, H, S, K) each."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, H, T, K) keys and values of new positions and give all so far."""


LayerCaches = list[tuple[KeyValueCache, KeyValueCache]]
"""Of self-attention and cross-attention, by layer."""
