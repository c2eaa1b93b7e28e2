"""What a METRO pretraining step must compute and move, by preset: the two numbers that bound its speed.

    python -m scripts.benchmarks.costs
    python -m scripts.benchmarks.costs --length 1024 --batch 16 --tflops 989 --bandwidth 4.8   # the bounds on one H200

FLOPs are those of `metro_t0.modeling.flops`. Bytes are the least that mixed-precision training
moves through memory: activations kept for the backward pass, written and read once (Korthikanti et al. 2022, section
4: 34 bytes per feature of a layer without its scores; a cross-attention adds 13), weights read twice and their
gradients written once in bf16, and AdamW's fp32 state (4 numbers read, 3 written per parameter).
"""

from __future__ import annotations

import torch
from torch import nn

from metro_t0.command import Parser
from metro_t0.modeling import MetroT5, ModelConfig, preset
from metro_t0.modeling.flops import forward_flops
from metro_t0.tables import print_table

VOCABULARIES = {"base_pp": 64_000, "large_pp": 64_000}
"""Pieces of the released vocabularies where they are not 32,768 (paper table 5)."""
ENCODER_BYTES, DECODER_BYTES = 34, 47
UPDATE_BYTES = 2 * 2 + 2 + 4 * 4 + 3 * 4


def activation_bytes(config: ModelConfig) -> float:
    """Bytes per source token that the layers keep for the backward pass in bf16."""
    encoder_like = config.auxiliary_layers + config.encoder_layers
    return config.d_model * (ENCODER_BYTES * encoder_like + DECODER_BYTES * config.decoder_layers)


def parameters(config: ModelConfig) -> int:
    """Of the main model, auxiliary and heads, counted without allocating them."""
    with torch.device("meta"):
        model: nn.Module = MetroT5(config, pad_id=1)
    return sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    """Print one row per preset."""
    parser = Parser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["tiny", "small", "base", "base_pp", "large_pp"])
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    parser.add_argument("--batch", type=int, default=32, help="sequences per step")
    parser.add_argument("--mask-ratio", type=float, default=0.15)
    parser.add_argument("--tflops", type=float, default=989.0, help="dense bf16 rate of the device, TFLOP/s")
    parser.add_argument("--bandwidth", type=float, default=4.8, help="memory bandwidth of the device, TB/s")
    options = parser.parse_args()
    parts = ["auxiliary", "encoder", "decoder", "scores", "heads"]
    header = ("preset", "parameters", *parts, "total", "kB/token", "ms compute", "ms memory", "tokens/s at 50%")
    rows = []
    for name in options.presets:
        config = preset(name, vocab_size=VOCABULARIES.get(name, 32_768) + options.length)
        flops = {part: 3 * value for part, value in forward_flops(config, options.length, options.mask_ratio).items()}
        tokens, total = options.batch * options.length, sum(flops.values())
        moved = 2 * activation_bytes(config) + UPDATE_BYTES * parameters(config) / tokens
        rows.append([
            name, f"{parameters(config) / 1e6:,.1f}M", *(f"{flops[part] / 1e6:,.0f}" for part in parts),
            f"{total / 1e6:,.0f}", f"{moved / 1e3:,.0f}", f"{1e3 * tokens * total / (1e12 * options.tflops):.1f}",
            f"{1e3 * tokens * moved / (1e12 * options.bandwidth):.1f}", f"{0.5e12 * options.tflops / total:,.0f}",
        ])  # fmt: skip
    print_table(header, rows, f"MFLOP per token of a training step; {options.batch} x {options.length} tokens")


if __name__ == "__main__":
    main()
