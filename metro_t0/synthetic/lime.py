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

from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.law import Law, Mask, distinct_tokens, first_occurrence, rows_of, shuffle, valid
from metro_t0.synthetic.ragged import Examples, Index, Ragged, Tokens, exclusive_sum, row_positions
from metro_t0.synthetic.vocabulary import Vocabulary

UPPER, LOWER, MATH = 24, 24, 20  # symbols of each kind
LETTERS = (3, 5)  # rule letters to draw from; twice as many are drawn
SYMBOLS = (5, 19)  # mathematical symbols of a rule
STRING = (2, 8)  # length of the string of a letter

Mode = Literal["induct", "deduct", "abduct"]


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
    def of(cls, vocabulary: Vocabulary) -> Marks:
        return cls(*vocabulary.reserved[:7])


@dataclass(frozen=True)
class Case:
    """Per example up to five letters in order of first use in the rule, each with a string.

    letters (n, 5) labels, count (n,), strings (n, 5, 8) labels, sizes (n, 5).
    """

    letters: Index
    count: Index
    strings: Index
    sizes: Index

    @property
    def used(self) -> Mask:
        return valid(self.count, self.letters.shape[1])


def _rules(draws: Draws, n: int) -> tuple[Index, Index]:
    """Rules as labels (n, 29): letters 0 .. 23, mathematical symbols 48 .. 67."""
    letters = draws.between(*LETTERS, n)
    symbols = draws.between(*SYMBOLS, n)
    lengths = 2 * letters + symbols
    width = 2 * LETTERS[1] + SYMBOLS[1]
    columns = np.arange(width)
    letter_labels = draws.below(letters[:, None], (n, width))
    math_labels = draws.between(UPPER + LOWER, UPPER + LOWER + MATH - 1, (n, width))
    labels = np.where(columns < (2 * letters)[:, None], letter_labels, math_labels)
    return shuffle(draws, labels, lengths).astype(np.int64), lengths


def _cases(draws: Draws, rules: Index, lengths: Index) -> Case:
    n, most = len(rules), LETTERS[1]
    first = first_occurrence(rules.astype(np.uint16), lengths) & (rules < UPPER)
    rank = np.cumsum(first, axis=1) - 1
    letters = np.zeros((n, most), dtype=np.int64)
    rows, columns = np.nonzero(first)
    letters[rows, rank[rows, columns]] = rules[rows, columns]
    strings = draws.between(UPPER, UPPER + LOWER + MATH - 1, (n, most, STRING[1]))
    return Case(letters, first.sum(axis=1), strings, draws.between(*STRING, (n, most)))


def _results(rules: Index, lengths: Index, case: Case) -> Ragged:
    """Labels of the rules with letters replaced."""
    n, width = rules.shape
    slot_of = np.zeros((n, UPPER), dtype=np.int64)
    rows, slots = np.nonzero(case.used)
    slot_of[rows, case.letters[rows, slots]] = slots
    inside = valid(lengths, width)
    row, label = np.nonzero(inside)[0], rules[inside]
    is_letter = label < UPPER
    slot = slot_of[row, np.minimum(label, UPPER - 1)]
    pieces = np.where(is_letter, case.sizes[row, slot], 1)
    # One buffer holds all strings and, behind them, the rules: every element is a stretch of it.
    most = case.letters.shape[1]
    string_start = (row * most + slot) * STRING[1]
    own_start = case.strings.size + np.flatnonzero(inside)
    buffer = np.concatenate([case.strings.ravel(), rules.ravel()]).astype(np.uint16)
    values = buffer[row_positions(np.where(is_letter, string_start, own_start), pieces)]
    return Ragged.contiguous(values, np.add.reduceat(pieces, exclusive_sum(lengths)))


def _render_cases(case: Case, marks: Tokens) -> Ragged:
    """`letter : [ string ]` for every used letter; mark labels start at 68."""
    n, most = case.letters.shape
    frame = np.zeros((n, most, STRING[1] + 4), dtype=np.int64)
    colon, opening, closing = marks
    frame[:, :, 0] = case.letters
    frame[:, :, 1], frame[:, :, 2] = colon, opening
    frame[:, :, 3:-1] = case.strings
    sizes = case.sizes + 4
    rows, slots = np.nonzero(case.used)
    frame[rows, slots, 3 + case.sizes[rows, slots]] = closing
    keep = valid(np.where(case.used, sizes, 0).ravel(), STRING[1] + 4)
    values = frame.reshape(n * most, -1)[keep].astype(np.uint16)
    return Ragged.contiguous(values, np.where(case.used, sizes, 0).sum(axis=1))


def _header(case: Case, upper: int, lower: int, math: int, separator: int) -> Ragged:
    n, most = case.letters.shape
    tail_labels = [lower, *range(UPPER, UPPER + LOWER), math, *range(UPPER + LOWER, UPPER + LOWER + MATH), separator]
    row = np.empty((n, 1 + most + len(tail_labels)), dtype=np.uint16)
    row[:, 0] = upper
    row[:, 1 : 1 + most] = case.letters
    row[:, 1 + most :] = tail_labels
    keep = np.ones(row.shape, dtype=bool)
    keep[:, 1 : 1 + most] = case.used
    return Ragged.contiguous(row[keep], keep.sum(axis=1))


def _concatenate(parts: Sequence[Ragged]) -> Ragged:
    lengths = np.sum([part.lengths for part in parts], axis=0)
    out = Ragged.contiguous(np.empty(int(lengths.sum()), dtype=np.uint16), lengths)
    at = out.starts
    for part in parts:
        out.values[row_positions(at, part.lengths)] = part.values[row_positions(part.starts, part.lengths)]
        at = at + part.lengths
    return out


def sample(mode: Mode, draws: Draws, law: Law, n: int) -> Examples:
    """n examples of one mode; 68 distinct tokens per example play the symbols."""
    symbols = UPPER + LOWER + MATH
    tokens = distinct_tokens(draws, law, np.full(n, symbols), symbols)
    rules, lengths = _rules(draws, n)
    case = _cases(draws, rules, lengths)
    marks = Marks.of(law.vocabulary)
    # Labels 68 .. 74 are the marks, in the order of the fields of Marks; one table turns labels into ids.
    colon, separator, upper, opening, lower, math, closing = range(symbols, symbols + 7)
    mark_ids = np.array(list(vars(marks).values()), dtype=np.uint16)
    table = np.concatenate([tokens, np.broadcast_to(mark_ids, (n, 7))], axis=1)
    rule = rows_of(rules.astype(np.uint16), lengths)
    result = _results(rules, lengths, case)
    cases = _render_cases(case, np.array([colon, opening, closing], dtype=np.uint16))
    header = _header(case, upper, lower, math, separator)
    bar = Ragged(np.array([separator], dtype=np.uint16), np.zeros(n, dtype=np.int64), np.ones(n, dtype=np.int64))
    given, target = {
        "induct": ([result, bar, cases], rule),
        "deduct": ([rule, bar, cases], result),
        "abduct": ([rule, bar, result], cases),
    }[mode]
    return Examples(_as_ids(_concatenate([header, *given]), table), _as_ids(target, table))


def _as_ids(labels: Ragged, table: Tokens) -> Ragged:
    flat = labels.compact()
    rows = np.repeat(np.arange(len(flat)) * table.shape[1], flat.lengths)
    return Ragged.contiguous(table.ravel()[rows + flat.values], flat.lengths)


def parse_case(tokens: Sequence[int], marks: Marks) -> dict[int, list[int]]:
    """Letter -> string. Raises `ValueError` where the layout is broken."""
    case: dict[int, list[int]] = {}
    rest = list(tokens)
    while rest:
        if len(rest) < 4 or rest[1] != marks.colon or rest[2] != marks.opening or marks.closing not in rest:
            raise ValueError("the case is not a list of 'letter : [ string ]'")
        end = rest.index(marks.closing)
        case[rest[0]] = rest[3:end]
        rest = rest[end + 1 :]
    return case


def substitute(rule: Sequence[int], case: dict[int, list[int]]) -> list[int]:
    """The rule with every letter of the case replaced by its string."""
    return [token for symbol in rule for token in case.get(symbol, [symbol])]


def defect(mode: Mode, source: Sequence[int], target: Sequence[int], vocabulary: Vocabulary) -> str | None:
    """What is wrong with an example, or None.

    abduct and induct may have several right answers, so they are checked by substitution.
    """
    marks = Marks.of(vocabulary)
    parts = _split(list(source), marks.separator)
    if len(parts) != 3 or not parts[0] or parts[0][0] != marks.upper or marks.lower not in parts[0]:
        return "the source is not 'UPPER letters LOWER symbols MATH symbols | given | given'"
    letters = parts[0][1 : parts[0].index(marks.lower)]
    rule, result, case = {
        "induct": (list(target), parts[1], parts[2]),
        "deduct": (parts[1], list(target), parts[2]),
        "abduct": (parts[1], parts[2], list(target)),
    }[mode]
    try:
        strings = parse_case(case, marks)
    except ValueError as error:
        return str(error)
    if list(strings) != letters:
        return "the letters of the case are not those of the header, in order"
    if not set(letters) <= set(rule):
        return "a letter of the case does not occur in the rule"
    return (
        None if substitute(rule, strings) == result else "substituting the case into the rule does not give the result"
    )


def _split(tokens: list[int], divider: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == divider:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
