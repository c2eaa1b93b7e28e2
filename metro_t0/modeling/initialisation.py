"""Initial weights.

metro: linear weights normal with variance 1 / (fan_in + fan_out), embeddings normal with deviation 0.02, relative
biases zero, the auxiliary as BERT (normal, 0.02), the last layer of the RTD head zero (the authors' release; it writes
the linear variance as 1 / (2 fan_out) for square and non-square matrices alike, which we read as an oversight).
t5: the laws of T5's own implementation.
"""

from __future__ import annotations

from torch import nn

from metro_t0.modeling.attention import Attention, RelativeBias
from metro_t0.modeling.config import ModelConfig
from metro_t0.modeling.heads import CopyGate, RtdHead
from metro_t0.modeling.layers import FeedForward

EMBEDDING_DEVIATION = 0.02


def initialise(model: nn.Module, config: ModelConfig) -> None:
    """Draw all weights of a model anew, in place, from torch's global generator."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=(module.in_features + module.out_features) ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=EMBEDDING_DEVIATION)
    if config.initialisation == "t5":
        _initialise_t5(model, config)
    else:
        for module in model.modules():
            if isinstance(module, RelativeBias):
                nn.init.zeros_(module.table.weight)
            if isinstance(module, RtdHead | CopyGate):
                nn.init.zeros_(module.out.weight)


def initialise_as_bert(auxiliary: nn.Module) -> None:
    """The auxiliary's linear layers: normal with deviation 0.02 (BERT)."""
    for module in auxiliary.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=EMBEDDING_DEVIATION)


def _initialise_t5(model: nn.Module, config: ModelConfig) -> None:
    """Mesh TensorFlow's laws: queries carry the missing 1 / sqrt(head_dim), embeddings have unit variance."""
    for module in model.modules():
        if isinstance(module, Attention):
            nn.init.normal_(module.q.weight, std=(config.d_model * config.head_dim) ** -0.5)
            nn.init.normal_(module.k.weight, std=config.d_model**-0.5)
            nn.init.normal_(module.v.weight, std=config.d_model**-0.5)
            nn.init.normal_(module.o.weight, std=config.inner_dim**-0.5)
        elif isinstance(module, FeedForward):
            nn.init.normal_(module.wi.weight, std=config.d_model**-0.5)
            if module.gate is not None:
                nn.init.normal_(module.gate.weight, std=config.d_model**-0.5)
            nn.init.normal_(module.wo.weight, std=config.ffn_dim**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
    for module in model.modules():
        if isinstance(module, RelativeBias):
            nn.init.normal_(module.table.weight, std=config.d_model**-0.5)
    head = getattr(model, "head", None)
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=config.d_model**-0.5)
