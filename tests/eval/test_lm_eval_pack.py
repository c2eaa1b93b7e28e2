"""The task pack in lm-evaluation-harness itself: the same accuracies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.cli import main
from eval.lm_eval_pack import identifier
from eval.results import ResultsDirectory, file_name

lm_eval = pytest.importorskip("lm_eval")


def test_harness_gives_our_accuracies(
    model_directories: dict[str, Path], data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    pack = tmp_path / "pack"
    data = ["--data-dir", str(data_dir)]
    assert main(["lm-eval-tasks", *data, "--output", str(pack)]) == 0
    model = model_directories["t5"]
    assert main(["t0", "--model", str(model), *data, "--output", str(tmp_path / "ours")]) == 0

    harness = HFLM(pretrained=str(model), backend="seq2seq", batch_size=4, max_length=512, device="cpu")
    manager = TaskManager(include_path=str(pack), include_defaults=False)
    found = lm_eval.simple_evaluate(harness, tasks=["metro_t0"], task_manager=manager, bootstrap_iters=0)
    results = ResultsDirectory(tmp_path / "ours").load()
    assert len(results) == 18
    for result in results:
        name = f"metro_t0_{identifier(result.task)}_{identifier(file_name(result.template))}"
        assert found["results"][name]["acc,none"] == pytest.approx(result.score.value), name
    summary = json.loads((tmp_path / "ours" / "summary.json").read_text())
    for task in ("rte", "copa"):
        assert found["groups"][f"metro_t0_{task}"]["acc,none"] == pytest.approx(summary["tasks"][task]["value"])
    assert "acc,none" not in found["results"].get("metro_t0", {})
