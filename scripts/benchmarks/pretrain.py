"""Pretraining speed: a METRO-T5 step beside a step of Hugging Face's T5 at equal shape, dtype and machine.

    python scripts/benchmarks/pretrain.py --preset tiny --batch 8 --length 256
    python scripts/benchmarks/pretrain.py --preset base --batch 2 --length 512
    python scripts/benchmarks/pretrain.py --preset base --batch 32 --length 512 --dtype bf16      # on a GPU

A step is forward, backward and AdamW update on a batch of full sequences; with bf16 the weights and gradients are bf16
and the optimizer keeps fp32 copies, as with fairseq's --bf16. The peer is `T5ForConditionalGeneration` of the same
width, depth and vocabulary with a decoder as long as the encoder, all targets in its loss (which is how T5 trains);
and, the strongest peer, the same with logits and loss at as many positions as ours. Ours trains the auxiliary and two
heads on top. Steps of the two alternate, so that a drifting machine drifts for both.
`--optimizers` compares fairseq's adam, torch's fused AdamW and Muon instead.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from metro_t0.command import Parser
from metro_t0.modeling import MetroT5, ModelConfig, PretrainingBatch, preset
from metro_t0.modeling.flops import training_flops
from metro_t0.objectives.batches import MetroBatches
from metro_t0.objectives.losses import loss_parts, metro_loss
from metro_t0.objectives.masking import MaskingConfig, WordIds
from metro_t0.randomness import Stream

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PAD, EOS = 1, 2


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


def metro_batch(
    config: ModelConfig, batch: int, length: int, device: str, padded: bool = False, documents: bool = False
) -> PretrainingBatch:
    """Random full sequences with a fixed number of masks, so that every batch has the same shapes.

    padded: a third of the last sequence is padding. documents: two in each sequence, attention within them.
    """
    end_of_words = config.vocab_size - length
    words = WordIds(PAD, end_of_words, 4, end_of_words)
    tokens = np.random.default_rng(0).integers(4, end_of_words, (batch, length))
    if padded:
        tokens[-1, -length // 3 :] = PAD
    if documents:
        tokens[:, length // 2 : length // 2 + 2] = EOS
    make = MetroBatches(
        MaskingConfig(fixed_mask_count=True), words, end_of_words, document_end=EOS if documents else None
    )
    made = make(tokens, range(batch), Stream(1, 1))
    moved: dict[str, Any] = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in vars(made).items()
    }
    return PretrainingBatch(**moved)


def metro_loss_of(model: MetroT5, data: PretrainingBatch) -> torch.Tensor:
    """Equation 13 on one batch."""
    output = model(data)
    return metro_loss({name: part.mean for name, part in loss_parts(data, output).items()})


def metro_step(
    config: ModelConfig, batch: int, length: int, device: str, dtype: torch.dtype
) -> tuple[nn.Module, Callable[[], None]]:
    """Our model and one training step on random full sequences."""
    data = metro_batch(config, batch, length, device)
    torch.manual_seed(0)
    model = MetroT5(config, PAD).to(device, dtype)
    return model, training_step(model, lambda: metro_loss_of(model, data))


def t5_step(
    config: ModelConfig, batch: int, length: int, device: str, dtype: torch.dtype, share: float = 1.0
) -> tuple[nn.Module, Callable[[], None]]:
    """Hugging Face's T5 of the same shape and one training step; `share` of the positions have logits and a loss."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    peer = T5Config(
        vocab_size=config.vocab_size, d_model=config.d_model, d_kv=config.head_dim, d_ff=config.ffn_dim,
        num_layers=config.encoder_layers, num_decoder_layers=config.decoder_layers, num_heads=config.num_heads,
        dropout_rate=config.dropout, pad_token_id=PAD, decoder_start_token_id=2,
    )  # fmt: skip
    model = T5ForConditionalGeneration(peer).to(device, dtype).train()
    tokens = torch.randint(4, config.vocab_size, (batch, length), device=device)
    if share == 1:
        return model, training_step(model, lambda: model(input_ids=tokens, labels=tokens).loss)
    positions = torch.randperm(tokens.numel(), device=device)[: round(share * tokens.numel())].sort().values
    shifted = model._shift_right(tokens)

    def loss_of_some() -> torch.Tensor:
        memory = model.encoder(input_ids=tokens).last_hidden_state
        hidden = model.decoder(input_ids=shifted, encoder_hidden_states=memory).last_hidden_state
        logits = model.lm_head(hidden.flatten(0, 1)[positions] * config.d_model**-0.5)
        return nn.functional.cross_entropy(logits.float(), tokens.flatten()[positions])

    return model, training_step(model, loss_of_some)


def training_step(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Forward, backward, fused AdamW in fp32, gradients freed."""
    weights: list[torch.Tensor] = list(model.parameters())
    half = weights[0].dtype != torch.float32
    updated: list[torch.Tensor] = [nn.Parameter(weight.detach().float()) for weight in weights] if half else weights
    optimizer = torch.optim.AdamW(updated, lr=1e-4, fused=True)

    def step() -> None:
        loss().backward()
        if half:
            for copy, weight in zip(updated, weights, strict=True):
                copy.grad = None if weight.grad is None else weight.grad.float()
        optimizer.step()
        if half:
            with torch.no_grad():
                torch._foreach_copy_(weights, updated)
        optimizer.zero_grad()
        model.zero_grad()

    return step


def matrix_flops(device: str, dtype: torch.dtype) -> float:
    """Rate of a large matrix product on this machine, the ceiling that MFU is a share of."""
    size = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(8))


def timed(function: Callable[[], object], device: str) -> float:
    """Seconds of one call: on a GPU of wall time, its work included; of processor time where one CPU thread works."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak_gib(function: Callable[[], object], device: str) -> float:
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
    """Alternate steps of the models; medians."""
    ceiling = matrix_flops(device, dtype)
    share = MaskingConfig().mask_ratio
    makers: dict[str, Callable[..., tuple[nn.Module, Callable[[], None]]]] = {
        "METRO-T5": metro_step,
        "Hugging Face T5": t5_step,
        f"... loss on {share:.0%}": partial(t5_step, share=share),
    }
    flops = {
        "METRO-T5": training_flops(config, length, MaskingConfig().mask_ratio),
        "Hugging Face T5": training_flops(config.without_pretraining(), length, mask_ratio=1.0, last_layers=1),
        f"... loss on {share:.0%}": training_flops(config.without_pretraining(), length, share, last_layers=1),
    }
    built = {name: make(config, batch, length, device, dtype) for name, make in makers.items()}
    peaks = {name: peak_gib(step, device) for name, (_, step) in built.items()}
    times: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(steps):
        for name, (_, step) in built.items():
            times[name].append(timed(step, device))
    measurements = []
    for name, (model, _) in built.items():
        seconds = median(times[name])
        rate = batch * length / seconds
        parameters = sum(p.numel() for p in model.parameters())
        mfu = rate * flops[name] / ceiling
        measurements.append(Measurement(name, parameters, seconds, rate, peaks[name], flops[name], mfu))
    return measurements


def optimizer_makers() -> dict[str, Callable[[nn.Module], torch.optim.Optimizer]]:
    """Optimizers by name; those of fairseq only where it is installed."""
    settings: dict[str, Any] = {"lr": 1e-4, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.01}
    makers: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
        "fused AdamW": lambda model: torch.optim.AdamW(model.parameters(), fused=True, **settings)
    }
    if find_spec("fairseq") is not None:
        from fairseq.optim.adam import Adam

        from fairseq_plugins.optim.muon import MuonWithAdamW
        from metro_t0.modeling.layers import hidden_matrices

        def muon(model: nn.Module) -> torch.optim.Optimizer:
            matrices = list(hidden_matrices(model))
            chosen = set(matrices)
            rest = [p for p in model.parameters() if p not in chosen]
            own = {"lr": 0.02, "momentum": 0.95, "nesterov": True, "weight_decay": 0.0, "ns_steps": 5}
            return MuonWithAdamW(rest, matrices, settings, **own, adjust_lr_fn="original")

        makers |= {"Muon and fused AdamW": muon, "fairseq adam": lambda model: Adam(model.parameters(), **settings)}
    return makers


def compare_optimizers(config: ModelConfig, device: str, steps: int) -> dict[str, float]:
    """Seconds per update of all parameters by optimizer."""
    seconds = {}
    for name, make in optimizer_makers().items():
        model = MetroT5(config, PAD).to(device)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer = make(model)
        optimizer.step()
        seconds[name] = median(timed(optimizer.step, device) for _ in range(steps))
    return seconds


def main() -> None:
    """Print one table, and write JSON where asked."""
    parser = Parser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=8, help="sequences per step")
    parser.add_argument("--length", type=int, default=256, help="tokens per sequence")
    parser.add_argument("--vocabulary", type=int, default=33_280, help="embedding rows")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of weights and gradients")
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
            print(f"{name:20} {1000 * seconds:9.1f} ms per update")
        return
    rows = compare_with_t5(config, options.batch, options.length, options.device, DTYPES[options.dtype], options.steps)
    print(f"{'':16} {'parameters':>12} {'s/step':>8} {'tokens/s':>9} {'peak GiB':>9} {'GFLOP/token':>12} {'MFU':>6}")
    for row in rows:
        print(
            f"{row.name:16} {row.parameters:12,} {row.seconds_per_step:8.3f} {row.tokens_per_second:9,.0f} "
            f"{row.peak_gib:9.2f} {row.flops_per_token / 1e9:12.3f} {row.mfu:6.1%}"
        )
    for row in rows[1:]:
        print(f"time per token, ours / {row.name}: {rows[0].seconds_per_step / row.seconds_per_step:.2f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
