"""metro-t0-convert on real fairseq checkpoints, both ways."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hf_helpers import fairseq_train
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5ForConditionalGeneration

from metro_t0.convert import main
from metro_t0.hf import convert
from metro_t0.hf.checkpoints import read_checkpoint
from metro_t0.hf.convert import probe
from metro_t0.modeling import MetroT5
from metro_t0.tokenization import Tokenizer


@pytest.fixture(scope="module")
def exported(metro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported") / "model"
    assert main(["fairseq", str(metro_checkpoint), "--output", str(directory), "--keep-pretraining"]) == 0
    return directory


@torch.no_grad()
def test_logits_equal_those_of_the_fairseq_model(exported: Path, metro_checkpoint: Path) -> None:
    state = torch.load(metro_checkpoint, weights_only=True)["model"]
    config = read_checkpoint(metro_checkpoint).config
    assert config.auxiliary_layers == 1
    reference = MetroT5(config, pad_id=1)
    reference.load_state_dict(
        {name.removeprefix("metro."): t for name, t in state.items() if name.startswith("metro.")}
    )
    model = AutoModelForSeq2SeqLM.from_pretrained(exported)
    source, mask, target = probe(config.vocab_size)
    expected = reference.eval().main.logits(reference.main(source, target, mask)[0])
    found = model(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_tokenizer_of_the_export_names_every_id(exported: Path, tokenizer: Tokenizer) -> None:
    fast = AutoTokenizer.from_pretrained(exported)
    text = "The lazy dog isn't black , </s> <sen000> !"
    assert fast(text)["input_ids"] == [0, *tokenizer.encode(text), 2]
    assert len(fast) == AutoModelForSeq2SeqLM.from_pretrained(exported).config.vocab_size
    assert fast.convert_ids_to_tokens([len(tokenizer), len(fast) - 1]) == ["<sen000>", "<sen031>"]
    assert Tokenizer.load(exported).fingerprint == tokenizer.fingerprint


def test_round_trip_is_bit_identical(exported: Path, metro_checkpoint: Path, tmp_path: Path) -> None:
    assert main(["to-fairseq", str(exported), "--output", str(tmp_path / "back")]) == 0
    before = torch.load(metro_checkpoint, weights_only=True)["model"]
    after = torch.load(tmp_path / "back" / "checkpoint.pt", weights_only=True)["model"]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_checkpoint(tmp_path / "back" / "checkpoint.pt").config == read_checkpoint(metro_checkpoint).config


def test_main_model_alone_makes_the_same_round_trip(metro_checkpoint: Path, tmp_path: Path) -> None:
    assert main(["fairseq", str(metro_checkpoint), "--output", str(tmp_path / "hf"), "--no-code"]) == 0
    assert not list((tmp_path / "hf").glob("*.py"))
    assert main(["to-fairseq", str(tmp_path / "hf"), "--output", str(tmp_path / "back")]) == 0
    before = read_checkpoint(metro_checkpoint)
    after = read_checkpoint(tmp_path / "back" / "checkpoint.pt")
    assert not after.pretraining_tensors()
    assert after.config == before.config.without_pretraining()
    assert after.fingerprint == before.fingerprint
    assert all(torch.equal(after.main_tensors()[name], tensor) for name, tensor in before.main_tensors().items())


def test_fairseq_train_fine_tunes_a_converted_directory(exported: Path, data: Path, tmp_path: Path) -> None:
    assert main(["to-fairseq", str(exported), "--output", str(tmp_path / "back")]) == 0
    for split in ("train", "valid"):
        rows = [{"source": "the quick brown fox", "target": "dog"}, {"source": "it isn't hard", "target": "rainy"}] * 8
        (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = fairseq_train(
        data, tmp_path / "more", "--task", "prompt_finetuning", "--arch", "metro_t5_demo", "--criterion",
        "prompt_cross_entropy", "--finetune-from-model", str(tmp_path / "back" / "checkpoint.pt"), "--lr", "0",
        "--max-source-positions", "32", "--max-target-positions", "16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    start = read_checkpoint(tmp_path / "back" / "checkpoint.pt")
    end = read_checkpoint(tmp_path / "more" / "checkpoint_last.pt")
    assert not end.pretraining_tensors()
    main_tensors = start.main_tensors()
    assert end.tensors.keys() == main_tensors.keys()
    # Two updates of learning rate 0: what was trained is what was converted.
    assert all(torch.equal(main_tensors[name], tensor) for name, tensor in end.tensors.items())
    assert (
        main(["fairseq", str(tmp_path / "more" / "checkpoint_last.pt"), "--output", str(tmp_path / "finetuned")]) == 0
    )


@torch.no_grad()
def test_vanilla_t5_becomes_transformers_own(t5_checkpoint: Path, tmp_path: Path) -> None:
    assert main(["fairseq", str(t5_checkpoint), "--output", str(tmp_path / "hf")]) == 0
    assert not list((tmp_path / "hf").glob("*.py"))
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf")
    assert type(model) is T5ForConditionalGeneration
    checkpoint = read_checkpoint(t5_checkpoint)
    reference = MetroT5(checkpoint.config, pad_id=1)
    reference.load_state_dict(checkpoint.tensors)
    source, mask, target = probe(checkpoint.config.vocab_size)
    expected = reference.eval().main.logits(reference.main(source, target, mask)[0])
    found = model(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert main(["to-fairseq", str(tmp_path / "hf"), "--output", str(tmp_path / "back")]) == 0
    after = read_checkpoint(tmp_path / "back" / "checkpoint.pt").tensors
    assert after.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in checkpoint.tensors.items())


def test_dtype_is_kept_or_chosen(metro_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torch.load(metro_checkpoint, weights_only=True)
    state["model"] = {n: t.half() if t.is_floating_point() else t for n, t in state["model"].items()}
    torch.save(state, tmp_path / "half.pt")
    assert main(["fairseq", str(tmp_path / "half.pt"), "--output", str(tmp_path / "kept")]) == 0
    assert main(["fairseq", str(tmp_path / "half.pt"), "--output", str(tmp_path / "wide"), "--dtype", "float32"]) == 0
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "kept").dtype == torch.float16
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "wide").dtype == torch.float32
    capsys.readouterr()
    assert main(["to-fairseq", str(tmp_path / "kept"), "--output", str(tmp_path / "back")]) == 0
    assert "float16" in capsys.readouterr().out


class Executed:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_executed(
    metro_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    state = torch.load(metro_checkpoint, weights_only=True)
    torch.save(state | {"args": Executed(tmp_path / "executed")}, tmp_path / "evil.pt")
    assert main(["fairseq", str(tmp_path / "evil.pt"), "--output", str(tmp_path / "hf")]) == 2
    assert not (tmp_path / "executed").exists()
    refusal = capsys.readouterr().err
    assert "holds more than tensors and plain values (" in refusal
    assert "weights_only" not in refusal, "torch advises to load it all the same"
    (tmp_path / "plain.pt").write_text('{"a": 1}')
    assert main(["fairseq", str(tmp_path / "plain.pt"), "--output", str(tmp_path / "hf")]) == 2
    assert "plain.pt: not a checkpoint that torch saved" in capsys.readouterr().err
    pickle.loads(pickle.dumps(Executed(tmp_path / "executed")))  # the attack does work where it is not refused
    assert (tmp_path / "executed").exists()


def test_refusals_are_one_line(metro_checkpoint: Path, tokenizer: Tokenizer, tmp_path: Path,
                               capsys: pytest.CaptureFixture) -> None:  # fmt: skip
    def refused(*arguments: str | Path) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"metro-t0-convert {arguments[0]}: error: ")
        assert error.count("\n") == 1
        return error

    assert "no such file" in refused("fairseq", tmp_path / "none.pt", "--output", tmp_path / "hf")
    (tmp_path / "cut.pt").write_bytes(metro_checkpoint.read_bytes()[:5000])
    assert "truncated" in refused("fairseq", tmp_path / "cut.pt", "--output", tmp_path / "hf")
    torch.save({"model": {"weight": torch.ones(1)}}, tmp_path / "other.pt")
    assert "not a checkpoint of this project" in refused("fairseq", tmp_path / "other.pt", "--output", tmp_path / "hf")

    (tmp_path / "vocabulary").mkdir()
    text = tokenizer.dict_path.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "vocabulary" / "dict.txt").write_text("".join(text[::-1]), encoding="utf-8")
    wrong = ("--tokenizer", tmp_path / "vocabulary")
    assert "not the vocabulary" in refused("fairseq", metro_checkpoint, "--output", tmp_path / "hf", *wrong)

    state = torch.load(metro_checkpoint, weights_only=True)
    state["model"]["metro.main.encoder.layers.0.feed_forward.wi.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "shape.pt")
    assert "(3, 3), not (48, 32)" in refused("fairseq", tmp_path / "shape.pt", "--output", tmp_path / "hf")
    del state["model"]["metro.main.encoder.layers.0.feed_forward.wi.weight"]
    torch.save(state, tmp_path / "missing.pt")
    assert "is missing" in refused("fairseq", tmp_path / "missing.pt", "--output", tmp_path / "hf")

    assert main(["fairseq", str(metro_checkpoint), "--output", str(tmp_path / "hf"), "--no-code"]) == 0
    capsys.readouterr()
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    del weights["main.decoder.layers.0.self_attention.q.weight"]
    save_file(weights, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    assert "self_attention.q.weight is missing" in refused("to-fairseq", tmp_path / "hf", "--output", tmp_path / "back")
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"not weights")
    assert "truncated" in refused("to-fairseq", tmp_path / "hf", "--output", tmp_path / "back")
    shutil.rmtree(tmp_path / "hf")

    assert "already exists" in refused("fairseq", metro_checkpoint, "--output", tokenizer.directory)
    assert "no config.json" in refused("to-fairseq", tmp_path, "--output", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["vocabulary"]  # nothing half-written


def test_damaged_pretraining_parts_are_one_line(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    directory = Path(shutil.copytree(exported, tmp_path / "hf"))
    parts = load_file(directory / "pretraining.safetensors")
    name = next(name for name in parts if name.startswith("rtd_head."))
    save_file({key: t for key, t in parts.items() if key != name}, directory / "pretraining.safetensors")
    convert_back = ["to-fairseq", str(directory), "--output", str(tmp_path / "back")]
    assert main(convert_back) == 2
    assert f"pretraining.safetensors: tensor {name} is missing" in capsys.readouterr().err
    (directory / "pretraining.safetensors").write_bytes(b"")
    assert main(convert_back) == 2
    assert "pretraining.safetensors: truncated or not a safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_a_conversion_whose_logits_differ_is_refused_and_leaves_nothing(
    metro_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By little more than rounding, and by NaN, which is greater than nothing."""
    original = convert._logits
    for wrong in (2e-4, float("nan")):
        monkeypatch.setattr(convert, "_logits", lambda model, wrong=wrong: original(model) + wrong)
        assert main(["fairseq", str(metro_checkpoint), "--output", str(tmp_path / "hf")]) == 2
        assert "its logits differ from the source's by" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(convert, "_logits", lambda model: original(model) + 2e-5)
    assert main(["fairseq", str(metro_checkpoint), "--output", str(tmp_path / "hf")]) == 0
    monkeypatch.setattr(convert, "_logits", lambda model: original(model) + float("nan"))
    assert main(["to-fairseq", str(tmp_path / "hf"), "--output", str(tmp_path / "back")]) == 2
    assert "back: its logits differ from the source's by nan" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["fairseq"], ["to-fairseq"], ["release"]):
        assert main([*arguments, "--help"]) == 0
        assert "metro-t0-convert release gonglinyuan/metro_t0_base" in capsys.readouterr().out
