"""The released sp.model + dict.txt: ids against the slow definition, on real text, made text and every character."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import string
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece_oracle import SentencePieceOracle

from metro_t0.errors import UserError
from metro_t0.tokenization import Tokenizer

VOCABULARIES = {"vocab_32k": True, "vocab_64k": False}
SIZES = {"vocab_32k": 32_768, "vocab_64k": 64_000}


class Pair:
    def __init__(self, directory: Path, lowercase: bool) -> None:
        self.ours = Tokenizer.load(directory)
        self.oracle = SentencePieceOracle(directory, lowercase)

    def whole(self, texts: list[str]) -> list[list[int]]:
        """The Rust pipeline alone, as Hugging Face runs it (but with the names of special tokens as text)."""
        return self.ours._cache._encoder.encode_texts(texts)


@pytest.fixture(scope="module", params=VOCABULARIES)
def pair(request: pytest.FixtureRequest, real_data: Path) -> Pair:
    pytest.importorskip("sentencepiece")
    return Pair(real_data / "vocab" / request.param, VOCABULARIES[request.param])


def corpus_lines(real_data: Path) -> list[str]:
    with zstandard.open(real_data / "corpus" / "valid-00.txt.zst", "rt", encoding="utf-8") as stream:
        return stream.read().split("\n")


def strings_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)


def task_texts(real_data: Path, rows_per_file: int) -> list[str]:
    texts: list[str] = []
    for path in sorted((real_data / "tasks").rglob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for _, line in zip(range(rows_per_file), stream, strict=False):
                texts += strings_of(json.loads(line))
    return texts


def is_tie(pair: Pair, ours: list[int], theirs: list[int]) -> bool:
    """Two cuts of one score: SentencePiece adds scores in float32, Rust in float64, and rounding decides."""
    score = pair.oracle.processor.get_score
    return abs(sum(map(score, ours)) - sum(map(score, theirs))) < 1e-4 * len(theirs)


def ties(pair: Pair, texts: list[str]) -> int:
    """Number of texts cut otherwise than by the definition; fails unless all of these are ties."""
    cached, whole = pair.ours.encode_batch(texts), pair.whole(texts)
    assert cached == whole
    different = 0
    for text, ours in zip(texts, whole, strict=True):
        theirs = pair.oracle.encode(text)
        if ours != theirs:
            assert is_tie(pair, ours, theirs), text
            different += 1
    return different


def test_ids_on_real_text(pair: Pair, real_data: Path) -> None:
    lines, tasks = corpus_lines(real_data), task_texts(real_data, rows_per_file=8)
    assert len(lines) > 4_000
    assert len(tasks) > 2_500
    assert ties(pair, lines) <= 2
    # The many ties are in chemical formulas, which repeat short pieces.
    assert ties(pair, tasks) <= len(tasks) // 100


# Random sequences of marks on compatibility characters are where the map of characters in Rust and in C++ part.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn", "Mn", "Mc", "Me"])
SNIPPETS = st.sampled_from(
    ["'", "''", "``", "’", "'s", "' s", "'LL", "'ll", "' RE-do", "'ve", "\"", "_", "-", "—", "...", "…", "(", ")",
     "\u2581", "[MASK]", "<s>", "</s>", "<unk>", "<pad>", " ", "\t", "\x1c", "\x85", "\u3000", "\u200b", "s",
     "t's", "x'RE.", "²", "é", "e\u0301", "E\u0301", "\ufb01", "½", "½x", "日本", "the", "Dogs'", "İ", "Σ", "ß",
     "\ufeff", "\xad", "𝐀", "¨", "～"]
)  # fmt: skip
MADE_TEXT = st.lists(SNIPPETS | st.text(CHARACTERS, max_size=4) | st.just(" "), max_size=12).map("".join)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=MADE_TEXT)
def test_ids_on_made_text(pair: Pair, text: str) -> None:
    expected = pair.oracle.encode(text)
    [whole] = pair.whole([text])
    assert pair.ours.encode(text) == whole
    assert pair.ours._cache.encode([text])[0].tolist() == whole
    assert whole == expected or is_tie(pair, whole, expected)


def test_every_character(pair: Pair) -> None:
    characters = [
        chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cs", "Cn")
    ]
    random.Random(0).shuffle(characters)
    texts = [f"a{c} {c}b c{c}d '{c}s" for c in characters[:8_000]]
    assert ties(pair, texts) == 0


def test_one_mark_on_any_latin_letter(pair: Pair) -> None:
    marks = [chr(code) for code in range(0x300, 0x370)]
    assert ties(pair, [" ".join(f"x{letter}{mark}y" for mark in marks) for letter in string.ascii_letters]) == 0


def test_sizes_and_case(pair: Pair, request: pytest.FixtureRequest) -> None:
    name = pair.ours.directory.name
    assert len(pair.ours) == SIZES[name]
    assert (pair.ours.encode("The") == pair.ours.encode("the")) == VOCABULARIES[name]


def test_saved_directory_gives_the_same_ids(pair: Pair, tmp_path: Path, real_data: Path) -> None:
    pair.ours.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dict.txt", "tokenizer.json"]
    saved = Tokenizer.load(tmp_path)
    lines = corpus_lines(real_data)[:300]
    assert saved.encode_batch(lines) == pair.ours.encode_batch(lines)
    assert saved.fingerprint == pair.ours.fingerprint


def test_hugging_face_loads_the_saved_directory(pair: Pair, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pair.ours.save(tmp_path)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "The dogs' s bark, it's \"loud\" ('very')."
    assert fast(text)["input_ids"] == [0, *pair.oracle.encode(text), 2]


def test_files_that_do_not_belong_together(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "vocab" / "vocab_32k" / "sp.model", tmp_path)
    shutil.copy(real_data / "vocab" / "vocab_64k" / "dict.txt", tmp_path)
    with pytest.raises(UserError, match="do not belong together"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"<!doctype html>", b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_sentencepiece_model(real_data: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copy(real_data / "vocab" / "vocab_32k" / "dict.txt", tmp_path)
    (tmp_path / "sp.model").write_bytes(content)
    with pytest.raises(UserError, match=r"sp\.model: not a SentencePiece model"):
        Tokenizer.load(tmp_path)
