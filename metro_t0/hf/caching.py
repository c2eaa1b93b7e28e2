"""transformers' key-value caches behind the small interface that the model's attention asks for."""

from __future__ import annotations

from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache

from metro_t0.kernels.key_value_cache import LayerCaches


class SelfAttentionCache:
    """One decoder layer's keys and values of the tokens so far."""

    def __init__(self, cache: Cache, layer: int) -> None:
        self.cache = cache
        self.layer = layer

    def filled(self) -> bool:
        """False: every step has new keys and values."""
        return False

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values so far, (B, H, T, K) each."""
        return self.cache.layers[self.layer].keys, self.cache.layers[self.layer].values

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, H, T, K) keys and values of new positions and give all."""
        both: tuple[Tensor, Tensor] = self.cache.update(keys, values, self.layer)
        return both


class CrossAttentionCache:
    """One decoder layer's keys and values of the encoder output: computed once, then read."""

    def __init__(self, cache: EncoderDecoderCache, layer: int) -> None:
        self.cache = cache
        self.layer = layer

    def filled(self) -> bool:
        """True after the first step."""
        return bool(self.cache.is_updated.get(self.layer))

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder output, (B, H, S, K) each."""
        layer = self.cache.cross_attention_cache.layers[self.layer]
        return layer.keys, layer.values

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the (B, H, S, K) keys and values of the encoder output."""
        self.cache.is_updated[self.layer] = True
        both: tuple[Tensor, Tensor] = self.cache.cross_attention_cache.update(keys, values, self.layer)
        return both


def layer_caches(cache: EncoderDecoderCache, num_layers: int) -> LayerCaches:
    """The (self-attention, cross-attention) caches of every decoder layer."""
    own = cache.self_attention_cache
    return [(SelfAttentionCache(own, layer), CrossAttentionCache(cache, layer)) for layer in range(num_layers)]


def as_encoder_decoder_cache(cache: Cache | None) -> EncoderDecoderCache:
    """A cache for both attentions: the given one, one around a given self-attention cache, or an empty one.

    Raises ValueError for a cache whose tensors are longer than what it holds (static caches).
    """
    if cache is None:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    elif not isinstance(cache, EncoderDecoderCache):
        cache = EncoderDecoderCache(cache, DynamicCache())
    if cache.is_compileable:
        raise ValueError("MetroT5 decodes with dynamic caches; use cache_implementation='dynamic'")
    return cache
