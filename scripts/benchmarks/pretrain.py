"""Pretraining speed: a METRO-T5 step beside a step of Hugging Face's T5 at equal shape, dtype and machine.

    python scripts/benchmarks/pretrain.py --preset tiny --batch 8 --length 256
    python scripts/benchmarks/pretrain.py --preset base --batch 2 --length 512
    python scripts/benchmarks/pretrain.py --preset base --batch 32 --length 512 --dtype bf16      # on a GPU

A step is forward, backward and AdamW update on a batch of full sequences. The peer is `T5ForConditionalGeneration` of
the same width, depth and vocabulary with a decoder as long as the encoder, all targets in its loss (which is how T5
trains). Ours trains the auxiliary and two heads on top. Steps of the two alternate, so that a drifting machine drifts
for both. `--optimizers` compares fairseq's adam with torch's fused AdamW instead.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from metro_t0.command import Parser
from metro_t0.modeling import MetroT5, ModelConfig, PretrainingBatch, preset
from metro_t0.objectives.batches import MetroBatches
from metro_t0.objectives.losses import clm_loss, metro_loss, mlm_loss, rtd_loss
from metro_t0.objectives.masking import MaskingConfig, Stream, Vocabulary

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PAD = 1


@dataclass
class Measurement:
    """One model's figures."""

    name: str
    parameters: int
    seconds_per_step: float
    tokens_per_second: float
    peak_gib: float
    flops_per_token: float
    mfu: float


def metro_flops_per_token(config: ModelConfig, length: int, mask_ratio: float) -> float:
    """Training FLOPs (3 x forward) per source token: matrices, attention scores, heads at masked positions."""
    d, inner, ffn = config.d_model, config.inner_dim, config.ffn_dim * (3 if config.gated_ffn else 2)
    encoder_layer = 4 * d * inner + d * ffn
    decoder_layer = 8 * d * inner + d * ffn
    layers = config.encoder_layers + config.auxiliary_layers
    weights = layers * encoder_layer + config.decoder_layers * decoder_layer
    heads = mask_ratio * config.vocab_size * d * (2 if config.auxiliary_layers else 1)
    rtd = d * d if config.rtd != "none" and config.rtd_head == "mlp" else 0
    scores = 2 * length * inner * (layers + 1.5 * config.decoder_layers)  # causal self-attention is half
    return 6 * (weights + heads + rtd) + 3 * 2 * scores


def t5_flops_per_token(config: ModelConfig, length: int) -> float:
    """The same for the peer: all positions go through the vocabulary."""
    return metro_flops_per_token(config.without_pretraining(), length, mask_ratio=1.0)


def metro_step(
    config: ModelConfig, batch: int, length: int, device: str, dtype: torch.dtype
) -> tuple[nn.Module, Callable[[], None]]:
    """Our model and one training step on random full sequences."""
    end_of_words = config.vocab_size - length
    words = Vocabulary(PAD, end_of_words, 4, end_of_words)
    tokens = np.random.default_rng(0).integers(4, end_of_words, (batch, length))
    made = MetroBatches(MaskingConfig(), words, end_of_words)(tokens, range(batch), Stream(1, 1))
    moved: dict[str, Any] = {name: None if value is None else value.to(device) for name, value in vars(made).items()}
    data = PretrainingBatch(**moved)
    torch.manual_seed(0)
    model = MetroT5(config, PAD).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            output = model(data)
            loss = metro_loss(mlm_loss(data, output), rtd_loss(output), clm_loss(data, output))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def t5_step(
    config: ModelConfig, batch: int, length: int, device: str, dtype: torch.dtype
) -> tuple[nn.Module, Callable[[], None]]:
    """Hugging Face's T5 of the same shape and one training step."""
    torch.manual_seed(0)
    peer = T5Config(
        vocab_size=config.vocab_size, d_model=config.d_model, d_kv=config.head_dim, d_ff=config.ffn_dim,
        num_layers=config.encoder_layers, num_decoder_layers=config.decoder_layers, num_heads=config.num_heads,
        dropout_rate=config.dropout, pad_token_id=PAD, decoder_start_token_id=2,
    )  # fmt: skip
    model = T5ForConditionalGeneration(peer).to(device).train()
    tokens = torch.randint(4, config.vocab_size, (batch, length), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def matrix_flops(device: str, dtype: torch.dtype) -> float:
    """Rate of a large matrix product on this machine, the ceiling that MFU is a share of."""
    size = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(_timed(lambda: a @ b, device) for _ in range(8))


def _timed(function: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_gib(function: Callable[[], object], device: str) -> float:
    """GPU memory of one step; on the CPU the process's peak so far, so the smaller model is measured first."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    function()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compare_with_t5(
    config: ModelConfig, batch: int, length: int, device: str, dtype: torch.dtype, steps: int
) -> list[Measurement]:
    """Alternate steps of both models; medians."""
    ceiling = matrix_flops(device, dtype)
    makers = {"METRO-T5": metro_step, "Hugging Face T5": t5_step}
    flops = {
        "METRO-T5": metro_flops_per_token(config, length, MaskingConfig().mask_ratio),
        "Hugging Face T5": t5_flops_per_token(config, length),
    }
    built = {name: make(config, batch, length, device, dtype) for name, make in makers.items()}
    peaks = {name: _peak_gib(step, device) for name, (_, step) in built.items()}
    times: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(steps):
        for name, (_, step) in built.items():
            times[name].append(_timed(step, device))
    measurements = []
    for name, (model, _) in built.items():
        seconds = median(times[name])
        rate = batch * length / seconds
        parameters = sum(p.numel() for p in model.parameters())
        mfu = rate * flops[name] / ceiling
        measurements.append(Measurement(name, parameters, seconds, rate, peaks[name], flops[name], mfu))
    return measurements


def compare_optimizers(config: ModelConfig, device: str, steps: int) -> dict[str, float]:
    """Seconds per update of all parameters: fairseq's adam and torch's fused AdamW."""
    from fairseq.optim.adam import Adam

    settings = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01}
    seconds = {}
    for name, make in (
        ("fairseq adam", lambda p: Adam(p, **settings)),
        ("fused AdamW", lambda p: torch.optim.AdamW(p, fused=True, **settings)),  # type: ignore[arg-type]
    ):
        model = MetroT5(config, PAD).to(device)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer = make(list(model.parameters()))
        optimizer.step()
        seconds[name] = median(_timed(optimizer.step, device) for _ in range(steps))
    return seconds


def main() -> None:
    """Print one table, and write JSON where asked."""
    parser = Parser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=8, help="sequences per step")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--vocabulary", type=int, default=33_280, help="embedding rows")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="autocast dtype")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each model")
    parser.add_argument("--optimizers", action="store_true", help="compare optimizers instead")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    config = preset(options.preset, vocab_size=options.vocabulary)
    machine = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"{options.preset}, {options.batch} x {options.length} tokens, {options.dtype}, {options.device} ({machine})")
    if options.optimizers:
        for name, seconds in compare_optimizers(config, options.device, options.steps).items():
            print(f"{name:16} {1000 * seconds:9.1f} ms per update")
        return
    rows = compare_with_t5(config, options.batch, options.length, options.device, DTYPES[options.dtype], options.steps)
    print(f"{'':16} {'parameters':>12} {'s/step':>8} {'tokens/s':>9} {'peak GiB':>9} {'GFLOP/token':>12} {'MFU':>6}")
    for row in rows:
        print(
            f"{row.name:16} {row.parameters:12,} {row.seconds_per_step:8.3f} {row.tokens_per_second:9,.0f} "
            f"{row.peak_gib:9.2f} {row.flops_per_token / 1e9:12.3f} {row.mfu:6.1%}"
        )
    print(f"time per token, ours / Hugging Face: {rows[0].seconds_per_step / rows[1].seconds_per_step:.2f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
