"""Scores that are no numbers give no accuracy, and no file that is no JSON."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from eval.cli import main

NOT_A_NUMBER, INFINITE = float("nan"), float("-inf")


@pytest.fixture
def broken_t5(model_directories: dict[str, Path], tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(model_directories["t5"], tmp_path / "t5"))
    model = AutoModelForSeq2SeqLM.from_pretrained(directory)
    with torch.no_grad():
        model.decoder.block[1].layer[2].DenseReluDense.wo.weight[3, 5] = NOT_A_NUMBER
    model.save_pretrained(directory)
    return directory


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The last line on standard error of a command that must end with status 2."""
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_nan_scores_are_counted_and_nothing_is_written(
    broken_t5: Path, model_directories: dict[str, Path], data_dir: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "o"
    common = ("--data-dir", data_dir, "--output", output, "--only", "copa", "--device", "cpu", "--save-predictions")
    error = refused(capsys, "t0", "--model", broken_t5, *common)
    assert re.search(r"scores of (\d+) of \1 prompts are NaN or infinite", error)
    assert "check the model's weights" in error
    assert not list(output.glob("results/*/*")) + list(output.glob("predictions/*/*"))
    assert "--dtype bfloat16" in refused(capsys, "t0", "--model", broken_t5, "--dtype", "float16", *common)
    # The directory belongs to nobody yet: the repaired model may have it.
    repaired = ("t0", "--model", model_directories["t5"], *common, "--limit", 2)
    assert main([str(argument) for argument in repaired]) == 0


def test_infinite_sums_are_no_scores_either(
    model_directories: dict[str, Path], data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bias of minus infinity on one token: choices with it have probability zero, and two of them are no ranking."""
    directory = Path(shutil.copytree(model_directories["bart"], tmp_path / "bart"))
    model = AutoModelForSeq2SeqLM.from_pretrained(directory)
    token = AutoTokenizer.from_pretrained(directory)(text_target="council")["input_ids"][1]
    model.final_logits_bias[0, token] = INFINITE
    model.save_pretrained(directory)
    common = ("--data-dir", data_dir, "--output", tmp_path / "o", "--only", "copa", "--device", "cpu")
    assert "NaN or infinite" in refused(capsys, "t0", "--model", directory, *common)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_from_nan_logits_is_refused(
    beams: int, broken_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.tsv").write_text("the council\tmarch\n")
    given = ("--model", broken_t5, "--file", tmp_path / "file.tsv", "--beams", beams, "--max-target-tokens", 4)
    error = refused(capsys, "generate", *given, "--output", tmp_path / "o", "--device", "cpu")
    assert "logits of generated tokens are NaN" in error
    assert not (tmp_path / "o" / "predictions.jsonl").exists()
