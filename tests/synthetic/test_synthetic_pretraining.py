"""The fairseq task: batches, dictionaries, the choice of a checkpoint, a run that is stopped and resumed."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch

from metro_t0.launch import compose_config, find_config, shipped_configs

pytest.importorskip("fairseq")

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = (
    "--user-dir fairseq_plugins --task synthetic_pretraining --criterion prompt_cross_entropy --arch t5_tiny "
    "--d-model 32 --ffn-dim 64 --num-heads 2 --head-dim 16 --encoder-layers 1 --decoder-layers 1 --length-min 2 "
    "--length-max 6 --valid-examples 64 --optimizer t5_adafactor --lr 0.01 --lr-scheduler inverse_sqrt "
    "--warmup-updates 10000 --warmup-init-lr 0.01 --cpu --num-workers 0 --batch-size 8 --seed 1 --log-format json "
    "--log-interval 1 --required-batch-size-multiple 1 --best-checkpoint-metric selection "
    "--maximize-best-checkpoint-metric --dropout 0.1"
)


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.found = []

    def emit(self, record):
        if record.name in ("train_inner", "valid"):
            self.found.append(json.loads(record.getMessage()))


@pytest.fixture
def train(monkeypatch):
    from fairseq import checkpoint_utils
    from fairseq_cli.train import cli_main

    monkeypatch.chdir(REPOSITORY)

    def run(*options):
        for name in ("best", "checkpoints"):
            if hasattr(checkpoint_utils.save_checkpoint, name):
                delattr(checkpoint_utils.save_checkpoint, name)
        handler = Records()
        loggers = [logging.getLogger(name) for name in ("train_inner", "valid")]
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
        monkeypatch.setattr(sys, "argv", ["fairseq-train", *OPTIONS.split(), *map(str, options)])
        try:
            cli_main()
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
        return handler.found

    return run


def setup_task(tmp_path, **settings):
    import fairseq_plugins  # noqa: F401
    from fairseq_plugins.tasks.synthetic_pretraining import SyntheticPretrainingConfig, SyntheticPretrainingTask

    defaults = {"tasks": "set", "vocabulary": "compact:50", "seed": 1, "save_dir": str(tmp_path), "length_max": 20}
    config = SyntheticPretrainingConfig(**{**defaults, **settings})
    return SyntheticPretrainingTask.setup_task(config)


def test_t5_ids_and_batches(tmp_path):
    task = setup_task(tmp_path, vocabulary="t5", epoch_examples=100, valid_examples=10)
    dictionary = task.dictionary
    assert (dictionary.pad(), dictionary.eos(), len(dictionary)) == (0, 1, 32_128)
    task.load_dataset("train", epoch=1)
    data = task.datasets["train"]
    assert len(data) == 100
    batch = data.collater([data[i] for i in range(4)])
    target = batch["target"]
    decoder_input = batch["net_input"]["prev_output_tokens"]
    assert torch.all(decoder_input[:, 0] == 0)
    for row in range(4):
        length = int((target[row] != 0).sum())
        assert target[row, length - 1] == 1
        assert torch.equal(decoder_input[row, 1:length], target[row, : length - 1])
        source = batch["net_input"]["src_tokens"][row]
        assert source[:2].tolist() == [356, 32_099]
        assert source[source != 0][-1] == 1


def test_epochs_go_on_in_the_stream(tmp_path):
    task = setup_task(tmp_path, epoch_examples=100)
    task.load_dataset("train", epoch=1)
    first = [task.datasets["train"][i]["source"].tolist() for i in range(100)]
    task.datasets["train"].set_epoch(2)
    second = [task.datasets["train"][i]["source"].tolist() for i in range(100)]
    stream = task.mixture.block("train", 0)
    assert first + second == [[*source.tolist(), 2] for source in list(stream.sources)[:200]]
    assert task.datasets["train"].collater([task.datasets["train"][0]])["net_input"]["src_tokens"][0, 0] == 0


def test_selection_prefers_the_first_validation_at_the_target():
    from fairseq_plugins.tasks.synthetic_pretraining import selection_score

    validations = [(500, 97.0), (1000, 98.9), (1500, 99.1), (2000, 99.9), (2500, 98.0)]
    scores = {updates: selection_score(accuracy, 99.0, updates) for updates, accuracy in validations}
    assert max(scores, key=scores.get) == 1500
    del scores[1500], scores[2000]
    assert max(scores, key=scores.get) == 1000


def test_a_resumed_run_is_the_run_without_a_stop(train, tmp_path):
    common = ["--tasks", "identity,set", "--vocabulary", "compact:30", "--no-epoch-checkpoints", "--epoch-examples", 40]
    common += ["--validate-interval-updates", 4, "--save-interval-updates", 4, "--keep-interval-updates", 1]
    whole = train(*common, "--save-dir", tmp_path / "whole", "--max-update", 8)
    train(*common, "--save-dir", tmp_path / "cut", "--max-update", 4)
    rest = train(*common, "--save-dir", tmp_path / "cut", "--max-update", 8)
    losses = [record["loss"] for record in whole if "loss" in record]
    assert [record["loss"] for record in rest if "loss" in record] == losses[-4:]
    validations = [record for record in whole if "valid_selection" in record]
    assert all(abs(float(r["valid_selection"]) - float(r["valid_accuracy"])) < 0.01 for r in validations)


def test_starts_from_statistics(train, tmp_path, capsys):
    from fairseq import checkpoint_utils

    from metro_t0.hf.checkpoints import read_checkpoint
    from metro_t0.synthetic.cli import main

    common = ["--tasks", "identity", "--vocabulary", "compact:30", "--no-epoch-checkpoints"]
    train(*common, "--save-dir", tmp_path / "first", "--max-update", 6)
    checkpoint = tmp_path / "first" / "checkpoint_last.pt"
    statistics = tmp_path / "s.json"
    assert main(["init-stats", str(checkpoint), "--scheme", "per_param_mean_sd", "--output", str(statistics)]) == 0
    more = [
        "--init-from",
        statistics,
        "--save-dir",
        tmp_path / "second",
        "--max-update",
        1,
        "--lr",
        0,
        "--warmup-init-lr",
        0,
    ]
    train(*common, *more)
    start = read_checkpoint(tmp_path / "second" / "checkpoint_last.pt").tensors["main.decoder.last_norm.weight"]
    group = json.loads(statistics.read_text())["groups"]["decoder.final_norm"]
    assert not torch.all(start == 1)
    assert abs(float(start.mean()) - group["mean"]) < 5 * group["sd"] / len(start) ** 0.5
    gone = statistics.rename(tmp_path / "moved.json")  # the checkpoint has all weights
    train(*common, *more, "--max-update", 2)
    models, *_ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "second" / "checkpoint_last.pt")])
    assert torch.allclose(models[0].metro.main.decoder.last_norm.weight, start, atol=1e-6)
    gone.rename(statistics)
    with pytest.raises(SystemExit):
        train(*common, "--init-from", statistics, "--save-dir", tmp_path / "both", "--finetune-from-model", checkpoint)
    assert "--finetune-from-model and --init-from say two things" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        train(*common, "--init-from", statistics, "--save-dir", tmp_path / "third", "--encoder-layers", 2)
    assert ended.value.code == 2
    assert "another architecture" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in shipped_configs() if name.startswith("synthetic/")])
def test_z_loss_of_the_recipes(name):
    """Wu et al. 2022: 1e-4 in fine-tuning, none in pretraining."""
    criterion = compose_config(*find_config(name)).criterion
    assert criterion.z_loss == (1e-4 if name.startswith("synthetic/finetune_") else 0.0)
