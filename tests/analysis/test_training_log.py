"""Reading fairseq's JSON logs, and the curves drawn from them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from metro_t0.analysis.cli import main
from metro_t0.analysis.training_log import plot_curves, read_log, trivial_baselines
from metro_t0.errors import UserError

PREFIX = "2026-01-01 00:00:00 | INFO | "


def inner(updates: int, **values: float) -> dict[str, object]:
    return {"epoch": 1, "update": updates / 100, **{k: str(v) for k, v in values.items()}, "num_updates": str(updates)}


def ended(split: str, updates: int, **values: float) -> dict[str, object]:
    return {"epoch": 1, **{f"{split}_{k}": str(v) for k, v in values.items()}, f"{split}_num_updates": str(updates)}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    lines = [
        PREFIX + "fairseq_cli.train | {'not': json}",
        PREFIX + "train_inner | " + json.dumps(inner(10, mlm_loss=6.0, clm_loss=5.5, clm_accuracy_unmasked=0)),
        PREFIX + "train_inner | " + json.dumps(inner(20, mlm_loss=5.0, clm_loss=4.5, clm_accuracy_unmasked=0)),
        PREFIX + "valid | " + json.dumps(ended("valid", 20, mlm_loss=5.1, clm_loss=4.6, clm_accuracy_unmasked=0.5)),
        # Killed after update 20, resumed from 10: the second run's numbers count.
        PREFIX + "train_inner | " + json.dumps(inner(20, mlm_loss=4.9, clm_loss=4.4, clm_accuracy_unmasked=0)),
        PREFIX + "train | " + json.dumps(ended("train", 20, mlm_loss=5.5, clm_loss=5.0)),
        '{"half a line": ',
    ]
    path = tmp_path / "train.log"
    path.write_text("\n".join(lines))
    return path


def test_records_of_train_and_valid(log: Path) -> None:
    records = read_log(log)
    assert [(r["split"], r["updates"], r["mlm_loss"]) for r in records] == [
        ("train", 10, 6.0),
        ("train", 20, 4.9),
        ("valid", 20, 5.1),
    ]


def test_a_run_begun_again_has_nothing_of_the_attempt_before(log: Path) -> None:
    with open(log, "a") as stream:
        stream.write("\n" + PREFIX + "train_inner | " + json.dumps(inner(10, mlm_loss=6.2)))
    assert [(r["split"], r["updates"], r["mlm_loss"]) for r in read_log(log)] == [("train", 10, 6.2)]


def test_a_log_file_without_prefixes_reads_alike(log: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.log"
    bare.write_text("\n".join(line[line.find("{") :] for line in log.read_text().splitlines()))
    assert read_log(bare) == read_log(log)


def test_epoch_means_serve_where_no_interval_was_logged(tmp_path: Path) -> None:
    path = tmp_path / "short.log"
    path.write_text(PREFIX + "train | " + json.dumps(ended("train", 7, clm_loss=5.0)))
    assert [(r["split"], r["updates"], r["clm_loss"]) for r in read_log(path)] == [("train", 7, 5.0)]


def test_no_records_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.log").write_text("nothing\n")
    with pytest.raises(UserError, match=r"give a run's train\.log or its output"):
        read_log(tmp_path / "empty.log")
    with pytest.raises(UserError, match="no such log file"):
        read_log(tmp_path / "absent.log")


def test_baselines_of_a_known_distribution(tmp_path: Path) -> None:
    (tmp_path / "dict.txt").write_text("a 2\nb\u2028 1\nc 1\n", encoding="utf-8")
    found = trivial_baselines(tmp_path / "dict.txt", replaced_share=0.25, replacement_rate=0.5)
    assert found["mlm_loss"] == pytest.approx(1.5 * math.log(2))
    assert found["mlm_accuracy"] == 0.5
    assert found["rtd_loss"] == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert found["clm_accuracy_masked"] == 0.5
    assert (found["rtd_auc"], found["rtd_average_precision"]) == (0.5, 0.25)


def test_curves_write_picture_and_numbers(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dict.txt").write_text("a 2\nb 1\nc 1\n")
    options = ["--dict", str(tmp_path / "dict.txt"), "--output", str(tmp_path / "figure.png")]
    assert main(["curves", f"one={log}", f"two={log}", *options]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"figure.{kind}") for kind in ("png", "svg", "csv")]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    picture = (tmp_path / "figure.svg").read_text()
    for text in ("CLM loss (nats)", "one train", "two valid", "trivial baseline"):
        assert text in picture
    with open(tmp_path / "figure.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {"run": "one", "split": "train", "updates": "20", "metric": "mlm_loss", "value": "4.9"} in rows
    # In training nothing is measured at unmasked positions: a logged 0 of 0 is not an accuracy.
    assert not [r for r in rows if r["metric"] == "clm_accuracy_unmasked" and r["split"] == "train"]


def test_same_log_gives_the_same_files(log: Path, tmp_path: Path) -> None:
    first, second = (plot_curves({"run": log}, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_unknown_metric_names_the_logged_ones(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", str(log), "--metrics", "rtd_recall", "--output", str(tmp_path / "f")]) == 2
    message = capsys.readouterr().err
    assert "rtd_recall" in message
    assert "clm_loss" in message
    assert not list(tmp_path.glob("f.*"))


def test_two_logs_of_one_name_are_refused(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curves", str(log), str(log), "--output", str(tmp_path / "f")]) == 2
    assert "name them" in capsys.readouterr().err


def test_curves_over_tokens_count_what_each_interval_saw(tmp_path: Path) -> None:
    """10 updates of 100 tokens, 10 of 300: a validation at update 15 is after 2,500 tokens."""
    log = tmp_path / "log"
    lines = [inner(10, wpb=100.0, clm_loss=3.0), ended("valid", 15, clm_loss=2.5), inner(20, wpb=300.0, clm_loss=2.0)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(r["updates"], r["tokens"]) for r in read_log(log)] == [(10, 1000.0), (15, 2500.0), (20, 4000.0)]
    assert plot_curves({"run": log}, tmp_path / "figure", over="tokens")
    log.write_text(json.dumps(inner(10, clm_loss=3.0)))
    with pytest.raises(UserError, match="over updates"):
        plot_curves({"run": log}, tmp_path / "figure", over="tokens")
