"""The fast path (parts of words, one table) against the whole pipeline, text by text."""

from __future__ import annotations

import re
import string
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers

from metro_t0.data.python_docs import documents
from metro_t0.text_files import open_bytes
from metro_t0.tokenization import Tokenizer, parts, word_cache
from metro_t0.tokenization.arrow_strings import from_list, to_list
from metro_t0.tokenization.encoder import RustEncoder
from metro_t0.tokenization.normalization import build_normalizer, word_splitter
from metro_t0.tokenization.parts import cut_into_parts
from metro_t0.tokenization.training import BpeSettings, train_bpe


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return [line for document in documents("builtin:python-docs?max_mb=1") for line in document]


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(request: pytest.FixtureRequest, lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    words = Counter(word for line in lines for word in line.split())
    return train_bpe(words, BpeSettings(1_500, lowercase=request.param), tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> RustEncoder:
    return RustEncoder(tokenizer._rust)


def check(tokenizer: Tokenizer, encoder: RustEncoder, texts: list[str]) -> None:
    ids, sizes = tokenizer._cache.encode(texts)  # `encode_flat` leaves it out for little text
    expected = encoder.encode_texts(texts)
    assert sizes.tolist() == list(map(len, expected))
    assert ids.tolist() == [index for row in expected for index in row]


def test_running_text(tokenizer: Tokenizer, encoder: RustEncoder, lines: list[str]) -> None:
    check(tokenizer, encoder, lines)


@pytest.mark.parametrize("name", ["vocab_32k", "vocab_64k"])
@pytest.mark.parametrize("shard", ["train-00", "train-04"])
def test_real_text(real_data: Path, name: str, shard: str) -> None:
    tokenizer = Tokenizer.load(real_data / "vocab" / name)
    with open_bytes(real_data / "corpus" / f"{shard}.txt.zst") as stream:
        text = stream.read(3_000_000).decode(errors="ignore")
    check(tokenizer, RustEncoder(tokenizer._rust), text.split("\n"))


SIGNS = "aS1.'\"`_- ’é\u0301\x1c\u3000▁\x01"


def test_all_short_texts(tokenizer: Tokenizer, encoder: RustEncoder) -> None:
    check(tokenizer, encoder, ["".join(signs) for length in range(5) for signs in product(SIGNS[:12], repeat=length)])
    check(tokenizer, encoder, ["".join(signs) for signs in product(SIGNS, repeat=3)])


SNIPPETS = st.sampled_from(
    ["'", "''", "``", "’", "s", "S", "ll", "LL", "RE", "ve", "-", ".", '"', "(", ")", "_", "a", "Bc", "9", " ", "  ",
     "\t", "\n", "\x1c", "\x85", "\u3000", "\u200b", "\x00", "▁", "é", "e\u0301", "\u0301", "½", "日本", "…", "<s>",
     "\u200d", " \u200d\u0301", " ▁", "\u0600", "\ufe0f", "👩\u200d💻", "🏽", "\u0e33", "\uff9e", "\u00ad", "\ufdfa"]
)  # fmt: skip
ASCII = st.text(st.sampled_from(string.printable), max_size=6)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
TEXTS = st.lists(st.lists(SNIPPETS | ASCII | ANY, max_size=12).map("".join), max_size=5)


@settings(deadline=None, max_examples=1_500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS)
def test_made_text(tokenizer: Tokenizer, encoder: RustEncoder, texts: list[str]) -> None:
    check(tokenizer, encoder, texts)


@settings(deadline=None, max_examples=700, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS)
def test_made_text_with_the_character_map_of_a_released_vocabulary(released: Tokenizer, texts: list[str]) -> None:
    """Its map works on grapheme clusters, which may begin with the space before a word."""
    check(released, released._encoder, texts)


@pytest.fixture(scope="module")
def released(real_data: Path) -> Tokenizer:
    return Tokenizer.load(real_data / "vocab" / "vocab_32k")


@pytest.mark.parametrize("text", ["a \u200d\u0301", "\u200c\u200b \u200d\u0301", "x ▁ \u200b dog", "x ▁ \u200b"])
def test_ids_do_not_depend_on_how_much_text_is_in_the_call(released: Tokenizer, text: str) -> None:
    alone = released.encode(text)
    assert released.encode_batch([text] * 200) == [alone] * 200
    assert released.encode_batch(["word " * 100, text])[1] == alone


def test_one_exception_sends_no_other_word_down_the_slow_path(
    tokenizer: Tokenizer, encoder: RustEncoder, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{' '.join(lines[:200])} the dogs' s tail {' '.join(lines[200:400])}"
    expected = encoder.encode_texts([text])
    tokenizer._cache.encode([text])  # all parts are known now
    given: list[str] = []
    encode = tokenizer._encoder.encode_texts
    monkeypatch.setattr(tokenizer._encoder, "encode_texts", lambda texts: given.extend(texts) or encode(texts))
    assert [tokenizer._cache.encode([text])[0].tolist()] == expected
    assert "dogs' s" in given
    assert sum(map(len, given)) < len(text) / 20


def test_long_texts_are_cut_where_no_rule_looks_across(
    tokenizer: Tokenizer, encoder: RustEncoder, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_cache, "LONGEST_TEXT", 40)
    texts = ["", " ".join(lines[:50]), "dogs' s ▁ a' ll \u200d\u0301 " * 20, "", "日本" * 50, *lines[50:90]]
    assert len(word_cache._pieces(texts[1])) > 50
    check(tokenizer, encoder, texts)


@settings(deadline=None, max_examples=500)
@given(texts=TEXTS)
def test_parts_put_together_are_the_words(texts: list[str]) -> None:
    cut = cut_into_parts(texts)
    distinct = to_list(cut.distinct)
    assert len(set(distinct)) == len(distinct)
    for text, start, end in zip(texts, cut.text_ends[:-1], cut.text_ends[1:], strict=True):
        found = [distinct[index] for index in cut.indices[start:end]]
        assert "".join(found) == "".join(text.split())
        assert all(part.split() == [part] for part in found)


@given(st.lists(st.lists(st.integers(0, 99), max_size=1_500), max_size=6))
def test_growing_array(rows: list[list[int]]) -> None:
    growing = word_cache.Growing(np.int32)
    for row in rows:
        growing.extend(np.array(row, np.int32))
    assert growing.values.tolist() == [value for row in rows for value in row]
    assert len(growing) == sum(map(len, rows))


def test_where_words_are_cut() -> None:
    def cut(text: str) -> list[str]:
        found = cut_into_parts([text])
        distinct = to_list(found.distinct)
        return [distinct[index] for index in found.indices]

    assert cut('("Well-known," he said...)') == ['("', "Well-known", ',"', "he", "said", "...)"]
    assert cut("'s ('tis dogs' 'LL-x.") == ["'s", "('tis", "dogs", "'", "'LL-x", "."]
    assert cut("“café.” .é é. ---") == ["“café.”", ".é", "é.", "---"]
    assert cut("'em 'tis ''em 'll") == ["'", "em", "'tis", "''", "em", "'ll"]
    assert cut(" \t\x1c ") == cut("") == []


def test_batches_of_any_size_are_the_same(
    tokenizer: Tokenizer, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["", *lines[:2_000], "the dogs' s", "", ""]
    expected_ids, expected_sizes = tokenizer.encode_flat(texts)
    monkeypatch.setattr(word_cache, "CHARACTERS_AT_ONCE", 5_000)
    monkeypatch.setattr(parts, "CHARACTERS_AT_ONCE", 50)
    ids, sizes = tokenizer.encode_flat(texts)
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(sizes, expected_sizes)


def test_normalization_that_changes_ascii_is_not_left_out(tokenizer: Tokenizer, encoder: RustEncoder) -> None:
    assert encoder.are_plain(from_list(["dog"])).all()
    rust = tokenizer.to_fast()
    rust.normalizer = normalizers.Sequence([rust.normalizer, normalizers.Replace("o", "0")])
    changed = RustEncoder(rust)
    assert not changed.are_plain(from_list(["dog"])).any()
    cache = word_cache.WordCache(changed)
    ids, _ = cache.encode(["The good dog's (bone)."])
    assert [ids.tolist()] == changed.encode_texts(["The good dog's (bone)."])


def test_a_call_that_breaks_off_leaves_no_wrong_ids(encoder: RustEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(words: object) -> None:
        raise KeyboardInterrupt

    cache = word_cache.WordCache(encoder)
    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode_words", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.encode(["the good dog"])
    ids, _ = cache.encode(["a good bone", "the dog"])
    assert ids.tolist() == [index for row in encoder.encode_texts(["a good bone", "the dog"]) for index in row]


def test_threads_share_a_table(encoder: RustEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = encoder.encode_words
    monkeypatch.setattr(encoder, "encode_words", lambda words: time.sleep(0.1) or encode(words))
    cache, texts = word_cache.WordCache(encoder), ["the good dog", "a bone for it", "cats of dogs"]
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda text: cache.encode([text]), texts))
    assert [ids.tolist() for ids, _ in found] == encoder.encode_texts(texts)


PLAIN_WORD = re.compile(r"[0-9A-Za-z](?:[!-~]*[0-9A-Za-z])?|[!-/:-@\[-`{-~]+")


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists((ASCII | SNIPPETS | ANY).map(lambda text: "".join(text.split())).filter(bool), min_size=1))
def test_which_words_are_plain(encoder: RustEncoder, words: list[str]) -> None:
    expected = [bool(PLAIN_WORD.fullmatch(word)) and "''" not in word and "``" not in word for word in words]
    assert encoder.are_plain(from_list(words)).tolist() == expected


@given(texts=st.lists(st.text(max_size=9), max_size=30), size=st.integers(1, 40))
def test_runs_of_texts_are_whole_and_bounded(texts: list[str], size: int) -> None:
    runs = list(parts.batches(texts, size))
    assert [text for run in runs for text in run] == texts
    assert all(sum(map(len, run)) < 2 * size + 9 for run in runs)


def test_a_piece_across_word_marks_is_never_used() -> None:
    pieces = [("<unk>", -20.0), ("▁", -3.0), ("a", -3.0), ("b", -3.0), ("▁a", -4.0), ("▁b", -4.0), ("▁a▁b", -1.0)]
    rust = RustTokenizer(models.Unigram(pieces, unk_id=0))
    rust.normalizer, rust.pre_tokenizer = build_normalizer([], lowercase=True), word_splitter()
    ids, lengths = RustEncoder(rust).encode_plain_forms(from_list(["a", "b", "ab"]))
    assert [ids.tolist()] == RustEncoder(rust).encode_texts(["a b ab"])
    assert lengths.tolist() == [1, 1, 2]


def test_plain_words_take_no_regular_expressions(
    tokenizer: Tokenizer, encoder: RustEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"w{number}-x" for number in range(1_000)]
    expected = encoder.encode_texts([" ".join(words)])
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: [] if not texts else pytest.fail("fell back"))
    ids, _ = word_cache.WordCache(encoder).encode([" ".join(words)])
    assert [ids.tolist()] == expected


def test_vocabulary_without_the_word_mark_alone(encoder: RustEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = from_list(["dog", "x-y", "..."])
    ids, lengths = encoder.encode_plain_forms(forms)
    monkeypatch.setattr(encoder, "_begins_word", np.zeros_like(encoder._begins_word))
    again = encoder.encode_plain_forms(forms)
    assert np.array_equal(again[0], ids)
    assert np.array_equal(again[1], lengths)
