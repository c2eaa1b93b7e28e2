"""The published settings of prompt-finetuning are in the configuration files."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from metro_t0.launch import compose_config, find_config, shipped_configs
from metro_t0.modeling import PRESETS

FINETUNING = [name for name in shipped_configs() if name.startswith("finetuning/")]


def read(name: str) -> dict[str, Any]:
    """A shipped config with all that it builds on."""
    made = OmegaConf.to_container(compose_config(*find_config(name)))
    assert isinstance(made, dict)
    return {str(key): value for key, value in made.items()}


@pytest.mark.parametrize("name", ["base", "base_pp", "large_pp"])
def test_published_settings(name: str) -> None:
    """125,000 steps at a tenth of the pretraining rate, no clipping, 512 and 256 tokens, last checkpoint (table 6)."""
    config = read(f"finetuning/{name}")
    pretraining = read(f"pretraining/metro_t5_{name}")
    assert config["optimization"]["max_update"] == config["lr_scheduler"]["total_num_update"] == 125_000
    assert config["optimization"]["lr"][0] == pytest.approx(pretraining["optimization"]["lr"][0] / 10)
    assert config["optimization"]["clip_norm"] == 0.0
    assert config["optimizer"] == pretraining["optimizer"]
    assert (config["task"]["max_source_positions"], config["task"]["max_target_positions"]) == (512, 256)
    assert config["task"]["tokens_per_sample"] == pretraining["task"]["tokens_per_sample"]
    assert config["checkpoint"]["no_epoch_checkpoints"] is True


@pytest.mark.parametrize("name", FINETUNING)
def test_every_file_fits_its_model(name: str) -> None:
    config = read(name)
    preset = PRESETS[config["model"]["_name"].removeprefix("metro_t5_")]
    assert config["task"]["max_source_positions"] <= preset.max_positions
    assert config["criterion"]["_name"] == "prompt_cross_entropy"
    pretraining = read(f"pretraining/{config['model']['_name']}")
    assert config["task"]["tokens_per_sample"] == pretraining["task"]["tokens_per_sample"]
