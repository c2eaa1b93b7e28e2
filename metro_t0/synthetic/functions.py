"""The 18 simpler tasks as functions from an input sequence to its output (Wu et al. 2022, appendix G).

They accept sequences of any hashable tokens and of any length, so that the same function checks a file of ids
and reads like the paper's examples with letters. A function returns a list of tokens, a number or a truth value.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import filterfalse
from typing import TypeVar

T = TypeVar("T")


def split(tokens: list[T], divider: T) -> list[list[T]]:
    """The stretches between dividers."""
    parts, begin = list[list[T]](), 0
    for _ in range(tokens.count(divider)):
        end = tokens.index(divider, begin)
        parts.append(tokens[begin:end])
        begin = end + 1
    return [*parts, tokens[begin:]]


def unique(x: Sequence[T]) -> list[T]:
    """First occurrence of every token, in order."""
    return list(dict.fromkeys(x))


def identity(x: Sequence[T]) -> list[T]:
    return list(x)


def duplicate(x: Sequence[T]) -> list[T]:
    """Every token twice in place."""
    return [token for token in x for _ in range(2)]


def reverse(x: Sequence[T]) -> list[T]:
    return list(x[::-1])


def deduplicate(x: Sequence[T]) -> list[T]:
    """Every run of one token reduced to one."""
    return [token for i, token in enumerate(x) if i == 0 or token != x[i - 1]]


def last_token(x: Sequence[T]) -> list[T]:
    return list(x[-1:])


def first_token(x: Sequence[T]) -> list[T]:
    return list(x[:1])


def length(x: Sequence[T]) -> int:
    return len(x)


def find(sequence: Sequence[T], query: Sequence[T]) -> int:
    """Position of the leftmost occurrence of `query` as a contiguous stretch, or -1."""
    sequence, query = list(sequence), list(query)
    places = (i for i, token in enumerate(sequence) if token == query[0]) if query else iter([0])
    return next((i for i in places if sequence[i : i + len(query)] == query), -1)


def delete(sequence: Sequence[T], query: Sequence[T]) -> list[T]:
    """The sequence without the leftmost occurrence of the query; unchanged where there is none."""
    at = find(sequence, query)
    return list(sequence) if at < 0 else [*sequence[:at], *sequence[at + len(query) :]]


def search(sequence: Sequence[T], query: Sequence[T]) -> bool:
    return find(sequence, query) >= 0


def sort(sequence: Sequence[T], order: Sequence[T]) -> list[T]:
    """The sequence sorted stably by rank in `order`; of a token that is there twice the last rank counts."""
    rank = {token: i for i, token in enumerate(order)}
    return sorted(sequence, key=rank.__getitem__)


def union(first: Sequence[T], second: Sequence[T]) -> list[T]:
    return unique([*first, *second])


def intersect(first: Sequence[T], second: Sequence[T]) -> list[T]:
    return unique([*filter(set(second).__contains__, first)])


def set1_minus_set2(first: Sequence[T], second: Sequence[T]) -> list[T]:
    return unique([*filterfalse(set(second).__contains__, first)])


def set2_minus_set1(first: Sequence[T], second: Sequence[T]) -> list[T]:
    return set1_minus_set2(second, first)


def replace(sequence: Sequence[T], pair: Sequence[T]) -> list[T]:
    """The sequence with every `pair[0]` replaced by `pair[1]`."""
    key, value = pair
    return [value if token == key else token for token in sequence]


def count(sequence: Sequence[T], token: Sequence[T]) -> int:
    return sum(item == token[0] for item in sequence)


def longest_word(*words: Sequence[T]) -> list[T]:
    """The first of the longest words."""
    return list(words[max(range(len(words)), key=lambda i: len(words[i]))])


def longest_word_length(*words: Sequence[T]) -> int:
    return len(longest_word(*words))


NUMERIC = (length, count, longest_word_length)
"""Functions whose output is a number."""
