"""What is logged later is what would have been logged at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq.trainer import Trainer

import fairseq_plugins  # noqa: F401
from fairseq_plugins import deferred_logs

Train = Callable[..., list[dict[str, Any]]]
OF_TIME = {"wps", "ups", "train_wall", "wall", "mfu", "seconds_left"}


def test_every_number_is_the_same(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--max-update 8 --log-interval 3 --clip-norm 1.0"  # epochs of 6 updates
    at_once = train(f"--save-dir {tmp_path / 'at_once'} {options}")
    calls = []
    monkeypatch.setattr(deferred_logs, "defers", lambda trainer: True)
    reduce = deferred_logs.on_host
    monkeypatch.setattr(deferred_logs, "on_host", lambda waiting: calls.append(len(waiting)) or reduce(waiting))
    later = train(f"--save-dir {tmp_path / 'later'} {options}")
    assert len(at_once) == len(later) == 2
    for one, two in zip(at_once, later, strict=True):
        assert {k: v for k, v in one.items() if k not in OF_TIME} == {k: v for k, v in two.items() if k not in OF_TIME}
    assert max(calls) == 3
    assert all(0 < float(record["ups"]) < 1000 for record in later)
    assert sum(calls) == 8
    meters = [torch.load(tmp_path / run / "checkpoint_last.pt", weights_only=False) for run in ("at_once", "later")]
    states = [{name: state for _, name, _, state in made["extra_state"]["metrics"]["train"]} for made in meters]
    for name in ("loss", "gnorm", "clip", "clm_loss"):
        assert states[0][name] == states[1][name]


def test_a_run_that_broke_off_logs_nothing_in_the_next(train: Train, tmp_path: Path) -> None:
    class BrokenOff:
        waiting_logs = (([{"loss": torch.tensor(1e9)}], 1, torch.tensor(1.0)),)

        def get_num_updates(self) -> int:
            return 1

    deferred_logs._trainers[:] = [BrokenOff()]
    assert float(train(f"--save-dir {tmp_path} --max-update 2 --log-interval 2")[0]["loss"]) < 1000


def test_all_numbers_come_over_at_once() -> None:
    waiting = [([{"a": torch.tensor(2.5), "b": 3}], 4.0, torch.tensor(7, dtype=torch.int64))]
    ((logs,), size, norm) = deferred_logs.on_host(waiting)[0]
    assert (logs, size, norm) == ({"a": 2.5, "b": 3}, 4.0, 7)
    assert norm.dtype == torch.int64
    assert deferred_logs.on_host([]) == []


def test_batches_of_validation_come_over_when_it_ends(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--max-update 1 --no-save --batch-size-valid 2"
    at_once = train(f"--save-dir {tmp_path} {options}", log="valid")
    calls = []
    monkeypatch.setattr(deferred_logs, "defers", lambda trainer: True)
    reduce = deferred_logs.on_host
    monkeypatch.setattr(deferred_logs, "on_host", lambda waiting: calls.append(len(waiting)) or reduce(waiting))
    later = train(f"--save-dir {tmp_path} {options}", log="valid")
    for records in (at_once, later):
        for name in OF_TIME:
            records[0].pop(f"valid_{name}", None)
    assert at_once == later
    assert "valid_rtd_auc" in later[0]
    assert max(calls) > 1


def test_cpus_log_at_once() -> None:
    assert getattr(Trainer._reduce_and_log_stats, "patched", False)
    assert not deferred_logs.defers(type("Cpu", (), {"cuda": False})())
