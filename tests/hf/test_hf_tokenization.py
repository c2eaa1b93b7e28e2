"""The fast tokenizer of a directory: the ids of `metro_t0.tokenization` on any text, with any class that loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hf_helpers import TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from metro_t0.errors import UserError
from metro_t0.hf import MetroT5Config, MetroT5TokenizerFast
from metro_t0.hf.export import save_tokenizer
from metro_t0.tokenization import Tokenizer

SENTINELS = 32
PIECES = st.sampled_from(
    ["The", "fox", "isn't", " ", ".", "!?", "</s>", "<s>", "<pad>", "<sen000>", "“", "é", "\t", "''"]
)
ANY_TEXT = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map("".join))


@pytest.fixture(scope="module")
def directory(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, path, len(tokenizer) + SENTINELS, max_length=64)
    MetroT5Config(vocab_size=len(tokenizer) + SENTINELS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def fast(directory: Path) -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(directory)
    assert type(loaded) is MetroT5TokenizerFast
    return loaded


@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT)
def test_same_ids_on_any_text(fast: PreTrainedTokenizerFast, tokenizer: Tokenizer, text: str) -> None:
    assert fast(text)["input_ids"] == [0, *tokenizer.encode(text), 2]
    assert fast(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text)


def test_the_plain_class_gives_the_same(directory: Path, fast: PreTrainedTokenizerFast) -> None:
    plain = PreTrainedTokenizerFast.from_pretrained(directory)
    for text in [*TEXT.splitlines(), "</s> <sen000>", "“Curly” — it's", ""]:
        assert dict(plain(text)) == dict(fast(text))
    assert set(plain("a")) == {"input_ids", "attention_mask"}


def test_batches_are_padded_and_cut(fast: PreTrainedTokenizerFast) -> None:
    batch = fast(["fox", TEXT], padding=True, truncation=True, return_tensors="pt")
    assert batch["input_ids"].shape == (2, 64)
    assert batch["input_ids"][1, [0, -1]].tolist() == [0, 2]
    assert batch["input_ids"][0][batch["attention_mask"][0] == 0].unique().tolist() == [1]


def test_special_tokens_can_be_read_from_text_when_asked_for(directory: Path) -> None:
    reading = AutoTokenizer.from_pretrained(directory, split_special_tokens=False)
    assert reading("<sen000>")["input_ids"] == [0, len(reading) - SENTINELS, 2]


def test_decoding(fast: PreTrainedTokenizerFast, tokenizer: Tokenizer) -> None:
    text = "The quick brown fox isn't lazy ."
    assert fast.decode(fast(text)["input_ids"], skip_special_tokens=True) == text.lower()
    assert tokenizer.decode(fast(text)["input_ids"]) == text.lower()


def test_a_vocabulary_larger_than_the_model_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="120 ids, but the model has 100"):
        save_tokenizer(tokenizer, tmp_path, 100)
