"""Every shipped config composes, holds the paper's figures, builds and trains two steps (shrunk by overrides)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

CONFIGS = Path(__file__).resolve().parents[2] / "fairseq_plugins" / "configs" / "pretraining"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
SHRINK = [
    "model.d_model=32", "model.ffn_dim=64", "model.num_heads=2", "model.head_dim=16", "model.encoder_layers=1",
    "model.decoder_layers=1", "task.tokens_per_sample=32", "dataset.batch_size=4", "dataset.num_workers=0",
    "common.cpu=true", "optimization.max_update=2", "checkpoint.no_save=true", "lr_scheduler.warmup_updates=1",
]  # fmt: skip


def composed(name: str, overrides: list[str]) -> DictConfig:
    """What fairseq-hydra-train hands to training."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init

    import fairseq_plugins  # noqa: F401

    hydra_init(name)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.1"):
        config = compose(name, overrides=[f"++{override}" for override in overrides])
    with open_dict(config):
        add_defaults(config)
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    made = OmegaConf.create(plain)
    OmegaConf.set_struct(made, True)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_config_trains_two_steps(
    name: str, token_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq_cli.train import main

    monkeypatch.chdir(CONFIGS.parents[2])
    overrides = [*SHRINK, f"task.data={token_directory}", f"checkpoint.save_dir={tmp_path}"]
    config = composed(name, [*overrides, "common.bf16=false", "lr_scheduler.total_num_update=10"])
    before = OmegaConf.to_yaml(config.model)
    main(config)
    assert OmegaConf.to_yaml(config.model) == before  # nothing mutates the trainer's config


@pytest.mark.parametrize("preset", ["base", "base_pp", "large_pp"])
def test_config_holds_the_papers_hyperparameters(preset: str, spec_dir: Path) -> None:
    facts: dict[str, Any] = json.loads((spec_dir / "metro_presets.json").read_text())["pretraining"]
    everywhere, own = facts["all"], facts[preset]
    config = composed(f"metro_t5_{preset}", ["task.data=nowhere"])
    assert config.optimization.lr == [own["peak_lr"]]
    assert config.optimization.clip_norm == own["clip_norm"]
    assert config.optimization.max_update == config.lr_scheduler.total_num_update == own["total_steps"]
    assert config.lr_scheduler.warmup_updates == own["warmup_steps"]
    assert config.dataset.batch_size * config.optimization.update_freq[0] * 64 == own["batch_sequences"]
    assert config.task.tokens_per_sample == own["tokens_per_sample"]
    assert config.optimizer.adam_eps == everywhere["adam_eps"]
    assert config.optimizer.adam_betas == "(0.9,0.98)"
    assert config.optimizer.weight_decay == everywhere["weight_decay"]
    assert config.task.mask_ratio == everywhere["mask_ratio"]
    assert config.task.sample_break_mode == everywhere["sample_break_mode"]
    weights = {name: everywhere[f"lambda_{name}"] for name in ("mlm", "rtd", "clm")}
    assert {name: config.criterion[f"{name}_weight"] for name in weights} == weights
