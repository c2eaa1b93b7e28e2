"""What a directory owes those who get it: a model card, a license, readable files, ends for generation and targets."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hf_helpers import ROOT
from transformers import AutoTokenizer, GenerationConfig

from metro_t0.hf import MetroT5ForConditionalGeneration
from metro_t0.tokenization import Tokenizer


@pytest.fixture(scope="module")
def exported(metro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shared")
    table = directory / "table.md"
    table.write_text("| task | accuracy |\n|---|---|\n| rte | 52.71 |\n")
    command = [
        sys.executable, "-m", "metro_t0.convert", "fairseq", str(metro_checkpoint),
        "--output", str(directory / "my-metro"), "--license", "apache-2.0", "--evaluation", str(table),
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return directory / "my-metro"


def test_model_card(exported: Path) -> None:
    _, front, body = (exported / "README.md").read_text().split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["library_name"] == "transformers"
    assert fields["pipeline_tag"] == "text2text-generation"
    assert fields["license"] == "apache-2.0"
    for row in ("| updates | 2 |", "| task | metro_pretraining |", "| batch | 4 examples |", "| optimizer | adam |"):
        assert row in body
    assert "| mlm_loss (train) | " in body
    assert "| rte | 52.71 |" in body
    assert "trust_remote_code=True" in body
    assert str(exported.parent) not in body  # paths of the trainer's machine are nobody's business
    assert "MIT License" in (exported / "LICENSE").read_text()


def test_files_are_readable_by_all(exported: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in exported.iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {0o644}
    assert stat.S_IMODE(exported.stat().st_mode) == 0o755


def test_generation_ends_by_itself(exported: Path) -> None:
    assert GenerationConfig.from_pretrained(exported).max_new_tokens == 64  # all positions of this small model
    model = MetroT5ForConditionalGeneration.from_pretrained(exported)
    generated = model.generate(torch.tensor([[0, 9, 2]]))
    assert 21 < generated.shape[1] <= 65 or generated[0, -1] == 2


def test_targets_begin_with_their_first_piece(exported: Path, tokenizer: Tokenizer) -> None:
    fast = AutoTokenizer.from_pretrained(exported)
    text = "the quick brown fox"
    pieces = tokenizer.encode(text)
    assert fast(text_target=text)["input_ids"] == [*pieces, 2]
    both = fast([text] * 2, text_target=[text, ""])
    assert both["input_ids"] == [[0, *pieces, 2]] * 2
    assert both["labels"] == [[*pieces, 2], [2]]
    many = [text] * 200  # the way of large batches
    assert fast(text_target=many)["input_ids"] == [[*pieces, 2]] * 200
    assert fast(many)["input_ids"] == [[0, *pieces, 2]] * 200


def test_labels_that_do_not_count(exported: Path) -> None:
    """-100 does not; `<pad>` does, as in transformers' T5."""
    model = MetroT5ForConditionalGeneration.from_pretrained(exported)
    source = torch.tensor([[0, 9, 2]])

    def loss(*labels: int) -> float:
        return float(model(input_ids=source, labels=torch.tensor([labels])).loss)

    assert loss(9, 2, -100) == pytest.approx(loss(9, 2))
    assert loss(9, 2, 1) != pytest.approx(loss(9, 2))
