"""Large batches through the word table: the same as `transformers` itself, whatever is asked for."""

from __future__ import annotations

import copy
import pickle
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_helpers import TEXT
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, processors
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerFast

from metro_t0.hf import MetroT5TokenizerFast, plain_batches
from metro_t0.hf.export import save_tokenizer
from metro_t0.hf.plain_batches import PlainBatch
from metro_t0.text_files import open_bytes
from metro_t0.tokenization import Tokenizer

TEXTS = [*TEXT.splitlines(), "", "the dogs' s", "</s> <sen000> fox", "“Curly” — it's\x85 ½", "a" * 300, "  "]
PIECES = st.sampled_from(["The", "fox", "isn't", " ", ".", "!?", "</s>", "<sen000>", "“", "é", "\t", "''", "' s", "▁"])
ANY_TEXT = st.one_of(st.text(max_size=30), st.lists(PIECES, max_size=20).map("".join))
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "padding": st.sampled_from([False, True, "longest", "max_length", "do_not_pad"]),
        "truncation": st.sampled_from([False, True, "longest_first", "only_first", "only_second"]),
        "max_length": st.sampled_from([1, 2, 3, 4, 7, 16, 500]),
        "add_special_tokens": st.booleans(),
        "pad_to_multiple_of": st.sampled_from([1, 4, 8]),
        "padding_side": st.sampled_from(["left", "right"]),
        "stride": st.sampled_from([0, 1]),
        "return_tensors": st.sampled_from(["np", "pt"]),
        "return_attention_mask": st.booleans(),
        "return_token_type_ids": st.booleans(),
        "return_special_tokens_mask": st.booleans(),
        "return_overflowing_tokens": st.booleans(),
        "return_offsets_mapping": st.booleans(),
        "return_length": st.booleans(),
        "split_special_tokens": st.booleans(),
        "verbose": st.booleans(),
    },
)


@pytest.fixture(scope="module")
def directory(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, path, len(tokenizer) + 8, max_length=64)
    return path


@pytest.fixture
def fast(directory: Path) -> MetroT5TokenizerFast:
    return MetroT5TokenizerFast.from_pretrained(directory)


@pytest.fixture
def stock(directory: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(directory)


@pytest.fixture(autouse=True)
def no_batch_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_batches, "MIN_CHARACTERS", 0)


def plain_value(value: Any) -> Any:
    """A tensor as something to compare; rows of different lengths are an array of arrays."""
    return type(value), value.dtype, value.shape, [row.tolist() for row in value]


def outcome(tokenizer: PreTrainedTokenizerFast, texts: list[str], options: dict[str, Any]) -> Any:
    """What a call gives, with the types of its tensors, or the error and its message."""
    try:
        batch = tokenizer(texts, **options)
    except Exception as error:
        return type(error), str(error)
    assert isinstance(batch, BatchEncoding)
    values = {key: value if isinstance(value, list) else plain_value(value) for key, value in batch.items()}
    return values, list(batch), batch.is_fast, batch.n_sequences


def check(fast: PreTrainedTokenizerFast, stock: PreTrainedTokenizerFast, texts: list[str], **options: Any) -> None:
    assert outcome(fast, texts, options) == outcome(stock, texts, options), (texts, options)


@pytest.mark.filterwarnings("ignore:.max_length. is ignored")
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(ANY_TEXT, max_size=6), options=OPTIONS, sides=st.tuples(*[st.sampled_from(["left", "right"])] * 2)
)
def test_any_texts_and_options(
    fast: MetroT5TokenizerFast,
    stock: PreTrainedTokenizerFast,
    texts: list[str],
    options: dict[str, Any],
    sides: tuple[str, str],
) -> None:
    assume(not options.get("stride") or options.get("max_length", 64) > 4)  # on which Rust panics
    for tokenizer in (fast, stock):
        tokenizer.padding_side, tokenizer.truncation_side = sides
    check(fast, stock, texts, **options)


def test_every_padding_truncation_and_special_token_option_takes_the_word_table(
    fast: MetroT5TokenizerFast, stock: PreTrainedTokenizerFast
) -> None:
    for padding, truncation, special, side, tensors in product(
        [True, "max_length"], [True, "only_first"], [True, False], ["left", "right"], [None, "np", "pt"]
    ):
        options = {"padding": padding, "truncation": truncation, "add_special_tokens": special, "max_length": 9}
        options |= {"padding_side": side, "return_tensors": tensors}
        assert isinstance(fast(TEXTS, **options), PlainBatch)
        check(fast, stock, TEXTS, **options)
    assert isinstance(fast(TEXTS), PlainBatch)
    check(fast, stock, TEXTS)


def test_what_is_asked_for_later_is_made_later(fast: MetroT5TokenizerFast, stock: PreTrainedTokenizerFast) -> None:
    batch, expected = fast(TEXTS, truncation=True, max_length=9), stock(TEXTS, truncation=True, max_length=9)
    for row in range(len(TEXTS)):
        assert batch.tokens(row) == expected.tokens(row)
        assert batch.word_ids(row) == expected.word_ids(row)
        assert batch[row].offsets == expected[row].offsets
    assert batch.char_to_token(0, 4) == expected.char_to_token(0, 4)
    for copied in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch)):
        assert (copied.data, copied.tokens(1)) == (expected.data, expected.tokens(1))


def test_other_inputs_are_those_of_transformers(fast: MetroT5TokenizerFast, stock: PreTrainedTokenizerFast) -> None:
    pairs = [(text, "fox") for text in TEXTS]
    assert dict(fast(TEXTS, TEXTS[::-1])) == dict(stock(TEXTS, TEXTS[::-1]))
    assert dict(fast(pairs)) == dict(stock(pairs))
    assert dict(fast([text.split() for text in TEXTS], is_split_into_words=True)) == dict(
        stock([text.split() for text in TEXTS], is_split_into_words=True)
    )
    assert dict(fast(TEXT, return_tensors="np")).keys() == dict(stock(TEXT, return_tensors="np")).keys()
    # Targets are as pretraining makes them: without <s>.
    assert fast(text=TEXTS, text_target=TEXTS)["labels"] == [ids[1:] for ids in stock(TEXTS)["input_ids"]]
    check(fast, stock, ["half of a pair \ud800", "fox"])
    check(fast, stock, [])


def test_changes_of_the_backend_are_seen(fast: MetroT5TokenizerFast, stock: PreTrainedTokenizerFast) -> None:
    def change(do: Any) -> None:
        fast(TEXTS)
        for tokenizer in (fast, stock):
            do(tokenizer)
        check(fast, stock, TEXTS, padding=True)

    def without_o(tokenizer: PreTrainedTokenizerFast) -> None:
        backend = tokenizer.backend_tokenizer
        backend.normalizer = normalizers.Sequence([backend.normalizer, normalizers.Replace("o", "e")])

    def without_end(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )

    change(without_o)
    change(lambda tokenizer: tokenizer.add_special_tokens({"extra_special_tokens": ["<extra>"]}))
    change(lambda tokenizer: tokenizer.add_tokens(["fox"]))
    change(without_end)
    change(lambda tokenizer: setattr(tokenizer, "model_input_names", ["input_ids"]))
    change(lambda tokenizer: setattr(tokenizer, "split_special_tokens", False))


def test_the_word_table_is_not_part_of_the_tokenizer(fast: MetroT5TokenizerFast, tmp_path: Path) -> None:
    before = pickle.dumps(fast)
    fast(TEXTS)
    assert len(pickle.dumps(fast)) < len(before) + 1_000
    again = pickle.loads(pickle.dumps(fast))
    assert dict(again(TEXTS)) == dict(copy.deepcopy(fast)(TEXTS)) == dict(fast(TEXTS))
    fast.save_pretrained(tmp_path)
    assert dict(AutoTokenizer.from_pretrained(tmp_path)(TEXTS)) == dict(fast(TEXTS))


def test_too_long_texts_are_warned_of_once(fast: MetroT5TokenizerFast, caplog: pytest.LogCaptureFixture) -> None:
    key = "sequence-length-is-longer-than-the-specified-maximum"
    fast(TEXTS, truncation=True)
    assert key not in fast.deprecation_warnings
    fast(TEXTS)
    assert fast.deprecation_warnings[key]


@pytest.mark.parametrize("name", ["vocab_32k", "vocab_64k"])
def test_real_lines(real_data: Path, name: str) -> None:
    fast = MetroT5TokenizerFast.from_vocabulary(real_data / "vocab" / name, num_sentinels=16, max_length=128)
    stock = PreTrainedTokenizerFast(
        tokenizer_object=fast.backend_tokenizer, split_special_tokens=True, model_max_length=128,
        bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    with open_bytes(real_data / "corpus" / "train-04.txt.zst") as stream:
        lines = stream.read(200_000).decode(errors="ignore").split("\n")
    assert len(lines) > 500
    batch, expected = fast(lines), stock(lines)
    assert isinstance(batch, PlainBatch)
    assert batch.data == expected.data
    padded, expected = (each(lines, padding=True, truncation=True, return_tensors="np") for each in (fast, stock))
    assert all(np.array_equal(padded[key], expected[key]) for key in ("input_ids", "attention_mask"))
    tensors = fast(lines, padding="max_length", truncation=True, return_tensors="pt")
    assert tensors["input_ids"].dtype == torch.int64
    assert np.array_equal(tensors["input_ids"], padded["input_ids"])
