"""What a run may start from, and the one line that says no: foreign checkpoints, directories, divergence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import start, statuses

from fairseq_plugins import run as runs
from metro_t0.hf.checkpoints import read_checkpoint
from metro_t0.hf.export import from_main_state
from metro_t0.modeling import MetroT5

Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, token_directory: Path, common_options: str) -> Path:
    """A run of three updates with a checkpoint after every one."""
    directory = tmp_path_factory.mktemp("pretrained")
    more = f"--max-update 3 --save-interval-updates 1 --save-dir {directory}"
    arguments = [str(token_directory), "--task", "metro_pretraining", *common_options.split(), *more.split()]
    assert statuses(start(1, arguments)) == [0]
    return directory


@pytest.fixture
def refused(train: Train, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that a run ends with."""

    def line(options: str, **settings: Any) -> str:
        with pytest.raises(SystemExit) as exit_:
            train(options, **settings)
        assert exit_.value.code == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("metro-t0: error:")]
        assert len(errors) == 1
        return errors[0]

    return line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--tokens-per-sample 30", "--tokens-per-sample (32 there, 30 here)"),
        ("--ffn-dim 48", "--ffn-dim (64 there, 48 here)"),
        ("--arch metro_t5_tiny", "--arch (metro_t5_demo there, metro_t5_tiny here)"),
        ("--rtd-weight 5", "--rtd-weight (50.0 there, 5.0 here)"),
        ("--mask-ratio 0.2", "--mask-ratio (0.15 there, 0.2 here)"),
        ("--lr 0.002", "--lr (0.001 there, 0.002 here)"),
        ("--seed 2", "--seed (1 there, 2 here)"),
        ("--optimizer adam", "--optimizer (fused_adamw there, adam here)"),
        ("--adam-betas (0.9,0.98)", "--adam-betas ("),
        ("--bf16", "--bf16 (False there, True here)"),
        ("--warmup-updates 10", "--warmup-updates (0 there, 10 here)"),
    ],
)
def test_a_foreign_checkpoint_is_refused_by_the_options_that_differ(
    options: str, named: str, pretrained: Path, refused: Callable[..., str]
) -> None:
    error = refused(f"--save-dir {pretrained} --max-update 4 {options}")
    assert f"{pretrained}/checkpoint_last.pt was trained with other options: " in error
    assert named in error
    assert error.count(" here)") == 1 or "--arch" in error  # another preset has other defaults, too


@pytest.mark.parametrize(
    "options",
    [
        "--max-update 4 --batch-size 2 --update-freq 2 --num-workers 1 --activation-checkpointing",
        "--max-update 4 --lr 0.002 --reset-lr-scheduler",
        "--max-update 1 --rtd-weight 5 --reset-optimizer",
        "--max-update 4 --mask-ratio 0.2 --reset-dataloader",
        "--max-update 4 --dropout 0.3 --accept-changed-options",
    ],
)
def test_what_is_no_difference_or_is_meant_trains_on(
    options: str, train: Train, pretrained: Path, tmp_path: Path
) -> None:
    shutil.copyfile(pretrained / "checkpoint_last.pt", tmp_path / "checkpoint_last.pt")
    assert len(train(f"--save-dir {tmp_path} {options}")) == 1


Edit = Callable[[Callable[[dict[str, Any]], Any]], Path]


@pytest.fixture
def edited(pretrained: Path, tmp_path: Path) -> Edit:
    """`edited(change)`: the checkpoint of three updates after a change, as the last one of another run."""

    def write(change: Callable[[dict[str, Any]], Any]) -> Path:
        state = torch.load(pretrained / "checkpoint_last.pt", weights_only=True)
        change(state)
        torch.save(state, tmp_path / "checkpoint_last.pt")
        return tmp_path

    return write


def test_a_checkpoint_without_optimizer_does_not_begin_again(
    train: Train, refused: Callable[..., str], edited: Edit
) -> None:
    directory = edited(lambda state: state.pop("last_optimizer_state"))
    error = refused(f"--save-dir {directory} --max-update 4")
    assert "the checkpoint of 3 updates has no optimizer state (--no-save-optimizer-state)" in error
    assert train(f"--save-dir {directory} --max-update 3") == []  # it is finished


def test_a_checkpoint_without_a_place_in_the_data_is_refused(refused: Callable[..., str], edited: Edit) -> None:
    """As fairseq's crash.pt. It would go on in an epoch 0, whose masks are those of validation and never change."""
    directory = edited(lambda state: state["extra_state"].pop("train_iterator"))
    assert "does not say where in the data it was" in refused(f"--save-dir {directory} --max-update 4")


def test_the_hours_of_a_pretrained_model_are_not_those_of_a_run(train: Train, edited: Edit, tmp_path: Path) -> None:
    model = edited(lambda state: state["extra_state"].update(previous_training_time=1e6)) / "checkpoint_last.pt"
    given = f"--save-dir {tmp_path / 'run'} --max-update 1 --stop-time-hours 2 --finetune-from-model {model}"
    assert len(train(given)) == 1


def test_the_best_value_of_another_metric_is_forgotten(train: Train, edited: Edit) -> None:
    directory = edited(lambda state: state["extra_state"].update(best=50.0))
    given = f"--save-dir {directory} --max-update 4 --best-checkpoint-metric rtd_auc --maximize-best-checkpoint-metric"
    train(given, log="valid")
    best = torch.load(directory / "checkpoint_best.pt", weights_only=True)
    assert 0 < best["extra_state"]["best"] <= 1


def test_patience_begins_again_where_the_best_value_does(train: Train, edited: Edit) -> None:
    def waited(state: dict[str, Any]) -> None:
        state["extra_state"]["MetroPretrainingTask"].update(best=0.0, num_runs=2)

    given = f"--save-dir {edited(waited)} --max-update 4 --patience 2"
    assert train(given) == []
    assert len(train(f"{given} --reset-meters")) == 1


def test_progress_that_restore_file_leaves_behind_is_named(
    train: Train, pretrained: Path, edited: Edit, capfd: pytest.CaptureFixture[str]
) -> None:
    model, directory = pretrained / "checkpoint_last.pt", edited(lambda state: None)
    train(f"--save-dir {directory} --max-update 3 --restore-file {model}")
    assert f"--restore-file starts from {model} again and will replace {directory}" in capfd.readouterr().err


def test_what_is_trained_on_is_not_validated_on(refused: Callable[..., str], tmp_path: Path) -> None:
    error = refused(f"--save-dir {tmp_path} --max-update 1 --valid-subset valid,train", log="valid")
    assert "--valid-subset valid,train names what is trained on (--train-subset)" in error


def test_data_may_move(train: Train, token_directory: Path, pretrained: Path, tmp_path: Path) -> None:
    shutil.copyfile(pretrained / "checkpoint_last.pt", tmp_path / "checkpoint_last.pt")
    shutil.copytree(token_directory, tmp_path / "moved")
    assert len(train(f"--save-dir {tmp_path} --max-update 4", data=tmp_path / "moved")) == 1


def test_other_data_are_named(
    token_directory: Path, pretrained: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    shutil.copytree(token_directory, tmp_path / "other")
    shutil.copyfile(tmp_path / "other" / "valid.bin", tmp_path / "other" / "more.bin")
    error = refused(f"--save-dir {pretrained} --max-update 4", data=tmp_path / "other")
    assert f" data ({token_directory} there, {tmp_path / 'other'} here)" in error


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory, pretrained: Path, token_directory: Path) -> Path:
    """The pretrained model as Hugging Face saves it."""
    directory = tmp_path_factory.mktemp("model")
    checkpoint = read_checkpoint(pretrained / "checkpoint_last.pt")
    from_main_state(checkpoint.config, checkpoint.main_tensors()).save_pretrained(directory)
    shutil.copyfile(token_directory / "dict.txt", directory / "dict.txt")
    return directory


@pytest.mark.parametrize("option", ["--finetune-from-model", "--restore-file"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_hugging_face_directory_is_trained_from(
    option: str,
    processes: int,
    model_directory: Path,
    pretrained: Path,
    token_directory: Path,
    common_options: str,
    tmp_path: Path,
) -> None:
    more = f"--task t5_pretraining --save-dir {tmp_path} --max-update 1 --lr 1e-12 {option} {model_directory}"
    given = [str(token_directory), *common_options.split(), *more.split()]
    assert statuses(start(processes, given)) == [0] * processes
    before, after = (read_checkpoint(path / "checkpoint_last.pt").main_tensors() for path in (pretrained, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("option", ["--finetune-from-model", "--restore-file"])
def test_what_is_no_checkpoint_is_refused_before_anything_is_read(
    option: str, refused: Callable[..., str], token_directory: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.pt").write_text("not a checkpoint")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    for name, words in {
        "": "a directory without config.json; give a checkpoint file (.pt) or a Hugging Face directory",
        "nowhere.pt": "no such file or directory",
        "notes.pt": "not a checkpoint that torch saved",
        "other.pt": "not a checkpoint of fairseq (no field model)",
    }.items():
        error = refused(f"--save-dir {tmp_path / 'run'} --max-update 1 {option} {tmp_path / name}", data="nowhere")
        assert words in error
        assert str(tmp_path / name) in error


@pytest.mark.parametrize("saved", [True, False])
def test_divergence_is_one_line(saved: bool, refused: Callable[..., str], tmp_path: Path) -> None:
    often = "--save-interval-updates 1" if saved else ""
    error = refused(
        f"--save-dir {tmp_path} --max-update 50 --lr 1e3 --lr-scheduler inverse_sqrt --warmup-updates 5 {often}"
    )
    assert "training diverged at update " in error
    assert "; first the " in error
    good = "the last good checkpoint is " if saved else "has no checkpoint from before"
    assert good in error
    assert "lower --lr (" in error
    if saved:
        path = Path(error.split(good)[1].split(";")[0])
        assert all(torch.isfinite(tensor.float()).all() for tensor in torch.load(path)["model"].values())


def test_what_does_not_fit_into_memory_is_said(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forward(self: Any, batch: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(MetroT5, "forward", forward)
    remedy = "out of memory with 4 rows at a time; lower --batch-size or --max-tokens"
    assert f"10 updates in a row: {remedy}" in refused(f"--save-dir {tmp_path} --max-update 50")
    warnings = [record.getMessage() for record in caplog.records if record.name == "fairseq_plugins.divergence"]
    assert len(warnings) == 9
    assert all(warning.startswith(f"skipped: {remedy}") for warning in warnings)


def test_a_validation_that_does_not_fit_into_memory_is_said(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = MetroT5.forward

    def forward(self: Any, batch: Any) -> Any:
        if self.training:
            return trained(self, batch)
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(MetroT5, "forward", forward)
    error = refused(f"--save-dir {tmp_path} --max-update 1 --batch-size-valid 3", log="valid")
    assert "validation: out of memory with 3 rows at a time; lower --batch-size-valid or --max-tokens-valid" in error


def test_an_unknown_metric_of_the_best_checkpoint_loses_nothing(refused: Callable[..., str], tmp_path: Path) -> None:
    error = refused(f"--save-dir {tmp_path} --max-update 1 --best-checkpoint-metric rtd_acu", log="valid")
    assert "--best-checkpoint-metric rtd_acu: validation has no such number" in error
    assert "rtd_auc" in error
    assert (tmp_path / "checkpoint_last.pt").is_file()


def test_save_dir_that_is_a_file(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"--save-dir {tmp_path / 'file'}: is not a directory" in refused(f"--save-dir {tmp_path / 'file'}")


def test_options_are_named_as_the_user_writes_them() -> None:
    cfg = {"model": {"rtd": "none", "max_positions": 3}, "task": {"mask_ratio": 1}, "optimization": {"lr": [1]}}
    from omegaconf import OmegaConf

    before = runs.current
    message = "mask_ratio is 2; model field rtd is x: raise --max-positions, or --mask-ratio=3; see a_b/mask_ratio.txt"
    try:
        runs.current = runs.Run(OmegaConf.create(cfg), by_keys=True)
        assert runs.in_the_users_words(message) == (
            "task.mask_ratio is 2; model.rtd is x: raise model.max_positions, or task.mask_ratio=3; "
            "see a_b/mask_ratio.txt"
        )
        runs.current = runs.Run(OmegaConf.create(cfg), by_keys=False)
        assert runs.in_the_users_words(message) == (
            "--mask-ratio is 2; --rtd is x: raise --max-positions, or --mask-ratio=3; see a_b/mask_ratio.txt"
        )
    finally:
        runs.current = before
