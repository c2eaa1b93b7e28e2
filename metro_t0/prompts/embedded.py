"""Small prompted data sets made from the embedded documentation corpus, so that every stage runs without a download.

Each row comes from one document and depends on (task, document, place in it) alone. Documents, not rows, are divided
into splits, so that no passage is in two of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from metro_t0.data.python_docs import documents
from metro_t0.errors import UserError, nearest
from metro_t0.prompts.names import DatasetName
from metro_t0.prompts.rows import Row
from metro_t0.randomness import keyed_generator, keyed_seed

CORPUS = "builtin:python-docs?max_mb=1.5"
SPLITS = ("train", "validation", "test")
HELD_OUT_EVERY = 10
"""One document in ten is for validation, one in ten for test."""
WORDS_PER_PASSAGE = 24
NUM_CHOICES = 4
ORDERED_WORDS = 8
WORD = re.compile(r"[A-Za-z]{4,}")

Passage = list[str]
RowMaker = Callable[[Passage, Passage, np.random.Generator], Row | None]


def embedded_splits(dataset: DatasetName) -> list[str]:
    """The splits of an embedded data set. Raises `UserError` for an unknown one."""
    _maker(dataset)
    return sorted(SPLITS)


def embedded_rows(dataset: DatasetName, split: str) -> Sequence[Row]:
    """All rows of one split. Raises `UserError` for an unknown data set or split."""
    maker = _maker(dataset)
    if split not in SPLITS:
        raise UserError(f"no split {split!r} of {dataset}{nearest(split, SPLITS)}")
    return _rows(maker, str(dataset), split)


@cache
def _rows(maker: RowMaker, name: str, split: str) -> tuple[Row, ...]:
    passages = _passages()[split]
    rows = []
    for index, passage in enumerate(passages):
        generator = keyed_generator(name, split, index)
        other = passages[int(generator.integers(len(passages)))]
        row = maker(passage, other, generator)
        if row is not None:
            rows.append(row)
    return tuple(rows)


def word_in_passage(passage: Passage, other: Passage, generator: np.random.Generator) -> Row | None:
    """Does the word occur in the passage?"""
    label = int(generator.integers(2))
    candidates = _words(passage) if label else _words(other, without=passage)
    if not candidates:
        return None
    return {"passage": " ".join(passage), "word": _one_of(candidates, generator), "label": label}


def missing_word(passage: Passage, other: Passage, generator: np.random.Generator) -> Row | None:
    """Which word was left out, of four? It occurs a second time in the passage, the others never."""
    places_of = {
        word: [p for p, token in enumerate(passage) if word in WORD.findall(token)] for word in _words(passage)
    }
    words = [word for word, places in places_of.items() if len(places) > 1]
    wrong = _words(other, without=passage)
    if not words or len(wrong) < NUM_CHOICES - 1:
        return None
    answer = _one_of(words, generator)
    place = int(generator.choice(places_of[answer]))
    gapped = [*passage[:place], passage[place].replace(answer, "____"), *passage[place + 1 :]]
    chosen = [str(word) for word in generator.choice(wrong, NUM_CHOICES - 1, replace=False)]
    label = int(generator.integers(NUM_CHOICES))
    return {"passage": " ".join(gapped), "choices": [*chosen[:label], answer, *chosen[label:]], "label": label}


def next_part(passage: Passage, other: Passage, generator: np.random.Generator) -> Row | None:
    """Does the second text go on where the first ends, or is it from elsewhere?"""
    half = len(passage) // 2
    label = int(generator.integers(2))
    second = passage[half:] if label else other[len(other) // 2 :]
    if second == passage[half:] and not label:
        return None
    return {"first": " ".join(passage[:half]), "second": " ".join(second), "label": label}


def which_word(passage: Passage, other: Passage, generator: np.random.Generator) -> Row | None:
    """Which of two words occurs in the passage? Held out of training: a new question about a known skill."""
    inside, outside = _words(passage), _words(other, without=passage)
    if not inside or not outside:
        return None
    label = int(generator.integers(2))
    pair = [_one_of(inside, generator), _one_of(outside, generator)]
    first, second = pair if label == 0 else pair[::-1]
    return {"passage": " ".join(passage), "word1": first, "word2": second, "label": label}


def word_order(passage: Passage, other: Passage, generator: np.random.Generator) -> Row | None:
    """How does the text go on: the next words, or the same words in another order? Held out of training.

    Both choices have the same words, so that only knowledge of the language tells them apart.
    """
    beginning, end = passage[:-ORDERED_WORDS], passage[-ORDERED_WORDS:]
    shuffled = [end[int(place)] for place in generator.permutation(ORDERED_WORDS)]
    if shuffled == end:
        return None
    label = int(generator.integers(2))
    pair = [" ".join(end), " ".join(shuffled)]
    first, second = pair if label == 0 else pair[::-1]
    return {"passage": " ".join(beginning), "end1": first, "end2": second, "label": label}


MAKERS: dict[str, RowMaker] = {
    "word_in_passage": word_in_passage,
    "missing_word": missing_word,
    "next_part": next_part,
    "which_word": which_word,
    "word_order": word_order,
}


def _maker(dataset: DatasetName) -> RowMaker:
    if dataset.subset not in MAKERS:
        hint = nearest(dataset.subset or "", MAKERS)
        raise UserError(f"no embedded data set {dataset}{hint}")
    return MAKERS[dataset.subset]


@cache
def _passages() -> dict[str, list[Passage]]:
    """Runs of words within a document, by split."""
    passages: dict[str, list[Passage]] = {split: [] for split in SPLITS}
    seen: set[str] = set()  # stock phrases recur in several documents
    for number, document in enumerate(documents(CORPUS)):
        residue = keyed_seed("split", number) % HELD_OUT_EVERY
        split = {0: "validation", 1: "test"}.get(residue, "train")
        for passage in _cut(document):
            text = " ".join(passage)
            if text not in seen:
                seen.add(text)
                passages[split].append(passage)
    return passages


def _cut(document: Sequence[str]) -> Iterator[Passage]:
    tokens = " ".join(document).split()
    for start in range(0, len(tokens) - WORDS_PER_PASSAGE + 1, WORDS_PER_PASSAGE):
        yield tokens[start : start + WORDS_PER_PASSAGE]


def _words(passage: Passage, without: Passage | None = None) -> list[str]:
    """The distinct words of four letters or more, in order; not those that are anywhere in the other passage."""
    text = " ".join(without).lower() if without else ""
    found = dict.fromkeys(word for token in passage for word in WORD.findall(token))
    return [word for word in found if word.lower() not in text]


def _one_of(items: list[str], generator: np.random.Generator) -> str:
    return items[int(generator.integers(len(items)))]
