"""LIME: rules, substitutions and results (Wu et al. 2021; layout of the data of Wu, Li and Liang 2022).

A rule is a sequence of rule letters (upper) and mathematical symbols; a case gives every used letter a string;
the result is the rule with every letter replaced by its string. deduct: rule, case -> result; abduct: rule,
result -> case; induct: result, case -> rule. Every source starts with the lists of the symbols of each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metro_t0.synthetic.distribution import Distribution
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.functions import split
from metro_t0.synthetic.ragged import Examples, Ragged
from metro_t0.synthetic.vocabulary import SyntheticVocabulary

UPPER, LOWER, MATH = 24, 24, 20  # symbols of each kind
SYMBOLS = UPPER + LOWER + MATH
RULE_LETTERS = (3, 5)  # to draw from; twice as many are drawn
RULE_MATH = (5, 19)  # mathematical symbols of a rule
STRING = (2, 8)  # length of the string of a letter

Mode = Literal["induct", "deduct", "abduct"]
Case = dict[int, list[int]]


@dataclass(frozen=True)
class Marks:
    """The seven tokens of the layout: the lowest of the extra ids."""

    colon: int
    separator: int
    upper: int
    opening: int
    lower: int
    math: int
    closing: int

    @classmethod
    def of(cls, vocabulary: SyntheticVocabulary) -> Marks:
        return cls(*vocabulary.reserved[:7])


def _rules(draws: Draws, symbols: np.ndarray) -> Ragged:
    """Random rules, of (n, 68) symbols."""
    n = len(symbols)
    letters, math = draws.between(*RULE_LETTERS, n), draws.between(*RULE_MATH, n)
    lengths = 2 * letters + math
    width = 2 * RULE_LETTERS[1] + RULE_MATH[1]
    letter_labels = draws.below(letters[:, None], (n, width))
    math_labels = draws.between(UPPER + LOWER, SYMBOLS - 1, (n, width))
    labels = np.where(np.arange(width) < (2 * letters)[:, None], letter_labels, math_labels)
    return Ragged(symbols[np.repeat(np.arange(n), lengths), draws.shuffled(labels, lengths)], lengths)


def sample(mode: Mode, draws: Draws, distribution: Distribution, n: int) -> Examples:
    """n examples of one mode; 68 distinct tokens per example play the symbols."""
    symbols = distribution.distinct_tokens(draws, np.full(n, SYMBOLS))
    rules = _rules(draws, symbols)
    labels = draws.between(UPPER, SYMBOLS - 1, (n, RULE_LETTERS[1], STRING[1]))
    strings = symbols[np.arange(n)[:, None, None], labels]
    sizes = draws.between(*STRING, (n, RULE_LETTERS[1]))
    marks = Marks.of(distribution.vocabulary)
    drawn = zip(symbols, rules, strings, sizes, strict=True)
    pairs = [_example(mode, marks, *(part.tolist() for part in parts)) for parts in drawn]
    sources, targets = zip(*pairs, strict=True)
    return Examples(Ragged.from_lists(sources), Ragged.from_lists(targets))


def _example(
    mode: Mode, marks: Marks, symbols: list[int], rule: list[int], strings: list[list[int]], sizes: list[int]
) -> tuple[list[int], list[int]]:
    """Source and target. The used letters of the rule get the first of the strings, in order of first use."""
    used = dict.fromkeys(filter(set(symbols[:UPPER]).__contains__, rule))
    case = {letter: string[:size] for letter, string, size in zip(used, strings, sizes, strict=False)}
    shown = list[int]()
    for letter, string in case.items():
        shown += (letter, marks.colon, marks.opening, *string, marks.closing)
    result = substitute(rule, case)
    header = [marks.upper, *case, marks.lower, *symbols[UPPER : UPPER + LOWER], marks.math, *symbols[UPPER + LOWER :]]
    first, second, target = {
        "induct": (result, shown, rule),
        "deduct": (rule, shown, result),
        "abduct": (rule, result, shown),
    }[mode]
    return [*header, marks.separator, *first, marks.separator, *second], target


def parse_case(tokens: Sequence[int], marks: Marks) -> Case | None:
    """Letter -> string, or None where the layout is broken."""
    *entries, rest = split(list(tokens), marks.closing)
    if rest or any(len(entry) < 3 or entry[1:3] != [marks.colon, marks.opening] for entry in entries):
        return None
    return {letter: string for letter, _, _, *string in entries}


def substitute(rule: Sequence[int], case: Case) -> list[int]:
    """The rule with every letter of the case replaced by its string."""
    return [token for symbol in rule for token in case.get(symbol, (symbol,))]


def defect(mode: Mode, source: Sequence[int], target: Sequence[int], vocabulary: SyntheticVocabulary) -> str | None:
    """What is wrong with an example, or None.

    abduct and induct may have several right answers, so they are checked by substitution.
    """
    marks = Marks.of(vocabulary)
    parts = split(list(source), marks.separator)
    if len(parts) != 3 or not parts[0] or parts[0][0] != marks.upper or marks.lower not in parts[0]:
        return "the source is not 'UPPER letters LOWER symbols MATH symbols | given | given'"
    letters = parts[0][1 : parts[0].index(marks.lower)]
    rule, result, case = {
        "induct": (list(target), parts[1], parts[2]),
        "deduct": (parts[1], list(target), parts[2]),
        "abduct": (parts[1], parts[2], list(target)),
    }[mode]
    strings = parse_case(case, marks)
    if strings is None:
        return "the case is not a list of 'letter : [ string ]'"
    if list(strings) != letters:
        return "the letters of the case are not those of the header, in order"
    if not set(letters) <= set(rule):
        return "a letter of the case does not occur in the rule"
    return (
        None if substitute(rule, strings) == result else "substituting the case into the rule does not give the result"
    )
