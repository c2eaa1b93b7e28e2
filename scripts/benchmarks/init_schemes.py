"""Fine-tune a small T5 from different starting points and compare (Wu, Li and Liang 2022, tables 5 to 8, in small).

Every run: a fresh model of the checkpoint's architecture with a vocabulary of its own, initialized by one scheme from
the checkpoint, trained on a source/target file (Adafactor at a constant rate, as the paper fine-tunes) with the same
batches for every scheme of a seed, and measured on a validation file, teacher forced: token accuracy, examples with
every token right, loss. Finished runs are kept in OUTPUT and not run again.

    metro-t0-synthetic downstream retrosynthesis --data-dir tasks --tokenizer vocab --output retro
    python -m scripts.benchmarks.init_schemes --checkpoint runs/set/checkpoint_best.pt --tokenizer vocab \\
        --train retro/train.jsonl --valid retro/valid.jsonl --output results/init_schemes
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from transformers.optimization import Adafactor

from metro_t0.files import write_json
from metro_t0.hf.checkpoints import read_checkpoint
from metro_t0.modeling import MetroT5
from metro_t0.progress import progress
from metro_t0.randomness import keyed_generator
from metro_t0.rows import pad_rows
from metro_t0.tables import print_table
from metro_t0.text_files import open_bytes
from metro_t0.tokenization import Tokenizer
from metro_t0.transfer.roles import copy_weights
from metro_t0.transfer.statistics import (
    SCHEMES,
    apply_statistics,
    collect,
    constant_statistics,
)

matplotlib.use("Agg")
STARTS = (
    "random",
    "full",
    "per_param_mean_sd",
    "per_param_scale",
    "across_layers_scale",
    "whole_model_scale",
    "pre_attention_norm_scale",
    "pre_attention_norm=0.2",
)
Rows = list[tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Data:
    """Tokenized source/target pairs, both closed by the end-of-sequence token."""

    train: Rows
    valid: Rows
    tokenizer: Tokenizer


def load(path: Path, tokenizer: Tokenizer, limit: int, longest: int) -> Rows:
    """The first `limit` source/target rows of a JSONL file of which no side is longer than `longest` tokens."""
    with open_bytes(path) as stream:
        rows = [json.loads(line) for line in stream]
    sides = [tokenizer.encode_batch([row[side] for row in rows]) for side in ("source", "target")]
    pairs = [([*s, tokenizer.eos_id], [*t, tokenizer.eos_id]) for s, t in zip(*sides, strict=True)]
    return [pair for pair in pairs if max(map(len, pair)) <= longest][:limit]


def build(checkpoint: Path, start: str, seed: int, vocab_size: int, pad: int) -> MetroT5:
    """A model of the checkpoint's architecture, initialized by `start`."""
    source = read_checkpoint(checkpoint)
    torch.manual_seed(seed)
    model = MetroT5(source.config.replace(vocab_size=vocab_size), pad)
    tensors = model.state_dict()
    if start == "full":
        copy_weights(tensors, source.tensors, with_embeddings=False, origin=str(checkpoint))
    elif start.startswith("pre_attention_norm="):
        apply_statistics(tensors, constant_statistics(tensors, float(start.partition("=")[2])), seed, start)
    elif start != "random":
        apply_statistics(tensors, collect(source.tensors, SCHEMES[start], str(checkpoint)), seed, start)
    return model


def batches(rows: Rows, size: int, seed: int) -> Iterator[Rows]:
    epoch = 0
    while True:
        order = keyed_generator("init_schemes", seed, epoch).permutation(len(rows))
        for at in range(0, len(rows) - size + 1, size):
            yield [rows[i] for i in order[at : at + size]]
        epoch += 1


def forward(model: MetroT5, rows: Sequence[tuple[list[int], list[int]]], eos: int) -> tuple[Tensor, Tensor]:
    """(logits, targets) of a batch; targets are padded with the padding id."""
    pad = model.pad_id
    source = torch.from_numpy(pad_rows([np.array(s) for s, _ in rows], pad))
    target = torch.from_numpy(pad_rows([np.array(t) for _, t in rows], pad))
    decoder_input = torch.cat([torch.full((len(rows), 1), eos), target[:, :-1]], dim=1)
    decoded, _ = model.main(source, decoder_input, source != pad)
    return model.main.logits(decoded), target


def measure(model: MetroT5, rows: Rows, eos: int) -> dict[str, float]:
    model.eval()
    hits = exact = tokens = loss = 0.0
    with torch.inference_mode():
        for at in range(0, len(rows), 128):
            logits, target = forward(model, rows[at : at + 128], eos)
            real = target != model.pad_id
            right = logits.argmax(-1) == target
            hits += float(right[real].sum())
            exact += float((right | ~real).all(1).sum())
            loss += float(nn.functional.cross_entropy(logits[real], target[real], reduction="sum"))
            tokens += float(real.sum())
    model.train()
    return {"accuracy": 100 * hits / tokens, "exact_match": 100 * exact / len(rows), "loss": loss / tokens}


def run(data: Data, start: str, seed: int, options: argparse.Namespace) -> dict[str, object]:
    tokenizer = data.tokenizer
    model = build(options.checkpoint, start, seed, len(tokenizer), tokenizer.pad_id)
    optimizer = Adafactor(model.parameters(), lr=options.lr, scale_parameter=True, relative_step=False)
    curve = []
    for update, rows in enumerate(batches(data.train, options.batch_size, seed), 1):
        logits, target = forward(model, rows, tokenizer.eos_id)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=model.pad_id)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % options.every == 0:
            curve.append({"update": update, **measure(model, data.valid, tokenizer.eos_id)})
        if update == options.updates:
            return {"start": start, "seed": seed, "curve": curve}
    raise AssertionError("batches never end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "tokenizer", "train", "valid", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=150)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--longest", type=int, default=32, help="tokens of a source or target")
    parser.add_argument("--valid-examples", type=int, default=256)
    options = parser.parse_args()
    tokenizer = Tokenizer.load(options.tokenizer)
    train = load(options.train, tokenizer, 10**9, options.longest)
    valid = load(options.valid, tokenizer, options.valid_examples, options.longest)
    data = Data(train, valid, tokenizer)
    # Seed by seed, so that an early stop leaves whole comparisons.
    for seed, start in progress([(s, k) for s in range(options.seeds) for k in STARTS], "runs"):
        path = options.output / f"{start}.{seed}.json"
        if not path.is_file():
            write_json(path, run(data, start, seed, options))
    report(options.output)


def report(output: Path) -> None:
    """Table and figure of all finished runs."""
    from matplotlib import pyplot

    runs = [json.loads(path.read_text()) for path in sorted(output.glob("*.[0-9]*.json"))]
    rows = []
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for start in STARTS:
        curves = [run["curve"] for run in runs if run["start"] == start]
        if not curves:
            continue
        accuracy = np.array([[point["accuracy"] for point in curve] for curve in curves])
        loss = np.array([curve[-1]["loss"] for curve in curves])
        spread = accuracy[:, -1].std(ddof=1) if len(curves) > 1 else 0.0
        rows.append([start, str(len(curves)), f"{accuracy[:, -1].mean():.2f} ± {spread:.2f}", f"{loss.mean():.3f}"])
        updates = [point["update"] for point in curves[0]]
        axes.errorbar(updates, accuracy.mean(0), yerr=accuracy.std(0), label=start, capsize=2)
    axes.set_xlabel("updates")
    axes.set_ylabel("validation token accuracy (%)")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(output / "init_schemes.png", dpi=150)
    print_table(("start", "seeds", "token accuracy %", "loss (nats)"), rows)


if __name__ == "__main__":
    main()
