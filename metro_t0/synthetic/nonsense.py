"""Nonsense Summary: random documents, three editing operations, their combined output (Krishna et al. 2021).

An operation edits the document (it puts marks over words) and has an output that can be read off the edited
document alone, up to a random choice for two of them; so a file can be checked without its history.

Documents are handled as ids of a small lexicon (`LEXICON`): 5,000 nonsense words, a period, marks, keywords,
numbers and the words of the fixed output sentences. Bulk words are drawn in one go, edits touch a few positions.
The wording of the fixed sentences is this module's own, with as many words as the published one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import Law
from metro_t0.synthetic.nonsense_lexicon import (
    CLASS_MARKS,
    KEYWORDS,
    PERIOD,
    TOPICS,
    VARIANTS,
    WORDS,
    Sentence,
    keyword_ids,
    lexicon,
    verdict_ids,
    word_id,
)
from metro_t0.synthetic.ragged import Examples, Ragged, exclusive_sum, row_positions, tokens_of
from metro_t0.synthetic.vocabulary import Vocabulary

SENTENCES = (7, 13)
SENTENCE_WORDS = (5, 15)
OPERATIONS_PER_EXAMPLE = 3
LANES_PER_REFILL = 4096

Document = list[Sentence]


class Chance:
    """Random numbers of the edits, taken one after the other."""

    def __init__(self, draws: Draws) -> None:
        self._next = self._lanes(draws).__next__

    @staticmethod
    def _lanes(draws: Draws) -> Iterator[int]:
        while True:
            yield from draws.lanes(LANES_PER_REFILL).tolist()

    def below(self, bound: int) -> int:
        """Uniform in [0, bound)."""
        return self._next() * bound >> 32

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def distinct(self, bound: int, count: int) -> list[int]:
        """`count` different numbers below `bound`, in random order."""
        chosen: list[int] = []
        while len(chosen) < count:
            candidate = self.below(bound)
            if candidate not in chosen:
                chosen.append(candidate)
        return chosen


@dataclass
class Mark:
    """A word of an operation that stands in the document; `rank` is its place among the operation's words."""

    sentence: int
    position: int
    word: int
    rank: int


Edit = Callable[[Document, Chance], None]
Outputs = Callable[[Document, list[Mark]], list[Sentence]]


@dataclass(frozen=True)
class Operation:
    """edit: changes the document in place. outputs: every admissible output, joined; mostly there is one."""

    name: str
    edit: Edit
    outputs: Outputs


def _overwrite(sentence: Sentence, keyword: int, chance: Chance, tail: int = 1) -> None:
    """Put a keyword over a random nonsense word that is not among the last `tail` positions (there is always one)."""
    while sentence[position := chance.below(len(sentence) - tail)] >= WORDS:
        pass
    sentence[position] = keyword


def _plant(operation: str, counts: tuple[int, ...], distinct: bool = False, tail: int = 1) -> Edit:
    """Keywords, drawn with replacement unless `distinct`, into one of `counts` different sentences."""

    def edit(document: Document, chance: Chance) -> None:
        keywords = keyword_ids(operation)
        count = counts[chance.below(len(counts))]
        places = chance.distinct(len(document), count)
        if distinct:
            chosen = chance.distinct(len(keywords), count)
        else:
            chosen = [chance.below(len(keywords)) for _ in range(count)]
        for place, rank in zip(places, chosen, strict=True):
            _overwrite(document[place], keywords[rank], chance, tail)

    return edit


def _quote(document: Document, chance: Chance) -> None:
    begin, end = keyword_ids("d7")
    sentence = document[chance.below(len(document))]
    first = chance.below(len(sentence))
    last = chance.between(first, len(sentence) - 1)
    sentence.insert(last + 1, end)
    sentence.insert(first, begin)


def _bullet(document: Document, chance: Chance) -> None:
    document[chance.below(len(document))].insert(0, keyword_ids("d8")[0])


def _two_breaks(document: Document, chance: Chance) -> None:
    sentence = document[chance.below(len(document))]
    for rank in chance.distinct(len(keyword_ids("d20")), 2):
        _overwrite(sentence, keyword_ids("d20")[rank], chance)


def _copies(document: Document, marks: list[Mark]) -> list[Sentence]:
    return [[word for mark in marks for word in document[mark.sentence]]]


def _any_order(document: Document, marks: list[Mark]) -> list[Sentence]:
    return [_copies(document, list(order))[0] for order in itertools.permutations(marks)]


def _sorted_copies(document: Document, marks: list[Mark]) -> list[Sentence]:
    return _copies(document, sorted(marks, key=lambda mark: lexicon()[mark.word]))


def _quoted(document: Document, marks: list[Mark]) -> list[Sentence]:
    begin, end = marks
    stretch = document[begin.sentence][begin.position + 1 : end.position]
    return [stretch if stretch[-1] == PERIOD else [*stretch, PERIOD]]


def _without_mark(document: Document, marks: list[Mark]) -> list[Sentence]:
    return [[word for word in document[marks[0].sentence] if word != marks[0].word]]


def _substituted(document: Document, mark: Mark, word: int) -> Sentence:
    sentence = list(document[mark.sentence])
    sentence[mark.position] = word
    return sentence


def _tone(document: Document, marks: list[Mark]) -> list[Sentence]:
    return [verdict_ids("positive" if marks[0].rank < 5 else "negative")]


def _class_replaced(document: Document, marks: list[Mark]) -> list[Sentence]:
    return [_substituted(document, marks[0], word_id(CLASS_MARKS[marks[0].rank // 3]))]


def _majority(document: Document, marks: list[Mark]) -> list[Sentence]:
    return [verdict_ids("one" if sum(mark.rank == 0 for mark in marks) * 2 > len(marks) else "two")]


def _by_topic(document: Document, marks: list[Mark]) -> list[Sentence]:
    line: Sentence = []
    for number, topic in enumerate(TOPICS):
        line += [word_id("section"), word_id(topic)]
        line += _copies(document, [mark for mark in marks if mark.rank // 3 == number])[0]
    return [line]


def _threshold(document: Document, marks: list[Mark]) -> list[Sentence]:
    return [verdict_ids("below" if marks[0].rank < 50 else "above")]


def _largest(document: Document, marks: list[Mark]) -> list[Sentence]:
    return [[*verdict_ids("largest"), word_id(str(max(mark.rank for mark in marks))), PERIOD]]


def _paraphrases(document: Document, marks: list[Mark]) -> list[Sentence]:
    variants = VARIANTS[3 * marks[0].rank : 3 * marks[0].rank + 3]
    return [_substituted(document, marks[0], word_id(variant)) for variant in variants]


def _joined(document: Document, marks: list[Mark]) -> list[Sentence]:
    line = list(verdict_ids("opening"))
    for mark in marks:
        line += [word for word in document[mark.sentence][mark.position :] if word != PERIOD]
    return [[*line, PERIOD]]


def _broken(document: Document, marks: list[Mark]) -> list[Sentence]:
    sentence = [word for word in document[marks[0].sentence] if word != PERIOD]
    first, second = (sentence.index(mark.word) for mark in marks)
    return [[*sentence[:second], PERIOD, *sentence[:first], *sentence[second:], PERIOD]]


def _truncated(document: Document, marks: list[Mark]) -> list[Sentence]:
    return [[*document[marks[0].sentence][: marks[0].position], PERIOD]]


OPERATIONS = (
    Operation("d3", _plant("d3", (1,)), _copies),
    Operation("d4", _plant("d4", (3,)), _copies),
    Operation("d5", _plant("d5", (3,)), _any_order),
    Operation("d6", _plant("d6", (3,), distinct=True), _sorted_copies),
    Operation("d7", _quote, _quoted),
    Operation("d8", _bullet, _without_mark),
    Operation("d10", _plant("d10", (1,)), _tone),
    Operation("d11", _plant("d11", (1,)), _class_replaced),
    Operation("d12", _plant("d12", (3, 5)), _majority),
    Operation("d13", _plant("d13", (2, 3, 4, 5)), _by_topic),
    Operation("d14", _plant("d14", (1,)), _threshold),
    Operation("d16", _plant("d16", (1, 2, 3, 4), distinct=True), _largest),
    Operation("d18", _plant("d18", (1,)), _paraphrases),
    Operation("d19", _plant("d19", (3,), distinct=True, tail=2), _joined),
    Operation("d20", _two_breaks, _broken),
    Operation("d21", _plant("d21", (1,)), _truncated),
)


@cache
def _owners() -> dict[int, tuple[str, int]]:
    """Lexicon id of a keyword -> (its operation, its rank there)."""
    return {word: (name, rank) for name in KEYWORDS for rank, word in enumerate(keyword_ids(name))}


def find_marks(document: Document) -> dict[str, list[Mark]]:
    """The marks of every operation that was applied to the document, in document order."""
    owners = _owners()
    found: dict[str, list[Mark]] = {}
    for i, sentence in enumerate(document):
        if max(sentence) == PERIOD:
            continue
        for position in [position for position, word in enumerate(sentence) if word > PERIOD]:
            name, rank = owners[sentence[position]]
            found.setdefault(name, []).append(Mark(i, position, sentence[position], rank))
    return found


def compose(document: Document, chance: Chance) -> Sentence:
    """Apply three random operations to the document (in place) and give the target."""
    chosen = [OPERATIONS[i] for i in chance.distinct(len(OPERATIONS), OPERATIONS_PER_EXAMPLE)]
    for operation in chosen:
        operation.edit(document, chance)
    marks = find_marks(document)
    target: Sentence = []
    for operation in chosen:
        outputs = operation.outputs(document, marks[operation.name])
        target += outputs[chance.below(len(outputs))] if len(outputs) > 1 else outputs[0]
    return target


def documents(draws: Draws, n: int) -> list[Document]:
    counts = draws.between(*SENTENCES, n)
    sizes = draws.between(*SENTENCE_WORDS, int(counts.sum()))
    ends = np.cumsum(sizes + 1)
    words = draws.below(WORDS, int(ends[-1]))
    words[ends - 1] = PERIOD
    row = words.tolist()
    bounds = [0, *ends.tolist()]
    sentences = [row[a:b] for a, b in itertools.pairwise(bounds)]
    return [sentences[a:b] for a, b in itertools.pairwise([0, *np.cumsum(counts).tolist()])]


def sample_words(draws: Draws, n: int) -> Examples:
    """n examples as lexicon ids."""
    chance = Chance(draws)
    targets, sources = [], list[int]()
    lengths = np.zeros(n, dtype=np.int64)
    for number, document in enumerate(documents(draws, n)):
        targets.append(compose(document, chance))
        for sentence in document:
            sources += sentence
        lengths[number] = len(sources)
    lengths[1:] -= lengths[:-1].copy()
    return Examples(Ragged.contiguous(tokens_of(sources), lengths), Ragged.from_lists(targets))


def sample(draws: Draws, law: Law, n: int) -> Examples:
    """n examples in the ids of the vocabulary, encoded word by word."""
    examples = sample_words(draws, n)
    table = law.vocabulary.encode_words(tuple(lexicon()))
    return Examples(_encode(examples.sources, table), _encode(examples.targets, table))


def _encode(words: Ragged, table: Ragged) -> Ragged:
    ids = words.compact().values.astype(np.int64)
    sizes = table.lengths[ids]
    values = table.values[row_positions(table.starts[ids], sizes)]
    return Ragged.contiguous(values, np.add.reduceat(sizes, exclusive_sum(words.lengths)))


def _decode(ids: Sequence[int], table: Ragged) -> Sentence:
    """Lexicon ids of an encoded text. Raises `ValueError` where it is not made of the lexicon's words."""
    words, longest = _decoding(table)
    out, at = [], 0
    while at < len(ids):
        for size in range(min(longest, len(ids) - at), 0, -1):
            word = words.get(tuple(ids[at : at + size]))
            if word is not None:
                out.append(word)
                at += size
                break
        else:
            raise ValueError(f"token {ids[at]} at position {at} does not begin a word of the lexicon")
    return out


_DECODINGS: dict[int, tuple[dict[tuple[int, ...], int], int]] = {}


def _decoding(table: Ragged) -> tuple[dict[tuple[int, ...], int], int]:
    if id(table) not in _DECODINGS:
        words = {tuple(row.tolist()): i for i, row in enumerate(table)}
        _DECODINGS[id(table)] = (words, int(table.lengths.max()))
    return _DECODINGS[id(table)]


def split_sentences(words: Sentence) -> Document:
    """Sentences of a source: each ends with a period, which the closing quote mark may follow."""
    closing_quote = keyword_ids("d7")[1]
    document: Document = [[]]
    for i, word in enumerate(words):
        document[-1].append(word)
        ended = word == PERIOD or (word == closing_quote and i > 0 and words[i - 1] == PERIOD)
        quote_follows = i + 1 < len(words) and words[i + 1] == closing_quote
        if ended and not quote_follows and i + 1 < len(words):
            document.append([])
    return document


def defect_of_words(source: Sentence, target: Sentence) -> str | None:
    """What is wrong with an example of lexicon ids, or None: some order of the operations must give the target."""
    document = split_sentences(source)
    marks = find_marks(document)
    if len(marks) != OPERATIONS_PER_EXAMPLE:
        return f"the source has the marks of {len(marks)} operations, not of {OPERATIONS_PER_EXAMPLE}"
    by_name = {operation.name: operation for operation in OPERATIONS}
    outputs = [by_name[name].outputs(document, found) for name, found in marks.items()]
    for order in itertools.permutations(outputs):
        for choice in itertools.product(*order):
            if list(itertools.chain.from_iterable(choice)) == target:
                return None
    return "no order of the three operations gives the target"


def defect(source: Sequence[int], target: Sequence[int], vocabulary: Vocabulary) -> str | None:
    """What is wrong with an example, or None."""
    table = vocabulary.encode_words(tuple(lexicon()))
    try:
        return defect_of_words(_decode(source, table), _decode(target, table))
    except ValueError as error:
        return str(error)
    except KeyError:
        return "the source holds a word that only outputs have"
