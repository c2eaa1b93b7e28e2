"""Generated predictions: metrics against definitions, files, resume, greedy search against a plain loop."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from eval.cli import main
from eval.generate import reference_text
from eval.loading import load_model
from eval.settings import GenerationSettings, ModelSettings
from eval.text_metrics import (
    METRICS,
    best_over_references,
    bootstrap_midpoint,
    exact_match,
    rouge1,
    squad_em,
    squad_f1,
    token_f1,
)
from metro_t0.data.pairs import Pair, read_pairs
from metro_t0.errors import UserError

WORDS = ["<pad>", "</s>", "<unk>", "red", "green", "blue", "is", "the", "sky", "a"]


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    tokenizer.save_pretrained(directory)
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    # What a published model may have been saved with, and what one prediction for each source has no use for.
    model.generation_config.update(num_beams=2, num_return_sequences=2, return_dict_in_generate=True)
    model.save_pretrained(directory)
    return directory


@pytest.fixture
def file(tmp_path):
    rows = [{"source": f"the sky is {color}", "references": ["blue", "green sky"]} for color in WORDS[3:6]] * 5
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(model_directory, file, output, *more):
    where = ["--model", str(model_directory), "--file", str(file), "--output", str(output), "--device", "cpu"]
    return main(["generate", *where, "--max-target-tokens", "6", "--batch-size", "2", *more])


def test_greedy_predictions_are_those_of_a_plain_loop(model_directory, file, tmp_path):
    assert run(model_directory, file, tmp_path / "out", "--beams", "1") == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(15))
    model = T5ForConditionalGeneration.from_pretrained(model_directory).eval()
    for row in rows[:3]:
        source = torch.tensor([[WORDS.index(word) for word in row["source"].split()]])
        decoded = torch.tensor([[0]])
        for _ in range(6):
            decoded = torch.cat([decoded, model(source, decoder_input_ids=decoded).logits[:, -1:].argmax(-1)], 1)
            if decoded[0, -1] == 1:
                break
        assert row["prediction"] == " ".join(WORDS[i] for i in decoded[0].tolist() if i > 2 or i == 2)
        assert row["rouge1"] == max(rouge1(row["prediction"], reference) for reference in row["references"])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["examples"] == 15
    assert summary["f1"] == pytest.approx(sum(row["f1"] for row in rows) / 15)


def test_a_killed_run_goes_on(model_directory, file, tmp_path):
    run(model_directory, file, tmp_path / "whole")
    run(model_directory, file, tmp_path / "cut")
    path = tmp_path / "cut" / "predictions.jsonl"
    whole = (tmp_path / "whole" / "predictions.jsonl").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert run(model_directory, file, tmp_path / "cut") == 0
    assert path.read_bytes() == whole


def test_long_texts_and_a_tokenizer_without_padding(model_directory, tmp_path, capsys):
    """A table of 32 positions; padding by the end token."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_directory / name).read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}))
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    config = BartConfig(vocab_size=len(WORDS), d_model=16, **layers, **ids, max_position_embeddings=32)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    (tmp_path / "pairs.tsv").write_text("the sky is a\tblue\n" + "the sky " * 40 + "\tblue\n")
    assert run(tmp_path, tmp_path / "pairs.tsv", tmp_path / "out") == 2
    assert "longer than the model's table of positions; give a smaller --max-source" in capsys.readouterr().err
    assert run(tmp_path, tmp_path / "pairs.tsv", tmp_path / "out", "--max-source-tokens", "20") == 0


def test_another_setting_needs_another_directory(model_directory, file, tmp_path, capsys):
    run(model_directory, file, tmp_path / "out")
    assert run(model_directory, file, tmp_path / "out", "--beams", "2") == 2
    assert "beams 4 -> 2" in capsys.readouterr().err


def test_roundtrip_references_forgive_what_the_vocabulary_lacks(model_directory, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("the sky\tblue { purple\n")
    for kind, wanted in (("raw", "blue { purple"), ("roundtrip", "blue")):
        assert run(model_directory, path, tmp_path / kind, "--reference", kind) == 0
        row = json.loads((tmp_path / kind / "predictions.jsonl").read_text())
        assert row["references"] == [wanted]


def test_a_reference_has_room_for_all_that_the_model_can_write(metro_directory):
    loaded = load_model(ModelSettings(str(metro_directory), device="cpu"))
    text = "the mayor said that taxes would rise"
    written = len(loaded.tokenizer(text_target=text)["input_ids"])  # without the <s> of a source
    settings = GenerationSettings(reference="roundtrip", max_target_tokens=written)
    assert reference_text(loaded, text, settings) == text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "one\ttwo\nthree\n", "a.tsv:2: has 0 tabs"),
        ("a.jsonl", '{"source": "x"}\n', "a.jsonl:1: has no field target"),
        ("a.jsonl", '{"source": "x", "references": []}\n', "has no field target"),
        ("a.jsonl", "", "no examples"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_pairs(path)
    (tmp_path / "good.tsv").write_text("a b\tc\n")
    assert read_pairs(tmp_path / "good.tsv") == [Pair("a b", ("c",))]


def test_the_target_is_the_first_reference(tmp_path):
    path = tmp_path / "from.tsv.jsonl"
    rows = [{"target": "b", "references": ["c"]}, {"target": "c", "references": ["c", "c"]}, {"references": ["d", "b"]}]
    path.write_text("".join(json.dumps({"source": "a", **row}) + "\n" for row in rows))
    assert [pair.references for pair in read_pairs(path)] == [("b", "c"), ("c", "c"), ("d", "b")]


def test_definitions():
    assert token_f1("[IN:A x ]", "[IN:A y ]") == pytest.approx(100 * 2 / 3)
    assert token_f1("a a", "a b") == 50
    assert token_f1("A", "a") == 0
    assert exact_match("a ", "a") == 0
    assert squad_em("The  Cat!", "cat") == 100
    assert squad_f1("the black cat", "a cat sat") == 50
    assert squad_f1("the", "a") == 100
    assert rouge1("a b c d", "b a") == pytest.approx(100 * 2 / 3)
    assert best_over_references(squad_em, "cat", ["dog", "the cat"]) == 100
    assert bootstrap_midpoint([float(i % 10) for i in range(2000)]) == pytest.approx(4.5, abs=0.1)


texts = st.text("ab {}.", max_size=12)


@given(texts, texts)
def test_bounds_and_symmetry(a, b):
    for name, metric in METRICS.items():
        assert 0 <= metric(a, b) <= 100.0 + 1e-9, name
        assert metric(a, b) == pytest.approx(metric(b, a))
    assert exact_match(a, b) <= squad_em(a, b) <= squad_f1(a, b)
