"""The tables of an evidence run, from directories as metro-t0-ablate leaves them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from eval.results import RUN_FILE, ResultsDirectory, TemplateResult
from eval.summary import summarize_directory, write_summary
from metro_t0.files import write_json

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evidence" / "summary.py"


def evaluated(directory: Path, seen: str, unseen: str, exact_match: float) -> None:
    write_json(directory / "scores.json", [{"exact_match": exact_match}])
    results = ResultsDirectory(directory / "eval")
    write_json(results.path / RUN_FILE, {"model": directory.name, "task_set": "evidence"})
    results.plan = {"seen_ag_news": ["t"], "rte": ["t"]}
    for task, outcomes in {"seen_ag_news": seen, "rte": unseen}.items():
        results.save(
            TemplateResult(
                task=task, dataset=task, split="test", template="t", template_hash="h", num_rows=len(outcomes),
                outcomes=outcomes, outcomes_length_normalized=outcomes, skipped={}, truncated_sources=0, chance=0.5,
                majority=0.5, labels=["a", "b"], confusion=[[0, 0], [0, 0]], samples=[], seconds=1.0,
            ),
            None,
        )  # fmt: skip
    write_summary(results, summarize_directory(results))


def test_both_tables_compare_with_metro(tmp_path: Path) -> None:
    for seed in (1, 2):
        evaluated(tmp_path / "metro" / f"seed{seed}", "1" * 30 + "0" * 10, "10" * 20, 0.3)
        evaluated(tmp_path / "t5" / f"seed{seed}", "1" * 10 + "0" * 30, "10" * 20, 0.2)
    (tmp_path / "spactor").mkdir()  # begun, nothing evaluated yet
    run = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in run.stdout.splitlines() if line]
    rows = {(row[0], row[2]): row[3:] for row in cells}
    assert rows["metro", "30.00 +- 0.00"] == ["75.00 +- 0.00", "50.00 +- 0.00"]
    assert rows["t5", "seen"][0] == "-50.00"
    assert float(rows["t5", "seen"][2]) < 0.01
    assert rows["t5", "unseen"] == ["+0.00", "+0.00 to +0.00", "1.0000"]
    assert not any(row[0] == "spactor" for row in cells)
