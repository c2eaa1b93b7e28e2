"""Exact match by one pass equals greedy decoding; the majority baseline; other dictionaries are refused."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from small_mixture import TEMPLATES, color_rows, write_dataset

from finetune.cli import main
from finetune.scoring import Scorer, most_frequent_target
from metro_t0.errors import UserError
from metro_t0.hf import MetroT5Config, MetroT5ForConditionalGeneration, MetroT5TokenizerFast
from metro_t0.prompts.mixing import TaskExamples, load_task_examples
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.training import BpeSettings, train_bpe


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> tuple[Path, Path]:
    """A built mixture and a model directory with random weights."""
    root = tmp_path_factory.mktemp("scored")
    write_dataset(root / "data", "colors", train=color_rows(40), validation=color_rows(24))
    (root / "templates/colors").mkdir(parents=True)
    (root / "templates/colors/templates.yaml").write_text(TEMPLATES)
    options = ["--mixture", "colors", "--tokenizer", vocabulary, "--output", root / "built", "--workers", "1"]
    options += ["--data-dir", root / "data", "--templates", root / "templates", "--validation", "all"]
    assert main(["build", *map(str, options)]) == 0
    torch.manual_seed(0)
    config = MetroT5Config(
        vocab_size=len(Tokenizer.load(vocabulary)), d_model=32, ffn_dim=64, num_heads=2, head_dim=16,
        encoder_layers=1, decoder_layers=1, max_positions=128,
    )  # fmt: skip
    MetroT5ForConditionalGeneration(config).save_pretrained(root / "model")
    MetroT5TokenizerFast.from_vocabulary(vocabulary).save_pretrained(root / "model")
    return root / "built", root / "model"


def fit(scorer: Scorer, task: TaskExamples, examples: int) -> None:
    """Teach the model the first examples of a task, so that some answers are right and some are wrong."""
    optimizer = torch.optim.Adam(scorer.model.parameters(), lr=0.01)
    for _ in range(40):
        loss = torch.zeros(())
        for source, target in zip(list(task.sources)[:examples], list(task.targets)[:examples], strict=True):
            inputs = torch.tensor([[0, *source.tolist()]])
            shifted = torch.tensor([[2, *target[:-1].tolist()]])
            logits = scorer.model(input_ids=inputs, decoder_input_ids=shifted).logits[0]
            loss = loss + torch.nn.functional.cross_entropy(logits, torch.tensor(target.tolist()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_exact_match_equals_greedy_decoding(scored: tuple[Path, Path]) -> None:
    data, directory = scored
    scorer = Scorer(str(directory), data)
    task = next(task for task in load_task_examples(data, "valid") if task.name == "colors_which")
    fit(scorer, task, examples=8)
    greedy = []
    for source, target in zip(task.sources, task.targets, strict=True):
        inputs = torch.tensor([[0, *source.tolist()]])
        made = scorer.model.generate(inputs, max_new_tokens=len(target), do_sample=False, num_beams=1)
        greedy.append(made[0, 1:].tolist() == target.tolist())
    assert 0 < np.mean(greedy) < 1
    score = scorer.score(task, None, most_frequent_target(task))
    assert score.examples == 24
    assert score.exact_match == pytest.approx(np.mean(greedy))
    assert 0 <= score.token_accuracy <= 1
    assert scorer.score(task, 10, most_frequent_target(task)).examples == 10


def test_batches_do_not_change_the_score(scored: tuple[Path, Path]) -> None:
    data, directory = scored
    task = load_task_examples(data, "valid")[0]
    small, large = (Scorer(str(directory), data, max_batch_tokens=tokens) for tokens in (30, 4000))
    assert small.score(task, None, task.targets[0]) == large.score(task, None, task.targets[0])


def test_the_majority_baseline(scored: tuple[Path, Path]) -> None:
    data, directory = scored
    held_out = {task.name: task for task in load_task_examples(data, "valid")}
    training = {task.name: task for task in load_task_examples(data, "train")}
    scorer = Scorer(str(directory), data)
    for name, share in (("colors_only_red", 1.0), ("colors_which", 0.25)):
        assert scorer.score(held_out[name], None, most_frequent_target(training[name])).majority == share


def test_the_majority_of_a_sorted_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.scoring.TRAINING_TARGETS_COUNTED", 50)
    targets = [np.array([4 if place < 100 else 5, 2]) for place in range(1000)]
    sizes = np.full(1000, 2, dtype=np.int32)
    assert most_frequent_target(TaskExamples("t", "d", targets, targets, sizes, sizes)).tolist() == [5, 2]


def test_nan_logits_are_no_score(scored: tuple[Path, Path]) -> None:
    data, directory = scored
    scorer = Scorer(str(directory), data)
    with torch.no_grad():
        next(scorer.model.parameters())[5:] = float("nan")
    task = load_task_examples(data, "valid")[0]
    with pytest.raises(UserError, match="logits are NaN or infinite"):
        scorer.score(task, None, task.targets[0])


def test_the_command_prints_a_table(
    scored: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, directory = scored
    output = tmp_path / "scores.json"
    assert main(["score", "--model", str(directory), "--prompted", str(data), "--output", str(output)]) == 0
    assert "mean of 2 tasks" in capsys.readouterr().out
    assert output.stat().st_size > 100
    assert main(["score", "--model", str(directory), "--prompted", str(data), "--only", "colors,colors_which"]) == 0
    assert "mean of 2 tasks" in capsys.readouterr().out
    assert main(["score", "--model", str(directory), "--prompted", str(data), "--only", "colros"]) == 2
    assert "did you mean colors" in capsys.readouterr().err


def test_another_dictionary_is_refused(scored: tuple[Path, Path], tmp_path: Path) -> None:
    data, directory = scored
    for name in os.listdir(data):
        if name not in ("dict.txt", "tokenizer.json"):
            (tmp_path / name).symlink_to(data / name)
    train_bpe(Counter({"zebra": 9, "quagga": 7}), BpeSettings(vocab_size=15, lowercase=True), tmp_path)
    with pytest.raises(UserError, match=r"dict\.txt is not the dictionary of"):
        Scorer(str(directory), tmp_path)
    with pytest.raises(UserError, match="not a Hugging Face model directory"):
        Scorer(str(tmp_path), data)
