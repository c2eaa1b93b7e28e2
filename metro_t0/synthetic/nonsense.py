"""Nonsense Summary: random documents, three editing operations, their combined output (Krishna et al. 2021).

An operation edits the document (it puts marks over words) and has an output that can be read off the edited
document alone, up to a random choice for two of them; so a file can be checked without its history.

Documents are handled as ids of a small lexicon (`LEXICON`): 5,000 nonsense words, a period, marks, keywords,
numbers and the words of the fixed output sentences. Bulk words are drawn in one go, edits touch a few positions.
The wording of the fixed sentences is this module's own, with as many words as the published one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from metro_t0.synthetic import nonsense_lexicon
from metro_t0.synthetic.distribution import Distribution
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.nonsense_lexicon import PERIOD, WORDS, Sentence, keyword_ids, verdict_ids, word_id
from metro_t0.synthetic.ragged import Examples, Ragged, exclusive_sum
from metro_t0.synthetic.vocabulary import SyntheticVocabulary

SENTENCES = (7, 13)
SENTENCE_WORDS = (5, 15)
OPERATIONS_PER_EXAMPLE = 3
LANES_PER_REFILL = 4096

Document = list[Sentence]
Below = Callable[[int], int]
"""A random number of the edits, uniform below the argument."""


def _numbers_below(draws: Draws) -> Below:
    refills = (draws.lanes(LANES_PER_REFILL).tolist() for _ in itertools.count())
    lane = itertools.chain.from_iterable(refills).__next__
    return lambda bound: lane() * bound >> 32


def _distinct(below: Below, bound: int, count: int) -> list[int]:
    """`count` different numbers below `bound`, in random order."""
    chosen = [below(bound)]
    while len(chosen) < count:
        candidate = below(bound)
        if candidate not in chosen:
            chosen.append(candidate)
    return chosen


class Mark(NamedTuple):
    """A word of an operation that stands in a sentence; `rank` is its place among the operation's words."""

    sentence: Sentence
    word: int
    rank: int

    @property
    def position(self) -> int:
        """In the sentence, as it is now: a later edit may move it."""
        return self.sentence.index(self.word)


Edit = Callable[[Document, Below], list[Mark]]


@dataclass(frozen=True)
class Operation:
    """edit: changes the document in place and returns its marks, in document order.

    output: of the marks, after all edits, and one of `choices`; mostly there is one.
    """

    name: str
    edit: Edit
    output: Callable[[list[Mark], int], Sentence]
    choices: int = 1


def _plant(operation: str, counts: tuple[int, ...], distinct: bool = False, tail: int = 1) -> Edit:
    """Keywords, drawn with replacement unless `distinct`, into one of `counts` different sentences.

    A keyword takes the place of a random nonsense word that is not among the last `tail` (there is always one).
    """

    def edit(document: Document, below: Below) -> list[Mark]:
        keywords = keyword_ids(operation)
        count, bound = counts[below(len(counts))], len(keywords)
        places = _distinct(below, len(document), count)
        chosen = _distinct(below, bound, count) if distinct else [below(bound) for _ in range(count)]
        marks = [
            _overwrite(document[place], keywords[rank], rank, below, tail)
            for place, rank in zip(places, chosen, strict=True)
        ]
        return marks if count == 1 else [mark for _, mark in sorted(zip(places, marks, strict=True))]

    return edit


def _overwrite(sentence: Sentence, keyword: int, rank: int, below: Below, tail: int = 1) -> Mark:
    while sentence[position := below(len(sentence) - tail)] >= WORDS:
        pass
    sentence[position] = keyword
    return Mark(sentence, keyword, rank)


def _two_breaks(document: Document, below: Below) -> list[Mark]:
    sentence, keywords = document[below(len(document))], keyword_ids("d20")
    ranks = _distinct(below, len(keywords), 2)
    return sorted((_overwrite(sentence, keywords[rank], rank, below) for rank in ranks), key=attrgetter("position"))


def _quote(document: Document, below: Below) -> list[Mark]:
    begin, end = keyword_ids("d7")
    sentence = document[below(len(document))]
    first = below(len(sentence))
    sentence.insert(first + below(len(sentence) - first) + 1, end)
    sentence.insert(first, begin)
    return [Mark(sentence, begin, 0), Mark(sentence, end, 1)]


def _bullet(document: Document, below: Below) -> list[Mark]:
    sentence, (bullet,) = document[below(len(document))], keyword_ids("d8")
    sentence.insert(0, bullet)
    return [Mark(sentence, bullet, 0)]


def _copies(marks: Iterable[Mark], choice: int = 0) -> Sentence:
    return [word for mark in marks for word in mark.sentence]


def _replaced(mark: Mark, *by: int) -> Sentence:
    return [*mark.sentence[: mark.position], *by, *mark.sentence[mark.position + 1 :]]


def _quoted(marks: list[Mark], choice: int) -> Sentence:
    stretch = marks[0].sentence[marks[0].position + 1 : marks[1].position]
    return stretch if stretch[-1] == PERIOD else [*stretch, PERIOD]


def _majority(marks: list[Mark], choice: int) -> Sentence:
    return verdict_ids("one" if sum(mark.rank == 0 for mark in marks) * 2 > len(marks) else "two")


def _by_topic(marks: list[Mark], choice: int) -> Sentence:
    line: Sentence = []
    for number, topic in enumerate("abc"):
        line += [word_id("section"), word_id(f"__d13__{topic}__")]
        line += _copies(mark for mark in marks if mark.rank // 3 == number)
    return line


def _paraphrase(marks: list[Mark], choice: int) -> Sentence:
    return _replaced(marks[0], word_id(f"__d18__variant{marks[0].rank}_{choice}__"))


def _joined(marks: list[Mark], choice: int) -> Sentence:
    rests = [word for mark in marks for word in mark.sentence[mark.position :] if word != PERIOD]
    return [*verdict_ids("opening"), *rests, PERIOD]


def _broken(marks: list[Mark], choice: int) -> Sentence:
    sentence = [word for word in marks[0].sentence if word != PERIOD]
    first, second = (sentence.index(mark.word) for mark in marks)
    return [*sentence[:second], PERIOD, *sentence[:first], *sentence[second:], PERIOD]


OPERATIONS = (
    Operation("d3", _plant("d3", (1,)), _copies),
    Operation("d4", _plant("d4", (3,)), _copies),
    Operation("d5", _plant("d5", (3,)), lambda m, choice: _copies([*itertools.permutations(m)][choice]), choices=6),
    Operation("d6", _plant("d6", (3,), distinct=True), lambda m, _: _copies(sorted(m, key=attrgetter("rank")))),
    Operation("d7", _quote, _quoted),
    Operation("d8", _bullet, lambda m, _: _replaced(m[0])),
    Operation("d10", _plant("d10", (1,)), lambda m, _: verdict_ids("positive" if m[0].rank < 5 else "negative")),
    Operation("d11", _plant("d11", (1,)), lambda m, _: _replaced(m[0], word_id(f"__d11__{'abc'[m[0].rank // 3]}__"))),
    Operation("d12", _plant("d12", (3, 5)), _majority),
    Operation("d13", _plant("d13", (2, 3, 4, 5)), _by_topic),
    Operation("d14", _plant("d14", (1,)), lambda m, _: verdict_ids("below" if m[0].rank < 50 else "above")),
    Operation(
        "d16",
        _plant("d16", (1, 2, 3, 4), distinct=True),
        lambda m, _: [*verdict_ids("largest"), word_id(str(max(mark.rank for mark in m))), PERIOD],
    ),
    Operation("d18", _plant("d18", (1,)), _paraphrase, choices=3),
    Operation("d19", _plant("d19", (3,), distinct=True, tail=2), _joined),
    Operation("d20", _two_breaks, _broken),
    Operation("d21", _plant("d21", (1,)), lambda m, _: [*m[0].sentence[: m[0].position], PERIOD]),
)


def find_marks(document: Document) -> dict[str, list[Mark]]:
    """The marks of every operation that was applied to the document, in document order."""
    owners = nonsense_lexicon.keyword_owners()
    found: dict[str, list[Mark]] = {}
    for sentence in document:
        for word in sentence:
            if word > PERIOD:
                name, rank = owners[word]
                found.setdefault(name, []).append(Mark(sentence, word, rank))
    return found


def compose(document: Document, below: Below) -> Sentence:
    """Apply three random operations to the document (in place) and return the target."""
    chosen = [OPERATIONS[i] for i in _distinct(below, len(OPERATIONS), OPERATIONS_PER_EXAMPLE)]
    marks = [operation.edit(document, below) for operation in chosen]
    target: Sentence = []
    for operation, found in zip(chosen, marks, strict=True):
        choice = below(operation.choices) if operation.choices > 1 else 0
        target += operation.output(found, choice)
    return target


def sample_words(draws: Draws, n: int) -> Examples:
    """n examples as lexicon ids."""
    counts = draws.between(*SENTENCES, n)
    sizes = draws.between(*SENTENCE_WORDS, int(counts.sum())) + 1
    words = draws.below(WORDS, int(sizes.sum()))
    words[np.cumsum(sizes) - 1] = PERIOD
    below, flat, first_of = _numbers_below(draws), words.tolist(), exclusive_sum(counts)
    sentences = [flat[begin:end] for begin, end in itertools.pairwise([0, *np.cumsum(sizes).tolist()])]
    documents = zip(first_of.tolist(), np.cumsum(counts).tolist(), strict=True)
    targets = [compose(sentences[first:end], below) for first, end in documents]
    sources = Ragged.from_lists(sentences)  # as edited
    lengths = np.add.reduceat(sources.lengths, first_of)
    return Examples(Ragged(sources.values, lengths), Ragged.from_lists(targets))


def sample(draws: Draws, distribution: Distribution, n: int) -> Examples:
    """n examples in the ids of the vocabulary, encoded word by word."""
    examples = sample_words(draws, n)
    table = _table(distribution.vocabulary)
    return Examples(_encode(examples.sources, table), _encode(examples.targets, table))


@lru_cache(maxsize=4)
def _table(vocabulary: SyntheticVocabulary) -> Ragged:
    """Row i: ids of word i of the lexicon."""
    return vocabulary.encode_words(nonsense_lexicon.lexicon())


def _encode(words: Ragged, table: Ragged) -> Ragged:
    if len(table.values) == len(table):  # every word is one token
        return Ragged(table.values[words.values], words.lengths)
    pieces = table.take(words.values.astype(np.int64))
    return Ragged(pieces.values, np.add.reduceat(pieces.lengths, words.starts))


@lru_cache(maxsize=4)
def _words_by_ids(vocabulary: SyntheticVocabulary) -> dict[tuple[int, ...], int]:
    return {tuple(ids): word for word, ids in enumerate(_table(vocabulary).lists())}


def _decode(ids: Sequence[int], vocabulary: SyntheticVocabulary) -> Sentence:
    """Lexicon ids of an encoded text. Raises `ValueError` where it is not made of the lexicon's words."""
    words, longest = _words_by_ids(vocabulary), int(_table(vocabulary).lengths.max())
    out, at = [], 0
    while at < len(ids):
        candidates = (tuple(ids[at : at + size]) for size in range(longest, 0, -1))
        found = next(filter(words.__contains__, candidates), None)
        if found is None:
            raise ValueError(f"token {ids[at]} at position {at} does not begin a word of the lexicon")
        out.append(words[found])
        at += len(found)
    return out


def split_sentences(words: Sentence) -> Document:
    """Sentences of a source: each ends with a period, which the closing quote mark may follow."""
    closing_quote = keyword_ids("d7")[1]
    ends = [i + 1 + (words[i + 1 : i + 2] == [closing_quote]) for i, word in enumerate(words) if word == PERIOD]
    return [words[begin:end] for begin, end in itertools.pairwise(sorted({0, *ends, len(words)}))]


def defect_of_words(source: Sentence, target: Sentence) -> str | None:
    """What is wrong with an example of lexicon ids, or None: some order of the operations must give the target."""
    document = split_sentences(source)
    marks = find_marks(document)
    if len(marks) != OPERATIONS_PER_EXAMPLE:
        return f"the source has the marks of {len(marks)} operations, not of {OPERATIONS_PER_EXAMPLE}"
    applied = [operation for operation in OPERATIONS if operation.name in marks]
    outputs = [[each.output(marks[each.name], choice) for choice in range(each.choices)] for each in applied]
    for order in itertools.permutations(outputs):
        for choice in itertools.product(*order):
            if list(itertools.chain.from_iterable(choice)) == target:
                return None
    return "no order of the three operations gives the target"


def defect(source: Sequence[int], target: Sequence[int], vocabulary: SyntheticVocabulary) -> str | None:
    """What is wrong with an example, or None."""
    try:
        return defect_of_words(_decode(source, vocabulary), _decode(target, vocabulary))
    except ValueError as error:
        return str(error)
    except LookupError:
        return "the source has marks that no operation leaves"
