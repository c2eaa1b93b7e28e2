"""Small randomly initialized models with local tokenizers, and a directory of made-up data sets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from metro_t0.hf import MetroT5Config, MetroT5ForConditionalGeneration
from metro_t0.hf.export import save_directory
from metro_t0.tokenization import Tokenizer as MetroTokenizer
from metro_t0.tokenization.training import BpeSettings, train_bpe

TEXT = [
    "Does the first sentence mean that the second is true, or is it false? Yes, no or maybe.",
    "The council met in March. The mayor said that taxes would rise, guaranteed. Which option is correct?",
    "Among the 4 following options, which is the correct answer? Here's a problem to solve: red green blue.",
]
VOCABULARY_SIZE = 200


def save_tokenizer(directory: Path, with_start: bool) -> None:
    """A BPE tokenizer that ends every text with </s> and, as BART's does, may begin it with <s>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if with_start else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    start = {"bos_token": "<s>"} if with_start else {}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", **start
    )
    fast.save_pretrained(directory)


def t5_config(**changes: object) -> T5Config:
    sizes = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2, "vocab_size": VOCABULARY_SIZE}
    ids = {"decoder_start_token_id": 1, "pad_token_id": 1, "eos_token_id": 2}
    return T5Config(**{**sizes, **ids, **changes})


def bart_config() -> BartConfig:
    return BartConfig(
        vocab_size=VOCABULARY_SIZE,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=600,
        init_std=0.3,
        decoder_start_token_id=2,
    )


@pytest.fixture(scope="session")
def model_directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved models: t5 (tied, ReLU), t5v1.1 (untied, gated), bart."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    made = {
        "t5": T5ForConditionalGeneration(t5_config()),
        "t5v1.1": T5ForConditionalGeneration(t5_config(feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
        "bart": BartForConditionalGeneration(bart_config()),
    }
    made["bart"].generation_config.forced_bos_token_id = 0  # as facebook/bart-large has it
    for name, model in made.items():
        model.save_pretrained(root / name)
        save_tokenizer(root / name, with_start=name == "bart")
    return {name: root / name for name in made}


@pytest.fixture(scope="session")
def metro_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A METRO-T5 with weights away from their initial values and a tokenizer of its own."""
    directory = tmp_path_factory.mktemp("metro")
    words = Counter(word for line in TEXT for word in line.split())
    train_bpe(words, BpeSettings(vocab_size=120, lowercase=True), directory / "vocabulary")
    tokenizer = MetroTokenizer.load(directory / "vocabulary")
    torch.manual_seed(2)
    sizes = {"d_model": 32, "num_heads": 4, "ffn_dim": 64, "encoder_layers": 2, "decoder_layers": 2}
    model = MetroT5ForConditionalGeneration(MetroT5Config(vocab_size=len(tokenizer), max_positions=512, **sizes))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    save_directory(model.eval(), directory / "model", tokenizer, with_code=False)
    return directory / "model"


def write_rows(directory: Path, name: str, rows: list[dict[str, object]]) -> None:
    path = directory / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up rows with the columns of RTE, COPA and MMLU."""
    root = tmp_path_factory.mktemp("data")
    words = ["the", "council", "met", "in", "march", "and", "taxes", "would", "rise", "green", "blue", "red"]

    def sentence(i: int, length: int) -> str:
        return " ".join(words[(i * 7 + k * 3) % len(words)] for k in range(length)) + "."

    write_rows(
        root,
        "super_glue/rte/validation",
        [
            {"premise": sentence(i, 4 + i % 9), "hypothesis": sentence(i + 1, 4), "idx": i, "label": i % 2}
            for i in range(14)
        ],
    )
    write_rows(
        root,
        "super_glue/copa/validation",
        [
            {
                "premise": sentence(i, 6),
                "choice1": sentence(i + 2, 3),
                "choice2": sentence(i + 3, 5),
                "question": ("cause", "effect")[i % 2],
                "idx": i,
                "label": i % 2,
            }
            for i in range(10)
        ],
    )
    write_rows(
        root,
        "mmlu/validation",
        [
            {
                "question": sentence(i, 5) + str(i),
                "subject": ("anatomy", "virology")[i % 2],
                "choices": [sentence(i + k, 2) for k in range(4)],
                "answer": i % 4,
            }
            for i in range(8)
        ],
    )
    return root
