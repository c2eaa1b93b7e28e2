"""Functions that several test modules of this room call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from metro_t0.modeling import MetroT5

ROOT = Path(__file__).resolve().parents[2]
TEXT = """The quick brown fox jumps over the lazy dog while five wizards hex a jolly sphinx of black quartz .
It isn't hard to say who won the game , but nobody remembers why they played it on a rainy Sunday in March !
Models that learn from model generated signals see harder examples and learn more from every sentence they read ."""
TOKENS_PER_SAMPLE = 32


def randomized(model: MetroT5, deviation: float = 0.3) -> MetroT5:
    """Draw every parameter anew, so that a forgotten or swapped one changes the output."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * deviation + (1.0 if parameter.dim() == 1 else 0.0))
    return model.eval()


def fairseq_train(data: Path, save_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Train a tiny model for two updates; the checkpoint is `save_dir`/checkpoint_last.pt."""
    command = [
        sys.executable, "-m", "fairseq_cli.train", str(data), "--user-dir", str(ROOT / "fairseq_plugins"),
        "--d-model", "32", "--ffn-dim", "48", "--num-heads", "4", "--head-dim", "8", "--max-positions", "64",
        "--encoder-layers", "3", "--decoder-layers", "2", "--optimizer", "adam", "--lr", "1e-2", "--batch-size", "4",
        "--tokens-per-sample", str(TOKENS_PER_SAMPLE), "--max-update", "2", "--save-dir", str(save_dir),
        "--cpu", "--num-workers", "0", "--disable-validation", *options,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
