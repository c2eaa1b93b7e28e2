"""What `output_hidden_states` and `output_attentions` ask for, collected while a stack runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from metro_t0.kernels.recorded_weights import recorded_weights
from metro_t0.modeling.attention import Attention
from metro_t0.modeling.encoder_decoder import Stack


@dataclass
class Record:
    """Of one pass through a stack. Shapes: B batch, T length, S keys, H heads, D model width."""

    hidden: list[Tensor] | None = None
    """What every layer was given, (B, T, D)."""
    weights: list[Tensor] = field(default_factory=list)
    """Attention probabilities in the order in which they were used, (B, H, T, S)."""
    is_decoder: bool = False
    has_weights: bool = False

    def hidden_states(self, last: Tensor) -> tuple[Tensor, ...] | None:
        """The inputs (B, T, D) of all layers and the output of the last, or None where they were not asked for."""
        return None if self.hidden is None else (*self.hidden, last)

    def self_attentions(self) -> tuple[Tensor, ...] | None:
        """(B, H, T, T) per layer; None where they were not asked for."""
        return tuple(self.weights[:: 2 if self.is_decoder else 1]) if self.has_weights else None

    def cross_attentions(self) -> tuple[Tensor, ...] | None:
        """(B, H, T, S) per layer of a decoder, whose layers attend to themselves first."""
        return tuple(self.weights[1::2]) if self.has_weights else None


@contextmanager
def recording(stack: Stack, hidden_states: bool, attentions: bool) -> Iterator[Record]:
    """Collect while the context is open. Raises ValueError for attentions that fused kernels never form."""
    record = Record([] if hidden_states else None, is_decoder=stack.is_decoder, has_weights=attentions)
    if attentions and any(part.backend != "eager" for part in stack.modules() if isinstance(part, Attention)):
        raise ValueError(
            "MetroT5 returns attention weights only with attn_implementation='eager': fused attention never forms them"
        )

    def keep(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        assert record.hidden is not None
        record.hidden.append(arguments[0])

    handles = [layer.register_forward_pre_hook(keep) for layer in stack.layers] if hidden_states else []
    try:
        if attentions:
            with recorded_weights() as record.weights:
                yield record
        else:
            yield record
    finally:
        for handle in handles:
            handle.remove()
