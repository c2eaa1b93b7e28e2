"""Tools around transformers: pipeline, accelerate, torch.compile, PEFT, the evaluation harness, Trainer's collator."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_helpers import ROOT, randomized
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TorchAoConfig,
)

from metro_t0.hf import MetroT5ForConditionalGeneration, Text2TextGenerationPipeline
from metro_t0.hf.export import save_directory, to_hugging_face
from metro_t0.modeling import MetroT5, ModelConfig
from metro_t0.tokenization import Tokenizer

TEXTS = ["the quick brown fox jumps over the lazy dog", "it isn't hard !"]


@pytest.fixture(scope="module")
def directory(small_config: ModelConfig, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model"
    save_directory(to_hugging_face(randomized(MetroT5(small_config, pad_id=1))), path, tokenizer)
    return path


@pytest.fixture
def batch(directory: Path) -> dict[str, torch.Tensor]:
    return dict(AutoTokenizer.from_pretrained(directory)(TEXTS, padding=True, return_tensors="pt"))


@pytest.fixture
def model(directory: Path) -> MetroT5ForConditionalGeneration:
    return AutoModelForSeq2SeqLM.from_pretrained(directory)


def test_pipeline(directory: Path, model: MetroT5ForConditionalGeneration, batch: dict[str, torch.Tensor]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    pipe = Text2TextGenerationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    expected = tokenizer.batch_decode(model.generate(**batch, max_new_tokens=6), skip_special_tokens=True)
    assert pipe(TEXTS, max_new_tokens=6, batch_size=2) == [[{"generated_text": text}] for text in expected]
    assert pipe(TEXTS[0], generation_config=GenerationConfig(max_new_tokens=6)) == [{"generated_text": expected[0]}]
    assert len(pipe(TEXTS[0], num_beams=3, num_return_sequences=3, max_new_tokens=6)) == 3
    assert pipe("dog " * 100, max_new_tokens=1)  # longer than the model's positions


def test_device_map(directory: Path, model: MetroT5ForConditionalGeneration, batch: dict[str, torch.Tensor]) -> None:
    from accelerate import infer_auto_device_map

    mapped = AutoModelForSeq2SeqLM.from_pretrained(directory, device_map="auto")
    assert torch.equal(mapped.generate(**batch, max_new_tokens=6), model.generate(**batch, max_new_tokens=6))
    memory = {0: 90_000, 1: 90_000, "cpu": 10**9}
    places = infer_auto_device_map(mapped, memory, no_split_module_classes=mapped._no_split_modules)
    assert len(set(places.values())) > 1
    assert not any(".layers." in name and name.rpartition(".")[2] not in "012" for name in places), places


@torch.no_grad()
def test_compiles_into_one_graph(model: MetroT5ForConditionalGeneration, batch: dict[str, torch.Tensor]) -> None:
    target = torch.tensor([[2, 40, 9], [2, 7, 8]])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = compiled(**batch, decoder_input_ids=target, use_cache=False).logits
    expected = model(**batch, decoder_input_ids=target).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_lora(model: MetroT5ForConditionalGeneration, batch: dict[str, torch.Tensor], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"], r=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = peft.get_peft_model(model, settings)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0)
    labels = torch.tensor([[40, 9, 2], [7, 8, 2]])
    losses = []
    for _ in range(5):
        loss = adapted(**batch, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    adapted.save_pretrained(tmp_path)
    adapted.eval()
    expected = adapted.generate(**batch, max_new_tokens=4)
    merged = adapted.merge_and_unload()
    assert torch.equal(merged.generate(**batch, max_new_tokens=4), expected)
    changed = {name for name, tensor in merged.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.endswith((".q.weight", ".v.weight")) for name in changed)


def test_token_tables_that_an_adapter_trained_apart_are_not_saved_as_one(
    model: MetroT5ForConditionalGeneration, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    decoder = {"decoder_input_ids": torch.tensor([[2, 40], [2, 7]])}

    def trained(**settings: Any) -> Any:
        lora = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q"], r=2, **settings)
        adapted = peft.get_peft_model(copy.deepcopy(model), lora)
        adapted(**batch, labels=torch.tensor([[40, 9, 2], [7, 8, 2]])).loss.backward()
        torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=1.0).step()
        return adapted.merge_and_unload().eval()

    with pytest.raises(ValueError, match="token tables of their own"):
        trained(modules_to_save=["tokens"]).save_pretrained(tmp_path / "apart")
    merged = trained(trainable_token_indices=[7, 9, 40])
    merged.save_pretrained(tmp_path / "one")
    again = MetroT5ForConditionalGeneration.from_pretrained(tmp_path / "one")
    assert not torch.equal(again(**batch, **decoder).logits, model.eval()(**batch, **decoder).logits)
    assert torch.equal(again(**batch, **decoder).logits, merged(**batch, **decoder).logits)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("IA3Config", {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]}),
        ("PromptTuningConfig", {"num_virtual_tokens": 4}),
        ("PrefixTuningConfig", {"num_virtual_tokens": 4}),
    ],
)
def test_other_adapters(
    name: str, settings: dict[str, object], model: MetroT5ForConditionalGeneration, batch: dict[str, torch.Tensor]
) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, getattr(peft, name)(task_type="SEQ_2_SEQ_LM", **settings))
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(5):
        loss = adapted(**batch, labels=torch.tensor([[40, 9, 2], [7, 8, 2]])).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert adapted.eval().generate(**batch, max_new_tokens=4).shape[0] == 2


def test_assisted_generation(
    directory: Path, model: MetroT5ForConditionalGeneration, batch: dict[str, torch.Tensor]
) -> None:
    one = {name: tensor[:1] for name, tensor in batch.items()}
    assistant = AutoModelForSeq2SeqLM.from_pretrained(directory)
    expected = model.generate(**one, max_new_tokens=8)
    assert torch.equal(model.generate(**one, max_new_tokens=8, assistant_model=assistant), expected)


def test_torchao_int8(
    directory: Path, model: MetroT5ForConditionalGeneration, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    quantized = AutoModelForSeq2SeqLM.from_pretrained(directory, quantization_config=config)
    labels = torch.tensor([[40, 9, 2], [7, 8, 2]])
    expected, found = (each(**batch, labels=labels).logits for each in (model, quantized))
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    quantized.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)(**batch, labels=labels).logits, found)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.25)])
def test_bitsandbytes_on_cpu(bits: int, error: float, tmp_path: Path, small_config: ModelConfig,
                             batch: dict[str, torch.Tensor]) -> None:  # fmt: skip
    pytest.importorskip("bitsandbytes")
    wide = small_config.replace(d_model=64, ffn_dim=128, head_dim=16)  # 4 bits: 64 numbers share a scale
    save_directory(to_hugging_face(randomized(MetroT5(wide, pad_id=1), 0.1)), tmp_path, None)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    settings = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    quantized = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, quantization_config=settings, device_map="cpu")
    labels = torch.tensor([[40, 9, 2], [7, 8, 2]])
    expected, found = (each(**batch, labels=labels).logits.float() for each in (model, quantized))
    assert (found - expected).abs().max() < error * expected.abs().max()


def test_collator_makes_decoder_inputs(model: MetroT5ForConditionalGeneration, directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = [{"input_ids": tokenizer(text)["input_ids"], "labels": [40, 9, 2][: 3 - i]} for i, text in enumerate(TEXTS)]
    batch = DataCollatorForSeq2Seq(tokenizer, model)(rows)
    assert batch["labels"].tolist() == [[40, 9, 2], [40, 9, -100]]
    assert batch["decoder_input_ids"].tolist() == [[2, 40, 9], [2, 40, 9]]
    assert model(**batch).loss.isfinite()


def test_trainer_learns_targets_and_generates_them(directory: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(directory))
    pairs = [("the quick brown fox", "dog"), ("it isn't hard", "rainy")]
    rows = [
        {
            "input_ids": tokenizer(source)["input_ids"],
            "labels": [*tokenizer(target, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id],
        }
        for source, target in pairs * 4
    ]
    settings = Seq2SeqTrainingArguments(
        str(tmp_path), max_steps=60, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2,
        use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
        gradient_checkpointing=True, predict_with_generate=True, generation_max_length=12,
    )  # fmt: skip
    collator = DataCollatorForSeq2Seq(tokenizer, model)
    trainer = Seq2SeqTrainer(model, settings, train_dataset=rows, data_collator=collator, processing_class=tokenizer)
    trainer.train()
    generated = trainer.predict(rows[:2]).predictions
    assert tokenizer.batch_decode(generated, skip_special_tokens=True) == ["dog", "rainy"]


def test_trainer_on_two_processes(directory: Path, tmp_path: Path) -> None:
    """torchrun, gloo, DDP: it trains, and process 0 saves a directory that loads."""
    script = str(Path(__file__).parent / "trainer_process.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, script, str(directory), str(tmp_path / "two")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (AutoModelForSeq2SeqLM.from_pretrained(path) for path in (directory, tmp_path / "two"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    batch = tokenizer(["the quick brown fox"], text_target=["dog"], return_tensors="pt")
    assert after(**batch).loss < before(**batch).loss


@torch.no_grad()
def test_evaluation_harness(directory: Path, model: MetroT5ForConditionalGeneration, tmp_path: Path,
                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"text": text, "label": index % 2} for index, text in enumerate(TEXTS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = {
        "task": "metro_tiny", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "doc_to_text": "{{text}}", "doc_to_choice": ["lazy dog", "quick fox"], "doc_to_target": "label",
    }  # fmt: skip
    results = lm_eval.simple_evaluate(
        model="hf", model_args={"pretrained": str(directory), "backend": "seq2seq"}, device="cpu", batch_size=2,
        tasks=[task], task_manager=TaskManager(), bootstrap_iters=0,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(directory)
    correct = 0
    for row, sample in zip(rows, results["samples"]["metro_tiny"], strict=True):
        scores = []
        for choice, (harness, _) in zip(("lazy dog", "quick fox"), sample["filtered_resps"], strict=True):
            labels = tokenizer(f" {choice}", add_special_tokens=False, return_tensors="pt")["input_ids"]
            source = tokenizer(row["text"], return_tensors="pt")["input_ids"]
            chosen = model(input_ids=source, labels=labels).logits.log_softmax(-1).gather(-1, labels[..., None])
            scores.append(chosen.sum().item())
            assert float(harness) == pytest.approx(scores[-1], abs=1e-3)
        correct += scores.index(max(scores)) == row["label"]
    assert results["results"]["metro_tiny"]["acc,none"] == correct / len(rows)
