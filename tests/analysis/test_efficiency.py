"""Score against cost: numbers read from logs and result directories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metro_t0.analysis.cli import main
from metro_t0.analysis.efficiency import cost_at, read_runs
from metro_t0.errors import UserError

LOG = [
    {"split": "train", "updates": 100, "wall": 3600.0, "wpb": 10.0},
    {"split": "valid", "updates": 100},
    {"split": "train", "updates": 300, "wall": 10800.0, "wpb": 20.0},
]


@pytest.mark.parametrize(
    ("updates", "hours", "tokens"), [(100, 1.0, 1000), (50, 0.5, 500), (300, 3.0, 5000), (200, 2.0, 3000)]
)
def test_costs_add_up_over_the_intervals(updates: int, hours: float, tokens: float) -> None:
    assert cost_at(LOG, updates) == pytest.approx((hours, tokens))


def test_a_restart_loses_no_hours() -> None:
    """fairseq logs a `wall` of 0 after a restart within an epoch."""
    walls = [(100, 1800.0), (200, 3600.0), (300, 0.0), (400, 0.0)]
    log = [{"split": "train", "updates": u, "wall": w, "wpb": 36.0, "wps": 2.0} for u, w in walls]
    assert cost_at(log, 400) == pytest.approx((2.0, 14400))
    assert cost_at(log, 250) == pytest.approx((1.25, 9000))
    log[0]["wps"] = 0.0
    assert cost_at(log, 400) == pytest.approx((2.0, 14400))


def test_a_checkpoint_beyond_the_log_is_an_error() -> None:
    with pytest.raises(UserError, match="ends at update 300"):
        cost_at(LOG, 301)


def write_runs(directory: Path, label: str = "mean over 11", last_task: str = "rte") -> Path:
    lines = [json.dumps({"num_updates": str(u), "wall": str(60 * u), "wpb": "8", "loss": "3"}) for u in (10, 20, 30)]
    (directory / "train.log").write_text("\n".join(lines))
    for number, score in ((10, 0.4), (30, 0.5)):
        (directory / f"at{number}").mkdir()
        average = {"value": score, "standard_error": 0.01, "n": 11, "label": label if number == 30 else "mean over 11"}
        tasks = {last_task if number == 30 else "rte": {"value": score, "n": 277}}
        (directory / f"at{number}" / "summary.json").write_text(json.dumps({"average": average, "tasks": tasks}))
    path = directory / "runs.yaml"
    path.write_text("runs:\n  METRO: {log: train.log, checkpoints: {30: at30, 10: at10}}\n")
    return path


def test_points_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = read_runs(write_runs(tmp_path))
    assert [(p.updates, p.hours, p.tokens, p.score) for p in points] == [
        (10, pytest.approx(1 / 6), 80, 0.4),
        (30, pytest.approx(0.5), 240, 0.5),
    ]
    assert main(["efficiency", str(tmp_path / "runs.yaml"), "--output", str(tmp_path / "figure")]) == 0
    assert "pretraining tokens" in (tmp_path / "figure.svg").read_text()
    assert len(capsys.readouterr().out.split()) == 3


def test_averages_of_different_things_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not comparable"):
        read_runs(write_runs(tmp_path, label="mean over 3 of 11"))


def test_averages_of_as_many_other_tasks_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not of the same rows of copa"):
        read_runs(write_runs(tmp_path, last_task="copa"))


@pytest.mark.parametrize("text", ["", "runs: {}", "runs: {a: {log: x}}", "runs: [", "runs: {a: 3}"])
def test_bad_files_are_one_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.yaml").write_text(text)
    assert main(["efficiency", str(tmp_path / "runs.yaml"), "--output", str(tmp_path / "f")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
