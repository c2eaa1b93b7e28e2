"""Examples with letters for tokens, as the papers print them."""

from __future__ import annotations

from collections.abc import Sequence

from metro_t0.synthetic.law import Law
from metro_t0.synthetic.lime import Marks


class Letters:
    """The letters of one example: its tokens are a, b, .., z, a1, b1, .. in order of appearance."""

    def __init__(self, law: Law) -> None:
        vocabulary = law.vocabulary
        self._prefix = list(law.prefix)
        self._letters: dict[int, str] = {}
        sentinels = {token: f"<x{i}>" for i, token in enumerate(reversed(vocabulary.reserved))}
        marks = Marks.of(vocabulary)
        self._special = sentinels | {
            vocabulary.word_divider: "<s>",
            vocabulary.separator: "<s>",
            vocabulary.empty: "<e>",
            marks.colon: ":",
            marks.separator: "|",
            marks.upper: "UPPER",
            marks.opening: "[",
            marks.lower: "LOWER",
            marks.math: "MATH",
            marks.closing: "]",
        }
        self._low, self._high = vocabulary.universe_low, vocabulary.universe_low + vocabulary.universe_size
        self._answers = {vocabulary.yes: "yes", vocabulary.no: "no"}
        self._law = law

    def source(self, tokens: Sequence[int]) -> list[str]:
        """The input without its prefix."""
        body = tokens[len(self._prefix) :]
        return [self._letter(token) for token in body]

    def target(self, tokens: Sequence[int]) -> list[str]:
        """The target; an answer or a number is shown as such, unless its ids are letters of the source."""
        if all(token in self._letters or token in self._special for token in tokens):
            return [self._letter(token) for token in tokens]
        if tuple(tokens) in self._answers:
            return [self._answers[tuple(tokens)]]
        number = self._number(tuple(tokens))
        return [str(number)] if number is not None else [self._letter(token) for token in tokens]

    def _number(self, tokens: tuple[int, ...]) -> int | None:
        vocabulary = self._law.vocabulary
        if vocabulary.encode is None:
            known = vocabulary.numbers
            return next((value for value, ids in known.items() if ids == tokens), None)
        return next((n for n in range(self._law.high + 1) if vocabulary.number(n) == tokens), None)

    def _letter(self, token: int) -> str:
        if token in self._special:
            return self._special[token]
        if not self._low <= token < self._high:
            return f"#{token}"
        if token not in self._letters:
            cycle, letter = divmod(len(self._letters), 26)
            self._letters[token] = chr(ord("a") + letter) + (str(cycle) if cycle else "")
        return self._letters[token]
