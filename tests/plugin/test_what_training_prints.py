"""The console has one line per interval, the run's log file all the rest; a multirun keeps its jobs apart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.data import iterators
from omegaconf import OmegaConf

from fairseq_plugins import run as runs
from fairseq_plugins.bars import Progress, duration
from fairseq_plugins.console import CONSOLE, ONLY
from fairseq_plugins.utilization import measure_peak
from metro_t0.analysis.training_log import read_log

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = (
    "++model.d_model=32 ++model.ffn_dim=64 ++model.num_heads=2 ++model.head_dim=16 ++model.encoder_layers=1 "
    "++model.decoder_layers=1 ++task.tokens_per_sample=32 ++dataset.batch_size=4 ++dataset.num_workers=0 "
    "++common.cpu=true ++common.bf16=false ++optimization.max_update=4 ++common.log_interval=2 "
    "++dataset.validate_interval_updates=4 ++lr_scheduler.warmup_updates=1"
)
LINE = re.compile(
    r"^update (\d) of 4  +[\d.]+%  mlm +\d+\.\d{4}  rtd +\d+\.\d{4}  clm +\d+\.\d{4} +[\d,]+ tokens/s  MFU +[\d.]+% "
    r" +\d\d:\d\d:\d\d left$",
    flags=re.MULTILINE,
)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, token_directory: Path) -> tuple[Path, str]:
    """Where a multirun of two learning rates was saved, and what it printed."""
    root = tmp_path_factory.mktemp("multirun")
    command = [
        sys.executable, "-c", "import sys; from metro_t0.launch import main; sys.exit(main())", "metro_t5_base",
        f"task.data={token_directory}", f"checkpoint.save_dir={root / 'run'}",
        f"++common.tensorboard_logdir={root / 'events'}", *SMALL.split(), "optimization.lr=[0.001],[0.1]", "-m",
    ]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return root, done.stdout


def test_the_last_update_of_a_resumed_epoch_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of 12 batches, 4 in an update; it goes on after 4 batches, the fourth update, in the second of two."""
    cfg = OmegaConf.create({"optimization": {"max_update": 0, "max_epoch": 2}, "common": {"log_interval": 1}})
    trainer = SimpleNamespace(get_num_updates=lambda: 4)
    monkeypatch.setattr(runs, "current", runs.Run(cfg, by_keys=False, trainer=trainer))
    batches = iterators.GroupedIterator(iterators.CountingIterator(range(8), start=4), 4)
    assert Progress(batches, epoch=2).total == 6


def test_every_job_of_a_multirun_has_its_own_directory(jobs: tuple[Path, str]) -> None:
    root, _ = jobs
    for number, lr in enumerate((0.001, 0.1)):
        state = torch.load(root / "run" / str(number) / "checkpoint_last.pt", weights_only=True)
        assert state["optimizer_history"][-1]["num_updates"] == 4
        assert state["cfg"]["optimization"]["lr"] == [lr]
        best = torch.load(root / "run" / str(number) / "checkpoint_best.pt", weights_only=True)["extra_state"]["best"]
        assert best == state["extra_state"]["val_loss"]  # not that of the job before
        assert list((root / "events" / str(number) / "train_inner").glob("events*"))


def test_the_console_has_one_line_per_interval(jobs: tuple[Path, str]) -> None:
    _, printed = jobs
    assert [found[1] for found in LINE.finditer(printed)] == ["2", "4", "2", "4"]
    assert max(map(len, printed.splitlines())) < 1500  # hydra names the overrides of a job
    for noise in ("'_name': None", "MetroT5Base", "UserWarning", "{"):
        assert noise not in "\n".join(line for line in printed.splitlines() if "[HYDRA]" not in line)


def test_the_log_file_has_configuration_warnings_and_numbers(jobs: tuple[Path, str]) -> None:
    directory = jobs[0] / "run" / "1"
    log = (directory / "train.log").read_text()
    for text in ("'lr': [0.1]", "MetroT5Base", "peak of one device"):
        assert text in log
    assert "'lr': [0.001]" not in log
    records = read_log(directory)
    assert [(r["split"], r["updates"]) for r in records] == [("train", 2), ("train", 4), ("valid", 4)]
    assert {"mlm_loss", "rtd_loss", "clm_loss", "wps", "mfu", "of", "percent"} <= records[1].keys()
    assert records[1]["percent"] == 100.0


def test_what_was_printed_can_be_plotted(jobs: tuple[Path, str], tmp_path: Path) -> None:
    printed = tmp_path / "printed.log"
    printed.write_text(jobs[1].partition("#1 :")[2])
    expected = {(r["split"], r["updates"]): r["clm_loss"] for r in read_log(jobs[0] / "run" / "1")}
    assert {(r["split"], r["updates"]): r["clm_loss"] for r in read_log(printed)} == pytest.approx(expected, abs=1e-3)


def test_quiet_prints_validations_alone_and_records_everything(
    train: Callable[..., list[dict[str, Any]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """metro-t0-train -q: no line per interval."""
    command = "import os, sys; os.execv = lambda _, line: print(*line); from metro_t0.launch import main; main()"
    line = [sys.executable, "-c", command, "metro_t5_base", "task.data=data-bin", "-q"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" common.log_format=none task.data=data-bin\n")
    records = train(f"--save-dir {tmp_path} --no-save --max-update 2 --log-format none", log="valid")
    assert [record["valid_num_updates"] for record in records] == ["2"]
    printed = [record.getMessage() for record in caplog.records if getattr(record, ONLY, None) == CONSOLE]
    assert [line[:17] for line in printed] == ["valid  at 2  mlm "]


def test_utilization_is_of_the_given_peak(train: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    records = train(f"--save-dir {tmp_path} --no-save --max-update 3 --peak-tflops 1e-6")
    assert float(records[-1]["mfu"]) > 100  # of a million operations per second
    assert runs.current is not None


def test_a_peak_is_measured() -> None:
    assert measure_peak(torch.device("cpu"), torch.float32) > 1e8


def test_time_left_has_one_width() -> None:
    assert {len(duration(seconds)) for seconds in (1, 4000, 90_000, 9 * 86_400)} == {len("3 d 04:05:06 left") + 2}
