"""Every shipped config composes, holds the paper's figures, builds and trains two steps (shrunk by overrides)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from metro_t0 import launch
from metro_t0.errors import UserError
from metro_t0.launch import DEFAULTS, config_directory, find_config, shipped_configs, train_command

SHRINK = [
    "model.d_model=32", "model.ffn_dim=64", "model.num_heads=2", "model.head_dim=16", "model.encoder_layers=1",
    "model.decoder_layers=1", "dataset.num_workers=0", "common.cpu=true", "common.bf16=false", "common.fp16=false",
    "optimization.max_update=2", "model.compile_layers=false", "optimization.update_freq=[1]",
    "checkpoint.no_save=true", "lr_scheduler.warmup_updates=1",
]  # fmt: skip
OF_GROUP = {
    "pretraining": ["task.tokens_per_sample=32", "dataset.batch_size=4", "lr_scheduler.total_num_update=10"],
    "finetuning": ["task.tokens_per_sample=32", "dataset.max_tokens=256", "lr_scheduler.total_num_update=10"],
    "synthetic": ["dataset.batch_size=4"],
}


def composed(config: str, overrides: list[str]) -> DictConfig:
    """What fairseq-hydra-train hands to training, with the overrides that metro-t0-train adds."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init

    import fairseq_plugins  # noqa: F401

    directory, name = find_config(config)
    added = [part for part in train_command(config, ["--cfg"]) if "=" in part]
    hydra_init(DEFAULTS)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory), version_base="1.1"):
        made = compose(name, overrides=[*added, *(f"++{override}" for override in overrides)])
    with open_dict(made):
        add_defaults(made)
    plain = OmegaConf.to_container(made, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    made = OmegaConf.create(plain)
    OmegaConf.set_struct(made, True)
    return made


@pytest.fixture(scope="module")
def pairs_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources and targets of prompt_finetuning as plain lines."""
    from metro_t0.tokenization.training import BpeSettings, train_bpe

    directory = tmp_path_factory.mktemp("pairs")
    words = Counter({f"word{number}": 1 + number for number in range(30)})
    train_bpe(words, BpeSettings(vocab_size=48, lowercase=True), directory)
    rows = [{"source": f"word{number} word{number + 1}", "target": f"word{number}"} for number in range(24)]
    for split in ("train", "valid"):
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def own_overrides(config: str, tokens: Path, pairs: Path) -> list[str]:
    """What a user must say, and what makes a published size small."""
    group, _, name = config.partition("/")
    if group == "pretraining":
        data = [f"task.data={tokens}"]
    elif group == "synthetic" and not name.startswith("finetune"):
        data = ["task.tasks=set", "task.epoch_examples=16", "task.valid_examples=4"]
    else:
        data = [f"task.data={pairs}"]
    return [*SHRINK, *OF_GROUP[group], *data]


@pytest.mark.parametrize("config", shipped_configs())
def test_config_trains_two_steps(
    config: str, token_directory: Path, pairs_directory: Path, tmp_path: Path, train_main: Callable[[DictConfig], int]
) -> None:
    overrides = [*own_overrides(config, token_directory, pairs_directory), f"checkpoint.save_dir={tmp_path}"]
    made = composed(config, overrides)
    before = OmegaConf.to_yaml(made.model)
    assert train_main(made) == 2
    assert OmegaConf.to_yaml(made.model) == before  # nothing mutates the trainer's config


def test_every_file_is_a_config_that_is_listed() -> None:
    """Files that begin with an underscore are parts of others."""
    files = {path.relative_to(config_directory()).with_suffix("") for path in config_directory().rglob("[!_]*.yaml")}
    assert {str(file) for file in files} >= set(shipped_configs())
    assert len(shipped_configs()) >= 18


def test_an_own_file_changes_only_what_it_says(tmp_path: Path) -> None:
    """Not even back to fairseq's defaults, which go below everything."""
    own = tmp_path / "mine.yaml"
    own.write_text("defaults: [/pretraining/metro_t5_base_pp@_global_, _self_]\noptimization: {max_update: 7}\n")
    shipped = composed("metro_t5_base_pp", ["task.data=nowhere"])
    mine = composed(str(own), ["task.data=nowhere"])
    assert mine.optimization.max_update == 7
    shipped.optimization.max_update = shipped.criterion.max_update = 7  # the criterion reads it from there
    assert mine == shipped


def test_an_own_file_ends_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("defaults: [/pretraining/metro_t5_demo@_global_, _self_]\n")
    with pytest.raises(UserError, match=r"mine.yml: call it mine.yaml"):
        find_config(str(tmp_path / "mine.yml"))


def test_the_plugin_may_lie_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's overrides have a grammar of their own."""
    place = tmp_path / "it's {one} [copy] (2), b \\"
    place.symlink_to(launch.plugin_directory())
    monkeypatch.setattr(launch, "plugin_directory", lambda: place)
    made = composed("metro_t5_demo", ["task.data=nowhere"])
    assert made.common.user_dir == str(place)
    assert made.model._name == "metro_t5_demo"


@pytest.fixture
def train_main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[DictConfig], int]:
    """fairseq's training, from an unrelated folder; gives the updates that it made."""
    from fairseq import checkpoint_utils
    from fairseq_cli import train

    monkeypatch.chdir(tmp_path)

    def run(config: DictConfig) -> int:
        trainers: list[Any] = []
        original = checkpoint_utils.load_checkpoint

        def seen(cfg: Any, trainer: Any, **settings: Any) -> Any:
            trainers.append(trainer)
            return original(cfg, trainer, **settings)

        monkeypatch.setattr(checkpoint_utils, "load_checkpoint", seen)
        train.main(config)
        return int(trainers[0].get_num_updates())

    return run


@pytest.mark.parametrize("preset", ["base", "base_pp", "large_pp"])
def test_config_holds_the_papers_hyperparameters(preset: str, spec_dir: Path) -> None:
    facts: dict[str, Any] = json.loads((spec_dir / "metro_presets.json").read_text())["pretraining"]
    everywhere, own = facts["all"], facts[preset]
    config = composed(f"pretraining/metro_t5_{preset}", ["task.data=nowhere"])
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
