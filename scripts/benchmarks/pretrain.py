"""Pretraining speed: a METRO-T5 step beside a step of Hugging Face's T5 at equal shape, dtype and machine.

    python -m scripts.benchmarks.pretrain --preset tiny --batch 8 --length 256
    python -m scripts.benchmarks.pretrain --preset base --batch 2 --length 512
    python -m scripts.benchmarks.pretrain --preset base --batch 32 --length 512 --dtype bf16      # on a GPU

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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import nn

from metro_t0.command import Parser
from metro_t0.modeling import MetroT5, ModelConfig, preset
from metro_t0.modeling.flops import training_flops
from metro_t0.objectives.masking import MaskingConfig
from scripts.benchmarks.measuring import DTYPES, matrix_flops, peak_gib, timed
from scripts.benchmarks.steps import PAD, metro_step, optimizer_makers, t5_step


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
