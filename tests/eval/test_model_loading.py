"""A model is loaded with all of its weights or refused in one line, by every command that loads one."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LongT5Config, LongT5ForConditionalGeneration, UMT5Config, UMT5ForConditionalGeneration

from eval.cli import main as evaluate
from eval.loading import load_model
from eval.settings import ModelSettings
from finetune.scoring import Scorer
from metro_t0.analysis.checkpoints import load_checkpoint
from metro_t0.errors import UserError
from metro_t0.hf.loading import load_seq2seq
from metro_t0.transfer.weight_files import read_weights

WEIGHTS = "model.safetensors"


@pytest.fixture
def directory(model_directories: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the T5 that can be damaged."""
    return Path(shutil.copytree(model_directories["t5"], tmp_path / "t5"))


def edit(directory: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(directory / WEIGHTS)), directory / WEIGHTS, {"format": "pt"})


def with_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def without_last_decoder_layer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.block.1.")}


def with_wrong_shape(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"shared.weight": torch.zeros(3, 3)}


LOADERS: dict[str, Callable[[Path], object]] = {
    "eval and generate": lambda directory: load_model(ModelSettings(str(directory), device="cpu")),
    "init": read_weights,
    "analyze": lambda directory: load_checkpoint(directory, directory, "cpu"),
    "score": lambda directory: Scorer(str(directory), directory, "cpu"),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_missing_weights_are_named_wherever_a_model_is_loaded(
    loader: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "dict.txt").write_text("a 1\n")
    if loader == "score":  # its check of the vocabulary comes first and is another test's matter
        monkeypatch.setattr("finetune.scoring.Tokenizer.load", lambda _: _NoWords())
    for change, missing in [(without_last_decoder_layer, "decoder.block.1."), (with_prefix, "decoder.block.0.")]:
        edit(directory, change)
        with pytest.raises(UserError, match=rf"t5: tensor {missing}\S+ is missing"):
            LOADERS[loader](directory)


class _NoWords:
    class vocabulary:
        @staticmethod
        def tokens() -> tuple[str, ...]:
            return ()


def test_tensors_of_the_wrong_shape_or_of_a_deeper_model_are_refused(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_decoder_layers": 1}))
    with pytest.raises(UserError, match=r"tensor decoder\.block\.1\.\S+ has no place in the model"):
        load_model(ModelSettings(str(directory), device="cpu"))
    (directory / "config.json").write_text(json.dumps(config))
    edit(directory, with_wrong_shape)
    with pytest.raises(UserError, match=r"tensor \S+ is \(3, 3\), not \(200, 32\) as config.json says"):
        load_model(ModelSettings(str(directory), device="cpu"))


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_reads_what_is_not_scaled(tied: bool, tmp_path: Path) -> None:
    """umT5 (Pile-T5), which transformers 5 takes for tied whatever its config.json says."""
    config = UMT5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    UMT5ForConditionalGeneration(config).save_pretrained(tmp_path)
    head = torch.randn(40, 16)
    edit(tmp_path, lambda tensors: tensors if tied else tensors | {"lm_head.weight": head})
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"tie_word_embeddings": tied}))
    model = load_seq2seq(tmp_path).eval()
    ids = torch.tensor([[5, 6, 1]])
    with torch.no_grad():
        hidden = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True).decoder_hidden_states[-1]
        logits = model(input_ids=ids, decoder_input_ids=ids).logits
        expected = hidden @ model.shared.weight.T / 16**0.5 if tied else hidden @ head.T
    assert torch.allclose(logits, expected, atol=1e-5)


def test_tied_tables_need_not_be_in_the_file(model_directories: dict[str, Path], tmp_path: Path) -> None:
    """The layout of the official LongT5: one token table for both sides and the output."""
    config = LongT5Config(
        vocab_size=200, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=1, decoder_start_token_id=1
    )
    directory = Path(shutil.copytree(model_directories["t5"], tmp_path / "longt5"))
    LongT5ForConditionalGeneration(config).save_pretrained(directory)
    names = load_file(directory / WEIGHTS).keys()
    assert "shared.weight" in names
    assert not {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"} & names
    loaded = load_model(ModelSettings(str(directory), device="cpu")).model
    assert loaded.lm_head.weight is loaded.shared.weight


class Payload:
    """Something that is no tensor."""


def _bin(directory: Path, write: Callable[[Path], object]) -> None:
    (directory / WEIGHTS).unlink()
    write(directory / "pytorch_model.bin")


def _index(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "model-00001-of-00002.safetensors")
    table = {"shared.weight": "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"}
    (directory / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / WEIGHTS).write_bytes(b""), "model.safetensors: truncated or not a safetensors file"),
        (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-9]), "model.safetensors: truncated"),
        (lambda d: (d / WEIGHTS).write_bytes(b"\x00" * 64), "model.safetensors: truncated"),
        (lambda d: (d / WEIGHTS).unlink(), "its model could not be loaded"),
        (lambda d: _bin(d, lambda p: torch.save({"x": Payload()}, p)), "holds more than tensors and plain values"),
        (
            lambda d: _bin(d, lambda p: p.write_bytes(pickle.dumps({"x": Payload()}))),
            "pytorch_model.bin: truncated or corrupt",
        ),
        (lambda d: _bin(d, lambda p: torch.save({"x": 1}, p)), "pytorch_model.bin: not a table of tensors"),
        (lambda d: _bin(d, lambda p: torch.save([torch.ones(1)], p)), "pytorch_model.bin: not a table of tensors"),
        (lambda d: _bin(d, lambda p: p.write_bytes(b"")), "pytorch_model.bin: truncated or corrupt"),
        (lambda d: _bin(d, lambda p: p.write_bytes(b"PK\x03\x04nothing")), "pytorch_model.bin: truncated"),
        (_index, "model-00002-of-00002.safetensors: no such file"),
        (
            lambda d: (_index(d), (d / f"{WEIGHTS}.index.json").write_text("[]")),
            "model.safetensors.index.json: must be a mapping",
        ),
    ],
)
def test_damaged_weight_files_are_one_line(
    damage: Callable[[Path], object],
    message: str,
    directory: Path,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(directory)
    arguments = ["--model", str(directory), "--data-dir", str(data_dir), "--output", str(tmp_path / "o")]
    assert evaluate(["t0", *arguments, "--only", "copa"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert "weights_only" not in line
