"""One typed config for every model of the toolkit: METRO-T5, its ablations, the T5 baseline and vanilla T5.

A variant is a field of `ModelConfig`, never a subclass. The fields carry their help text as metadata, so that
the fairseq plugin can offer exactly these fields as command-line options and hydra keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from metro_t0.errors import UserError, unknown
from metro_t0.options import check, from_values, option

Activation = Literal["relu", "gelu", "gelu_tanh"]
Initialization = Literal["metro", "released", "t5"]
AttentionBackend = Literal["sdpa", "flex", "eager", "triton"]
Scope = Literal["model", "pretraining", "run"]
"""What a field describes: the main model, which is exported; what only pretraining has beside it; how one run goes."""


def _field(default: Any, text: str, scope: Scope = "model", **bounds: float) -> Any:
    return option(default, text, scope=scope, **bounds)


def _pretraining(default: Any, text: str, without: Any, **bounds: float) -> Any:
    """A field of pretraining alone; `without` is its value in the main model alone."""
    return option(default, text, scope="pretraining", without=without, **bounds)


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of the main encoder-decoder, its pretraining heads and the auxiliary (paper tables 5 and 6)."""

    vocab_size: int = _field(0, "rows of the token embedding, sentinels included; the task sets it", at_least=0)
    d_model: int = _field(768, "width of the residual stream", at_least=1, at_most=65_536)
    ffn_dim: int = _field(3072, "inner width of the feed-forward layers", at_least=1, at_most=1_048_576)
    num_heads: int = _field(12, "attention heads", at_least=1, at_most=1024)
    head_dim: int = _field(64, "features per attention head", at_least=1, at_most=4096)
    encoder_layers: int = _field(12, "layers of the main encoder", at_least=0, at_most=1000)
    decoder_layers: int = _field(12, "layers of the main decoder", at_least=0, at_most=1000)
    max_positions: int = _field(1024, "longest sequence; rows of position tables", at_least=1, at_most=1_048_576)

    norm_placement: Literal["post", "pre"] = _field("post", "x = norm(x + f(x)) (post) or x = x + f(norm(x)) (pre)")
    norm_kind: Literal["layer", "rms"] = _field("layer", "LayerNorm, or T5's RMSNorm without bias")
    norm_eps: float = _field(1e-5, "epsilon of the norms", at_least=1e-12, at_most=1)
    embedding_norm: bool = _field(True, "normalize token + position embeddings")
    absolute_positions: bool = _field(True, "learned absolute positions in encoder, decoder and auxiliary")
    relative_positions: Literal["none", "encoder", "both"] = _field("encoder", "where a learned relative bias is added")
    relative_bias_shared: bool = _field(False, "one relative bias per stack (T5) instead of one per layer")
    relative_rule: Literal["symmetric", "t5"] = _field("symmetric", "how distances fall into buckets")
    relative_buckets: int = _field(32, "buckets of the relative bias", at_least=8, at_most=1024)
    relative_max_distance: int = _field(128, "where the last bucket begins", at_least=8, at_most=1_048_576)
    bias: bool = _field(True, "bias vectors in linear layers")
    activation: Activation = _field("relu", "feed-forward activation")
    gated_ffn: bool = _field(False, "gated feed-forward (T5 1.1)")
    scale_attention: bool = _field(True, "scale attention scores by head_dim ** -0.5 (T5 does not)")
    tied_head: bool = _field(True, "the vocabulary projection is the token embedding")
    scale_head: bool = _field(False, "scale decoder output by d_model ** -0.5 before the tied projection (T5)")

    dropout: float = _field(0.1, "dropout of embeddings and residual branches", at_least=0, below=1)
    attention_dropout: float = _field(0.1, "dropout of attention probabilities", at_least=0, below=1)
    activation_dropout: float = _field(0.0, "dropout inside the feed-forward layers", at_least=0, below=1)

    auxiliary_layers: int = _pretraining(4, "layers of the auxiliary masked LM; 0: none", 0, at_least=0, at_most=1000)
    auxiliary_sharing: Literal["tokens", "embeddings"] = _pretraining(
        "embeddings", "what it shares with the main model: token embeddings, or positions and norm too", "embeddings"
    )
    rtd: Literal["none", "encoder", "decoder"] = _pretraining("encoder", "where replaced tokens are detected", "none")
    rtd_head: Literal["mlp", "linear"] = _pretraining("mlp", "linear-ReLU-LayerNorm-linear, or one linear layer", "mlp")
    clm_head: Literal["linear", "projection", "copy"] = _pretraining(
        "linear", "CLM head: tied projection; dense-GELU-norm before it (RoBERTa); copy mechanism (COCO-LM)", "linear"
    )

    initialization: Initialization = _field("metro", "distribution of the initial weights")
    attention_backend: AttentionBackend = _field(
        "sdpa", "torch's fused attention; FlexAttention (no dropout); the definition; our Triton kernel (CUDA)", "run"
    )
    compile_layers: bool = _field(False, "torch.compile every layer; for GPUs, with blocks of one length", "run")
    compile_losses: bool = _field(False, "torch.compile cross-entropies and sampling; not timed on a GPU yet", "run")
    activation_checkpointing: bool = _field(False, "recompute layers in the backward pass to save memory", "run")

    def __post_init__(self) -> None:
        check(self, "model field ")
        for problem in self._problems():
            raise UserError(f"model field {problem}")

    def _problems(self) -> Iterator[str]:
        """Fields that make no sense together."""
        buckets, distance, head = self.relative_buckets, self.relative_max_distance, self.head_dim
        if buckets % 4:
            yield f"relative_buckets is {buckets}; it must be a multiple of 4"
        if distance <= buckets // 2:
            yield f"relative_max_distance is {distance}; it must be above half of relative_buckets ({buckets})"
        if self.relative_rule == "symmetric" and self.relative_positions == "both":
            yield "relative_rule: symmetric buckets look both ways, so a decoder bias needs t5"
        if not self.auxiliary_layers and self.rtd != "none":
            yield f"rtd is {self.rtd}: without an auxiliary no token is replaced; use rtd=none"
        if not self.auxiliary_layers and self.clm_head == "copy":
            yield "clm_head is copy: without an auxiliary there is no noised token to copy"
        if self.attention_backend == "flex" and self.attention_dropout:
            yield "attention_backend is flex, which has no dropout: set attention_dropout to 0"
        if self.attention_backend == "triton" and (head < 16 or head & (head - 1)):
            yield f"attention_backend is triton, which needs a head_dim that is a power of two, 16 or more, not {head}"
        if self.auxiliary_layers and not self.tied_head:
            yield "tied_head is false: the auxiliary's MLM head is tied to the embeddings"

    @property
    def inner_dim(self) -> int:
        """Features of all heads together."""
        return self.num_heads * self.head_dim

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)

    def without_pretraining(self) -> ModelConfig:
        """The main model alone: what fine-tuning trains and what Hugging Face export keeps."""
        return self.replace(**WITHOUT_PRETRAINING)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict` (see `options.from_values`). Raises `UserError` on a field that does not exist."""
        return from_values(cls, values, "model field")


def fields_of(scope: Scope) -> dict[str, dataclasses.Field[Any]]:
    """The fields of `ModelConfig` with that scope, by name."""
    return {f.name: f for f in dataclasses.fields(ModelConfig) if f.metadata["scope"] == scope}


WITHOUT_PRETRAINING = {name: f.metadata["without"] for name, f in fields_of("pretraining").items()}
"""Field of pretraining -> its value in the main model alone."""


BASE = ModelConfig()
SMALL = BASE.replace(d_model=512, ffn_dim=2048, num_heads=8, encoder_layers=6, decoder_layers=6, auxiliary_layers=2)

PRESETS: dict[str, ModelConfig] = {
    # What the quickstart trains on two CPU cores within minutes: less than an epoch, so dropout would only slow it.
    "demo": BASE.replace(
        d_model=128, ffn_dim=512, num_heads=4, head_dim=32, encoder_layers=2, decoder_layers=2,
        auxiliary_layers=1, max_positions=512, dropout=0.0, attention_dropout=0.0,
    ),
    "tiny": BASE.replace(
        d_model=256, ffn_dim=1024, num_heads=4, encoder_layers=4, decoder_layers=4, auxiliary_layers=2,
        max_positions=512,
    ),
    "small": SMALL,
    "base": BASE,
    # base++ differs from base in vocabulary, learning rate and steps, which are not the model's fields.
    "base_pp": BASE,
    "large_pp": BASE.replace(
        d_model=1024, ffn_dim=4096, num_heads=16, encoder_layers=24, decoder_layers=24, auxiliary_layers=6,
        relative_buckets=64,
    ),
}  # fmt: skip

# T5 as published: Pre-LN, RMSNorm, relative positions shared per stack, no biases, scaled tied head.
VANILLA_T5: dict[str, Any] = {
    "norm_placement": "pre", "norm_kind": "rms", "norm_eps": 1e-6, "embedding_norm": False,
    "absolute_positions": False, "relative_positions": "both", "relative_bias_shared": True, "relative_rule": "t5",
    "bias": False, "scale_attention": False, "scale_head": True, "activation_dropout": 0.1,
    "initialization": "t5", **WITHOUT_PRETRAINING,
}  # fmt: skip

PRESETS |= {f"t5_{size}": PRESETS[size].replace(**VANILLA_T5) for size in ("tiny", "small", "base")}


def preset(name: str, **changes: Any) -> ModelConfig:
    """A preset by name, with some fields changed. Raises `UserError` naming the nearest presets."""
    if name not in PRESETS:
        raise unknown("architecture", name, PRESETS)
    return PRESETS[name].replace(**changes)
