"""In lm-evaluation-harness itself: its own log-likelihoods from our model class, and our accuracies from our pack."""

from __future__ import annotations

import functools
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.cli import main
from eval.lm_eval_pack import identifier
from eval.results import ResultsDirectory, file_name

lm_eval = pytest.importorskip("lm_eval")

TEMPLATES_HERE = 18


@pytest.fixture
def directories(model_directories: dict[str, Path], metro_directory: Path) -> dict[str, Path]:
    return {**model_directories, "metro": metro_directory}


@pytest.fixture(scope="module")
def pack(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pack")
    assert main(["lm-eval-tasks", "--data-dir", str(data_dir), "--output", str(directory)]) == 0
    return directory


def requests() -> list[Any]:
    """Contexts with one to four choices, in any order: some long, some empty, some of few or equal choices."""
    from lm_eval.api.instance import Instance

    draw = random.Random(0)
    words = ["the", "council", "met", "in", "march", "taxes", "would", "rise", "green", "red", "yes", "maybe"]

    def text(least: int, most: int) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(least, most)))

    pairs = []
    for _ in range(12):
        context = draw.choice([text(1, 12), text(60, 90), text(3, 5) + " ", ""])
        beginning = text(0, 2)
        pairs += [(context, f" {beginning} {text(1, 3)}") for _ in range(draw.randint(1, 4))]
    draw.shuffle(pairs)
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number) for number, pair in enumerate(pairs)
    ]


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_log_likelihoods_are_those_of_the_harness(name: str, directories: dict[str, Path]) -> None:
    from lm_eval.models.huggingface import HFLM

    from eval.lm_eval_model import MetroT0LM

    options = {"pretrained": str(directories[name]), "batch_size": 4, "max_length": 64, "device": "cpu"}
    theirs = HFLM(backend="seq2seq", **options).loglikelihood(requests(), disable_tqdm=True)
    ours = MetroT0LM(**options)
    assert ours.scoring == "harness"
    found = ours.loglikelihood(requests(), disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in theirs]


@pytest.mark.parametrize(("name", "scoring"), [("t5", None), ("metro", None), ("bart", "metro")])
def test_harness_gives_our_accuracies(
    name: str, scoring: str | None, directories: dict[str, Path], pack: Path, data_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The pack holds the end token as text. T5 reads it there; METRO never does, and needs none."""
    from lm_eval.tasks import TaskManager

    from eval.lm_eval_model import MetroT0LM

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model = str(directories[name])
    assert main(["t0", "--model", model, "--data-dir", str(data_dir), "--output", str(tmp_path / "ours")]) == 0

    harness = MetroT0LM(pretrained=model, scoring=scoring, max_length=512, device="cpu")
    manager = TaskManager(include_path=str(pack), include_defaults=False)
    found = lm_eval.simple_evaluate(harness, tasks=["metro_t0"], task_manager=manager, bootstrap_iters=0)
    results = ResultsDirectory(tmp_path / "ours").load()
    assert len(results) == TEMPLATES_HERE
    for result in results:
        task = f"metro_t0_{identifier(result.task)}_{identifier(file_name(result.template))}"
        assert found["results"][task]["acc,none"] == pytest.approx(result.score.value), task
    summary = json.loads((tmp_path / "ours" / "summary.json").read_text())
    for task in ("rte", "copa"):
        assert found["groups"][f"metro_t0_{task}"]["acc,none"] == pytest.approx(summary["tasks"][task]["value"])
    assert "acc,none" not in found["results"].get("metro_t0", {})


def test_the_harness_command_knows_the_model(
    directories: dict[str, Path], pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import lm_eval.tasks

    from eval import harness

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # Reading the harness's own ten thousand task files takes a minute.
    only_ours = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", only_ours)
    task = next(path.stem for path in sorted(pack.glob("metro_t0_copa_*.yaml")))
    given = ["--include_path", str(pack), "--tasks", task, "--device", "cpu", "--limit", "2"]

    def run(model_args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["lm_eval", "--model", "metro-t0", "--model_args", model_args, *given])
        return harness.main()

    assert run(f"pretrained={directories['metro']}") == 0
    assert task in capsys.readouterr().out
    assert run(f"pretrained={directories['metro']},scoring=best") == 2
    assert "eval.harness: error: scoring=best: give harness or metro" in capsys.readouterr().err
