"""Our own vocabularies: training, files, round trips, the word cache against the whole pipeline."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentencepiece_oracle import normalize

from metro_t0.data.python_docs import documents
from metro_t0.errors import UserError
from metro_t0.tokenization import Tokenizer, word_cache
from metro_t0.tokenization.training import BpeSettings, train_bpe


@pytest.fixture(scope="module")
def words() -> Counter[str]:
    counts: Counter[str] = Counter()
    for document in documents("builtin:python-docs?max_mb=1"):
        for line in document:
            counts.update(line.split())
    return counts


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(
    request: pytest.FixtureRequest, words: Counter[str], tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    return train_bpe(words, BpeSettings(1_500, lowercase=request.param), tmp_path_factory.mktemp("vocabulary"))


def test_size_and_ids_follow_dict_txt(tokenizer: Tokenizer) -> None:
    lines = tokenizer.dict_path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1_496
    assert len(tokenizer) == 1_500
    fast = tokenizer.to_fast(num_sentinels=2)
    assert [fast.id_to_token(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert [fast.id_to_token(4 + k) for k in range(len(lines))] == [line.rsplit(" ", 1)[0] for line in lines]
    assert [fast.id_to_token(1_500 + k) for k in range(3)] == ["<sen000>", "<sen001>", None]


def test_counts_in_dict_txt_are_those_of_the_text(tokenizer: Tokenizer, words: Counter[str]) -> None:
    expected: Counter[int] = Counter()
    for ids, count in zip(tokenizer.encode_batch(list(words)), words.values(), strict=True):
        for index in ids:
            expected[index] += count
    for number, line in enumerate(tokenizer.dict_path.read_text(encoding="utf-8").splitlines()):
        assert int(line.rsplit(" ", 1)[1]) == expected[4 + number], line


def test_fairseq_reads_the_vocabulary(tokenizer: Tokenizer) -> None:
    dictionary = pytest.importorskip("fairseq.data").Dictionary.load(str(tokenizer.dict_path))
    assert len(dictionary) == len(tokenizer)
    ids = tokenizer.encode("The quick brown fox can't (or won't) jump.")
    assert "".join(dictionary[i] for i in ids).replace("▁", " ").strip() == tokenizer.decode(ids)


def test_training_is_deterministic(words: Counter[str], tokenizer: Tokenizer, tmp_path: Path) -> None:
    lowercase = "cased" not in tokenizer.directory.name and tokenizer.encode("The") == tokenizer.encode("the")
    shuffled = Counter(dict(sorted(words.items(), reverse=True)))
    again = train_bpe(shuffled, BpeSettings(1_500, lowercase=lowercase), tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.rules_fingerprint == tokenizer.rules_fingerprint


def test_decoding_gives_the_normalized_text_back(tokenizer: Tokenizer) -> None:
    text = "He said: ''It's the dogs' s — \"isn't\" it?''  (Yes, 100%.)"
    expected = normalize(text)
    if tokenizer.encode("The") == tokenizer.encode("the"):
        expected = expected.lower()
    assert tokenizer.decode([0, *tokenizer.encode(text), 2, 1_500, 1]) == expected


def test_names_of_special_tokens_are_text(tokenizer: Tokenizer) -> None:
    for text in ("</s>", "a</s>b", "x <s> <pad>"):
        assert not {0, 1, 2} & set(tokenizer.encode(text))
    assert 2 in tokenizer.to_fast().encode("a </s> b", add_special_tokens=False).ids


def test_no_piece_has_the_name_of_a_special_token(tmp_path: Path) -> None:
    """Text full of such names inside words: a merged piece of that name would have the special token's id."""
    stems = [f"{letter}{other}" for letter in "abcdefg" for other in "hijklm"]
    names = ["<s>", "<pad>", "</s>", "<unk>", "<sen000>"]
    words = Counter({f"{stem}{name}{stem}": 50 for stem in stems for name in names})
    tokenizer = train_bpe(words, BpeSettings(250), tmp_path)
    assert not {"<sen000>", "<sen001>"} & set(tokenizer.vocabulary.pieces)
    for word in words:
        assert min(tokenizer.encode(word)) > 3
        assert tokenizer.decode(tokenizer.encode(word)) == word


def test_unknown_characters_become_one_unk_per_run(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("日本語").count(3) == 1


PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
PIECES = st.sampled_from(["'", "''", "``", "s", "'s", "'LL-x", "’", " ", "\n", "▁", "(it's)", "e\u0301", "\x1c", "..."])
TEXTS = st.lists(st.lists(PIECES | PLAIN, max_size=10).map("".join), max_size=4)


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS)
def test_word_cache_equals_the_whole_pipeline(tokenizer: Tokenizer, texts: list[str]) -> None:
    expected = tokenizer._encoder.encode_texts(texts)
    assert tokenizer._cache.encode(texts)[0].tolist() == [index for row in expected for index in row]
    assert tokenizer.encode_batch(texts) == expected


def test_word_cache_in_little_memory(
    tokenizer: Tokenizer, words: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join(list(words)[start : start + 50]) for start in range(0, 5_000, 50)]
    expected = tokenizer.encode_batch(texts)
    monkeypatch.setattr(word_cache, "MAX_PARTS", 100)
    assert [tokenizer._cache.encode([text])[0].tolist() for text in texts] == expected


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (BpeSettings(10_000_000, True), r"larger than the text can give: it gives \d+ pieces"),
        (BpeSettings(20, True), "too small"),
    ],
)
def test_impossible_sizes(words: Counter[str], tmp_path: Path, settings_: BpeSettings, message: str) -> None:
    few = Counter(dict(words.most_common(500)))
    with pytest.raises(UserError, match=message):
        train_bpe(few, settings_, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text"):
        train_bpe(Counter(), BpeSettings(100, True), tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty vocabulary"),
        ("a 1\nb\n", r"dict\.txt:2: expected 'PIECE COUNT'"),
        ("a 1\na 1\n", r"dict\.txt:2: piece 'a' occurs twice"),
        ("<s> 1\n", "special token"),
        ("a 1\nb 1\n", "do not belong together"),
    ],
)
def test_damaged_vocabularies_are_named(tokenizer: Tokenizer, tmp_path: Path, content: str, message: str) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "dict.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


def test_missing_files_are_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dict\.txt: no such file"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="has no field normalizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor sp\.model"):
        Tokenizer.load(tmp_path)
