"""The published settings of prompt-finetuning are in the configuration files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from metro_t0.modeling import PRESETS

CONFIGS = Path(__file__).resolve().parents[2] / "fairseq_plugins" / "configs"


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["base", "base_pp", "large_pp"])
def test_published_settings(name: str) -> None:
    """125,000 steps at a tenth of the pretraining rate, no clipping, 512 and 256 tokens, last checkpoint (table 6)."""
    config = read(CONFIGS / "finetuning" / f"{name}.yaml")
    pretraining = read(CONFIGS / "pretraining" / f"metro_t5_{name}.yaml")
    assert config["optimization"]["max_update"] == config["lr_scheduler"]["total_num_update"] == 125_000
    assert config["optimization"]["lr"][0] == pytest.approx(pretraining["optimization"]["lr"][0] / 10)
    assert config["optimization"]["clip_norm"] == 0.0
    assert config["optimizer"] == pretraining["optimizer"]
    assert (config["task"]["max_source_positions"], config["task"]["max_target_positions"]) == (512, 256)
    assert config["task"]["tokens_per_sample"] == pretraining["task"]["tokens_per_sample"]
    assert config["checkpoint"]["no_epoch_checkpoints"] is True


@pytest.mark.parametrize("path", sorted((CONFIGS / "finetuning").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_fits_its_model(path: Path) -> None:
    config = read(path)
    assert config["defaults"] == ["_self_"]
    preset = PRESETS[config["model"]["_name"].removeprefix("metro_t5_")]
    assert config["task"]["max_source_positions"] <= preset.max_positions
    assert config["criterion"]["_name"] == "prompt_cross_entropy"
    pretraining = read(CONFIGS / "pretraining" / f"{config['model']['_name']}.yaml")
    assert config["task"]["tokens_per_sample"] == pretraining["task"]["tokens_per_sample"]
