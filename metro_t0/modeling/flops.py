"""Floating-point operations of training: those of the matrix products, 2 per multiply-add.

A training step counts three times its forward pass; recomputed layers count once. `tests/scripts/test_costs.py` holds
the numbers against torch's own counter.
"""

from __future__ import annotations

from metro_t0.modeling.config import ModelConfig


def forward_flops(
    config: ModelConfig, length: int, mask_ratio: float, last_layers: float | None = None
) -> dict[str, float]:
    """FLOPs per source token of a forward pass by part; without an auxiliary, `mask_ratio` positions meet the head.

    last_layers: share of the positions at which the last layers of decoder and auxiliary are computed (keys and values
    at all); the mask ratio where it is not given.
    """
    spared = 1 - (mask_ratio if last_layers is None else last_layers)
    d, inner, ffn = config.d_model, config.inner_dim, config.ffn_dim * (3 if config.gated_ffn else 2)
    encoder_layer, decoder_layer = 4 * d * inner + d * ffn, 8 * d * inner + d * ffn
    head = mask_ratio * config.vocab_size * d
    of_auxiliary = spared if config.auxiliary_layers else 0
    # Attentions whose scores are computed: a causal one counts half, the last ones but for what is spared.
    attended = config.auxiliary_layers - of_auxiliary + config.encoder_layers + 1.5 * (config.decoder_layers - spared)
    has_rtd_layer = config.rtd != "none" and config.rtd_head == "mlp"
    return {
        "auxiliary": 2.0 * (config.auxiliary_layers * encoder_layer - of_auxiliary * (2 * d * inner + d * ffn)),
        "encoder": 2.0 * config.encoder_layers * encoder_layer,
        "decoder": 2.0 * (config.decoder_layers * decoder_layer - spared * (4 * d * inner + d * ffn)),
        "scores": 4.0 * length * inner * attended,
        "heads": 2.0 * (head * (2 if config.auxiliary_layers else 1) + (d * d if has_rtd_layer else 0)),
    }


def training_flops(config: ModelConfig, length: int, mask_ratio: float, last_layers: float | None = None) -> float:
    """FLOPs per source token of forward and backward pass."""
    return 3 * sum(forward_flops(config, length, mask_ratio, last_layers).values())


def seq2seq_training_flops(config: ModelConfig, rows: float, source: float, target: float) -> float:
    """FLOPs of forward and backward pass of the main model over `rows` pairs of texts.

    source, target: tokens of all of them together, whose vocabulary logits are computed at every target token.
    """
    d, inner, ffn = config.d_model, config.inner_dim, config.ffn_dim * (3 if config.gated_ffn else 2)
    encoder = config.encoder_layers * source * (4 * d * inner + d * ffn)
    # Keys and values of the cross-attention are made of the source.
    decoder = config.decoder_layers * (target * (6 * d * inner + d * ffn) + source * 2 * d * inner)
    pairs = config.encoder_layers * source**2 + config.decoder_layers * (target**2 / 2 + target * source)
    return 3 * 2.0 * (encoder + decoder + 2 * inner * pairs / max(rows, 1) + target * config.vocab_size * d)
