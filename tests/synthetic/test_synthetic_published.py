"""The printed tables, the gap that is closed, and the figure that sets our runs beside them."""

from __future__ import annotations

import csv
import json

import pytest

from metro_t0.analysis.scheme_figure import kept_in_runs
from metro_t0.analysis.synthetic_results import gap_closed, kept_of_full, main_gaps, table
from metro_t0.synthetic.cli import main


def test_tables_are_whole_and_as_printed():
    sizes = {
        "table4_dataset_size": 36, "table5_init_schemes": 96, "table6_main_five_seeds": 72,
        "table7_per_param_mean_sd_all_tasks": 72, "table8_pre_attention_ln_sweep": 63, "table9_t5_base": 48,
    }  # fmt: skip
    assert {name: len(table(name)) for name in sizes} == sizes
    assert "30.30" in {row["value"] for row in table("table9_t5_base")}


def test_gap_closed_over_six_tasks():
    """Recomputed by hand from tables 6 and 7."""
    gaps = {name: round(gap, 1) for name, gap in main_gaps().items()}
    assert gaps == {
        "random_init": 0.0, "pretrained_t5": 100.0, "wiki_10k": 77.4, "lime": 61.4, "set": 60.7, "dyck": 48.5,
        "nonsense_summary": 45.7, "identity": 45.1, "lime/per_param_mean_sd": 43.5, "set/per_param_mean_sd": 39.3,
        "identity/per_param_mean_sd": 32.8,
    }  # fmt: skip


def test_gap_closed_reproduces_the_percentages_of_table_9():
    """Table 9 prints the average of the first metrics and the percent beside the scores it follows from."""
    first: dict[str, dict[str, float]] = {}
    printed = {}
    for row in table("table9_t5_base"):
        if row["metric"] in ("rouge1", "em"):
            first.setdefault(row["model"], {})[row["task"]] = float(row["value"])
        if row["task"] == "gap_closed":
            printed[row["model"]] = float(row["value"])
    low, high = first["random_init"], first["pretrained_t5"]
    assert {model: round(gap_closed(first[model], low, high), 1) for model in printed} == printed
    assert len(printed) == 6


def test_schemes_of_table_5():
    """From set, mean over CNNDM-10K (18.9 random, 32.8 full) and MTOP."""
    kept = kept_of_full("set")
    assert kept["full"] == 100
    em = {row["scheme"]: float(row["value"]) for row in table("table5_init_schemes")
          if row["task"] == "mtop" and row["metric"] == "em" and row["statistics_source"] in ("set", "")}  # fmt: skip
    mtop = (em["per_param_scale"] - em["random_init"]) / (em["full_init"] - em["random_init"])
    assert kept["per_param_scale"] == pytest.approx(50 * ((29.5 - 18.9) / (32.8 - 18.9) + mtop))


def write_runs(directory, scores):
    directory.mkdir()
    for start, values in scores.items():
        for seed, value in enumerate(values):
            run = {
                "start": start,
                "seed": seed,
                "curve": [{"update": 1, "accuracy": 0.0}, {"update": 2, "accuracy": value}],
            }
            (directory / f"{start}.{seed}.json").write_text(json.dumps(run))


SCORES = {
    "random": [10.0, 12.0],
    "full": [30.0, 32.0],
    "per_param_scale": [20.0, 22.0],
    "pre_attention_norm=0.2": [9.0],
}


def test_kept_in_runs():
    kept = kept_in_runs(SCORES)
    assert kept["full"][0] == 100
    assert kept["per_param_scale"] == pytest.approx((50, 100 * 2**0.5 / 20))
    assert "pre_attention_norm=0.2" not in kept  # no scheme of table 5


def test_figure(tmp_path):
    write_runs(tmp_path / "runs", SCORES)
    assert main(["plot-schemes", str(tmp_path / "runs"), "--output", str(tmp_path / "figure.png")]) == 0
    rows = list(csv.DictReader((tmp_path / "figure.csv").open()))
    assert {row["percent"] for row in rows if row["origin"] == "ours" and row["name"] == "per_param_scale"} == {"50.0"}
    assert {row["percent"] for row in rows if row["name"] == "lime" and row["panel"] == "gap closed"} == {"61.4"}
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_bad_runs(tmp_path, capsys):
    write_runs(tmp_path / "runs", {"full": [1.0]})
    arguments = ["plot-schemes", str(tmp_path / "runs"), "--output", str(tmp_path / "figure.png")]
    assert main(arguments) != 0
    assert "no run that starts from random" in capsys.readouterr().err
    (tmp_path / "runs" / "other.json").write_text("[]")
    assert main(arguments) != 0
    assert "other.json: not a run of" in capsys.readouterr().err
