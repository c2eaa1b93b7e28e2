"""Documents to items of tokens, and which set each document goes to; the choices are fixed for good."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from metro_t0.data.sources import Unit
from metro_t0.data.units import Counts, Split, encode_unit, load_unit, save_unit
from metro_t0.errors import UserError
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.training import BpeSettings, train_bpe

EVERYTHING = Split(0.0, 1)
SETS_OF_SIXTEEN = ["valid", "2", "0", "2", "2", "0", "1", "valid", "1", "valid", "2", "2", "2", "0", "2", "valid"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("vocabulary")
    train_bpe(Counter({"red": 9, "green": 8, "blue": 7}), BpeSettings(vocab_size=20, lowercase=True), directory)
    return Tokenizer.load(directory)


def text_unit(text: str) -> Unit:
    return Unit("text", text.encode(), "text.txt", 1)


def test_sets_of_documents_are_fixed() -> None:
    """Another choice would move documents between training and validation of data that exist."""
    names = [Split(0.25, 3).name([f"document {number}"]) for number in range(16)]
    assert names == SETS_OF_SIXTEEN


def test_a_set_is_a_function_of_the_first_4096_characters() -> None:
    split = Split(0.3, 1000)
    start = ["a" * 4000, "b" * 96]
    assert split.name(start) == split.name([*start, "anything"])
    assert split.name(start) != split.name(["a" * 4000, "b" * 95 + "c"])
    assert split.name(["a" * 5000]) == split.name(["a" * 4096 + "b"])
    assert split.name(["a" * 4095 + "x"]) != split.name(["a" * 4095 + "y"])
    assert split.name(["ab", "c"]) != split.name(["a", "bc"])  # line ends count
    first, second = np.frombuffer(hashlib.blake2b(b"some text\n", digest_size=16).digest(), np.uint64).tolist()
    assert split.name(["some text"]) == ("valid" if first / 2**64 < 0.3 else str(second % 1000))


def test_shares_of_the_sets_are_those_asked_for() -> None:
    names = Counter(Split(0.2, 4).name([f"text {number}"]) for number in range(4000))
    assert names.keys() == {"valid", "0", "1", "2", "3"}
    assert names["valid"] == pytest.approx(800, abs=5 * 26)
    assert all(names[shard] == pytest.approx(800, abs=5 * 26) for shard in "0123")
    assert {Split(0.0, 2).name([str(number)]) for number in range(50)} == {"0", "1"}


def test_items_are_lines_and_an_empty_one_after_each_document(tokenizer: Tokenizer) -> None:
    end = tokenizer.eos_id
    unit = text_unit("red green\n\u200b\nblue\n\n\n\ngreen\n")
    part = encode_unit(unit, tokenizer, EVERYTHING).parts["0"]
    assert tokenizer.encode("\u200b") == [], "the line of this test must be one without tokens"
    expected = [[*tokenizer.encode("red green"), end], [*tokenizer.encode("blue"), end], [end]]
    expected += [[*tokenizer.encode("green"), end], [end]]
    items = np.split(part.tokens, np.cumsum(part.sizes)[:-1])
    assert [item.tolist() for item in items] == expected
    assert (part.counts.documents, part.counts.items, part.counts.tokens) == (2, 5, sum(map(len, expected)))
    assert part.counts.characters == len("red green") + len("\u200b") + len("blue") + len("green")
    assert part.counts.unknown == 0


def test_counts_of_parts_add_up() -> None:
    counts = Counts(1, 2, 3, 4, 5)
    counts.add(Counts(10, 20, 30, 40, 50))
    assert counts == Counts(11, 22, 33, 44, 55)


def test_unknown_tokens_are_counted(tokenizer: Tokenizer) -> None:
    counts = encode_unit(text_unit("red \u4e2d red\n"), tokenizer, EVERYTHING).parts["0"].counts
    assert counts.unknown == tokenizer.encode("red \u4e2d red").count(tokenizer.unk_id) > 0


def test_a_unit_is_read_as_written_and_only_under_its_settings(tokenizer: Tokenizer, tmp_path: Path) -> None:
    encoded = encode_unit(text_unit("red\n\ngreen blue\n\nblue\n"), tokenizer, Split(0.5, 2))
    save_unit(encoded, tmp_path / "unit", "these settings")
    found = load_unit(tmp_path / "unit", "these settings")
    assert list(found.parts) == list(encoded.parts)
    for name, part in encoded.parts.items():
        assert found.parts[name].tokens.tolist() == part.tokens.tolist()
        assert found.parts[name].sizes.tolist() == part.sizes.tolist()
        assert found.parts[name].counts == part.counts
    with pytest.raises(UserError, match="made with other settings"):
        load_unit(tmp_path / "unit", "others")
