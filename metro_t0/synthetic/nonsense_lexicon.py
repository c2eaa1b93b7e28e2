"""The lexicon of Nonsense Summary: 5,000 nonsense words, a period, marks, keywords, fixed sentences and numbers."""

from __future__ import annotations

from functools import cache

WORDS = 5000
Sentence = list[int]


def nonsense_word(index: int) -> str:
    """Three letters, base 26, the least significant first: 0 is aaa, 1 is baa, 26 is aba, 4999 is hkh."""
    letters = (index % 26, index // 26 % 26, index // 676)
    return "".join(chr(ord("a") + letter) for letter in letters)


def _keywords(operation: str, names: list[str]) -> list[str]:
    return [f"__{operation}__{name}__" for name in names]


def _numbered(stem: str, count: int) -> list[str]:
    return [f"{stem}{i}" for i in range(count)]


KEYWORDS: dict[str, list[str]] = {
    "d3": _keywords("d3", _numbered("key", 10)),
    "d4": _keywords("d4", _numbered("key", 10)),
    "d5": _keywords("d5", _numbered("key", 10)),
    "d6": _keywords("d6", _numbered("key", 10)),
    "d7": _keywords("d7", ["begin", "end"]),
    "d8": _keywords("d8", ["bullet"]),
    "d10": _keywords("d10", _numbered("good", 5) + _numbered("bad", 5)),
    "d11": _keywords("d11", [f"{kind}{i}" for kind in "abc" for i in range(3)]),
    "d12": _keywords("d12", ["one", "two"]),
    "d13": _keywords("d13", [f"{kind}{i}" for kind in "abc" for i in range(3)]),
    "d14": _keywords("d14", _numbered("", 100)),
    "d16": _keywords("d16", _numbered("", 100)),
    "d18": _keywords("d18", _numbered("source", 20)),
    "d19": _keywords("d19", _numbered("join", 5)),
    "d20": _keywords("d20", _numbered("break", 5)),
    "d21": _keywords("d21", _numbered("cut", 10)),
}
CLASS_MARKS = _keywords("d11", ["a", "b", "c"])
TOPICS = _keywords("d13", ["a", "b", "c"])
VARIANTS = _keywords("d18", [f"variant{i}_{j}" for i in range(20) for j in range(3)])
VERDICTS = {
    "positive": "the tone of this text is positive .",
    "negative": "the tone of this text is negative .",
    "one": "mark one is more frequent .",
    "two": "mark two is more frequent .",
    "below": "this value is below fifty .",
    "above": "this value is at or above fifty .",
    "largest": "the largest number here is",
    "opening": "several parts are joined here :",
}


@cache
def _table() -> tuple[list[str], dict[str, int]]:
    words = [nonsense_word(i) for i in range(WORDS)] + ["."]
    for group in (*KEYWORDS.values(), CLASS_MARKS, TOPICS, VARIANTS, ["section"]):
        words += group
    words += sorted({word for sentence in VERDICTS.values() for word in sentence.split()} - set(words))
    words += [str(number) for number in range(100)]
    return words, {word: i for i, word in enumerate(words)}


def lexicon() -> list[str]:
    """All words that documents and outputs are made of, by lexicon id."""
    return _table()[0]


PERIOD = WORDS


@cache
def word_id(word: str) -> int:
    return _table()[1][word]


@cache
def keyword_ids(operation: str) -> list[int]:
    return [*map(word_id, KEYWORDS[operation])]


@cache
def verdict_ids(name: str) -> Sentence:
    return [*map(word_id, VERDICTS[name].split())]


@cache
def keyword_owners() -> dict[int, tuple[str, int]]:
    """Lexicon id of a keyword -> (its operation, its rank there)."""
    return {word: (name, rank) for name in KEYWORDS for rank, word in enumerate(keyword_ids(name))}
