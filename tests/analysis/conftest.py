"""A small model and a small built mixture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metro_t0.data.token_files import TokenFileWriter
from metro_t0.modeling import T5, ModelConfig
from metro_t0.modeling.initialization import initialize

VOCAB_SIZE = 40
SMALL = ModelConfig(
    vocab_size=VOCAB_SIZE, d_model=16, ffn_dim=12, num_heads=2, head_dim=8, encoder_layers=2, decoder_layers=2,
    auxiliary_layers=0, rtd="none", max_positions=64,
)  # fmt: skip


@pytest.fixture
def small_t5() -> T5:
    """float64, in evaluation mode, with weights that give every neuron something to do."""
    torch.manual_seed(0)
    model = T5(SMALL).double().eval()
    initialize(model, SMALL)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """Three tasks of 30, 10 and 6 examples; the first is capped at 20."""
    directory = tmp_path / "mixture"
    generator = np.random.default_rng(0)
    tasks = []
    for name, examples, cap in (("alpha", 30, 20), ("beta", 10, None), ("gamma", 6, 6)):
        (directory / "train").mkdir(parents=True, exist_ok=True)
        for side, longest in (("source", 20), ("target", 5)):
            with TokenFileWriter(directory / "train" / f"{name}.{side}") as writer:
                for _ in range(examples):
                    writer.add([*generator.integers(4, VOCAB_SIZE, generator.integers(1, longest)).tolist(), 2])
        entry = {"name": name, "dataset": name, "subset": None, "examples": examples, "cap": cap}
        tasks.append({**entry, "held_out_examples": 0})
    (directory / "mixture.json").write_text(json.dumps({"tasks": tasks}))
    return directory
