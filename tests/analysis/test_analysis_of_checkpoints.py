"""The commands on Hugging Face directories of both kinds, from the command line."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch

from metro_t0.analysis.activation import count_activations
from metro_t0.analysis.checkpoints import analyse_t5, load_checkpoint
from metro_t0.analysis.cli import main
from metro_t0.analysis.mixtures import batches, sample_mixture
from metro_t0.errors import UserError
from metro_t0.hf.checkpoints import write_checkpoint
from metro_t0.hf.export import to_hugging_face
from metro_t0.modeling import T5

DICTIONARY = "".join(f"w{number} 1\n" for number in range(36))


@pytest.fixture
def checkpoint(small_t5: T5, mixture: Path, tmp_path: Path) -> Path:
    """The small model as a Hugging Face directory with the mixture's dictionary."""
    directory = tmp_path / "metro"
    to_hugging_face(small_t5.float()).save_pretrained(directory)
    for place in (directory, mixture):
        (place / "dict.txt").write_text(DICTIONARY)
    return directory


def test_a_directory_is_analyzed_like_the_model_itself(checkpoint: Path, small_t5: T5, mixture: Path) -> None:
    pairs = sample_mixture(mixture, "train", 20, seed=0)
    loaded = load_checkpoint(checkpoint, mixture, "cpu")
    assert (loaded.pad_id, loaded.decoder_start) == (1, 2)
    found = count_activations(loaded, batches(pairs, 100, 1, 2))
    for key, count in count_activations(analyse_t5(small_t5.float(), 1, 2), batches(pairs, 100, 1, 2)).items():
        assert found[key].active.tolist() == count.active.tolist()


def test_commands(checkpoint: Path, mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_ff=12, d_kv=8, num_heads=2, num_layers=3,
        pad_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    (tmp_path / "t5" / "dict.txt").write_text(DICTIONARY)
    for command, rows in (("activation", 4 + 6), ("sensitivity", None)):
        output = tmp_path / command
        options = ["--prompted", str(mixture), "--examples", "20", "--output", str(output)]
        assert main([command, f"METRO={checkpoint}", str(tmp_path / "t5"), *options]) == 0
        with open(output.with_suffix(".csv"), newline="") as stream:
            found = list(csv.DictReader(stream))
        assert {row["checkpoint"] for row in found} == {"METRO", "t5"}
        assert rows in (None, len(found))
    assert "nats per target token" in capsys.readouterr().out


def test_a_fairseq_checkpoint_is_analyzed_like_its_export(
    checkpoint: Path, small_t5: T5, mixture: Path, tmp_path: Path
) -> None:
    tensors = {f"main.{name}": tensor for name, tensor in small_t5.float().state_dict().items()}
    write_checkpoint(tmp_path / "checkpoint.pt", small_t5.config, tensors, mixture / "dict.txt")
    given = list(batches(sample_mixture(mixture, "train", 20, seed=0), 100, 1, 2))
    ours, exported = (load_checkpoint(path, mixture, "cpu") for path in (tmp_path / "checkpoint.pt", checkpoint))
    for batch in given:
        assert torch.equal(ours.logits(batch), exported.logits(batch))
    (mixture / "dict.txt").write_text("b 1\n" * 36)
    with pytest.raises(UserError, match=r"dict\.txt"):
        load_checkpoint(tmp_path / "checkpoint.pt", mixture, "cpu")


def test_another_vocabulary_is_refused(checkpoint: Path, mixture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mixture / "dict.txt").write_text("b 1\n")
    assert main(["activation", str(checkpoint), "--prompted", str(mixture), "--output", str(checkpoint / "f")]) == 2
    assert "differs" in capsys.readouterr().err


def test_a_bad_second_checkpoint_is_found_before_the_first_is_loaded(
    checkpoint: Path, mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("metro_t0.hf.loading.load_seq2seq", load)
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    (other / "model.safetensors").write_bytes(b"")
    assert (
        main(["activation", str(checkpoint), str(other), "--prompted", str(mixture), "--output", str(other / "f")]) == 2
    )
    assert "other/model.safetensors: truncated" in capsys.readouterr().err


def test_what_is_no_checkpoint_is_one_line(mixture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    for path in (tmp_path / "broken", tmp_path / "absent"):
        assert main(["activation", str(path), "--prompted", str(mixture), "--output", str(tmp_path / "f")]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
