"""The simpler tasks as functions: published examples, and properties over any sequences."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metro_t0.errors import UserError
from metro_t0.synthetic import functions as f
from metro_t0.synthetic.settings import StreamSettings
from metro_t0.synthetic.tasks import SIMPLE_TASKS, SYNTHETIC_TASKS, get_task
from metro_t0.synthetic.vocabulary import compact_vocabulary, t5_vocabulary

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
SEPARATOR = "<s>"
sequences = st.lists(st.integers(0, 6), max_size=25)
non_empty = st.lists(st.integers(0, 6), min_size=1, max_size=25)


def distribution(name, vocabulary, *profile_and_bounds, **settings):
    return StreamSettings(name, 0, *profile_and_bounds, **settings).mixture(vocabulary).streams[0].distribution


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['id']}-{v['task']}" for v in VECTORS])
def test_published_vector(vector):
    function = SYNTHETIC_TASKS[vector["task"]].function
    letters = vector["source"].split()
    arguments = [letters] if SYNTHETIC_TASKS[vector["task"]].kind == "unary" else split_letters(letters)
    if vector["task"] in ("first_token", "last_token"):
        arguments = [letters]
    assert shown(function(*arguments)) == vector["target"]


def split_letters(letters):
    parts = [[]]
    for letter in letters:
        if letter == SEPARATOR:
            parts.append([])
        else:
            parts[-1].append(letter)
    return parts


def shown(output):
    if isinstance(output, bool):
        return "yes" if output else "no"
    if isinstance(output, int):
        return str(output)
    return " ".join(output) or "<e>"


REVERSED = [
    8595,
    1957,
    23253,
    5245,
    1390,
    31461,
    12024,
    1498,
    21234,
    29226,
    23317,
    1236,
    30007,
    12328,
    29221,
    28707,
    40,
]
ID_VECTORS = [
    (
        "replace",
        [3601, 32099, 21148, 26187, 26617, 15380, 17593, 1956, 19069, 911, 3153, 32097, 15380, 2084],
        [21148, 26187, 26617, 2084, 17593, 1956, 19069, 911, 3153],
    ),
    ("count", [3476, 32099, *[17037] * 6, 31573, *[17037] * 3, 32097, 17037], [668]),
    ("length", [2475, 32099, *range(100, 122)], [1630]),
    ("reverse", [7211, 32099, *REVERSED], REVERSED[::-1]),
    ("search", [960, 32099, *range(50, 60), 32097, *range(60, 69)], [150]),
]


@pytest.mark.parametrize(("name", "source", "target"), ID_VECTORS, ids=[v[0] for v in ID_VECTORS])
def test_vectors_in_t5_ids(name, source, target):
    assert list(SYNTHETIC_TASKS[name].target(source, distribution(name, t5_vocabulary()))) == target


def test_order_of_set_outputs():
    """The published record of set2_minus_set1 has the order of CPython's sets; ours is first occurrence."""
    vocabulary = t5_vocabulary()
    task = SYNTHETIC_TASKS["set2_minus_set1"]
    source = [*vocabulary.name(task.name), 32099, 3239, 2863, 18822, 11154, 9398, 24534, 9342, 2863, 11154, 32097]
    source += [18108, 18822, 9398, 18108, 25806, 2863, 9398, 25806, 25806, 11154, 5250]
    assert task.target(source, distribution(task.name, vocabulary)) == [18108, 25806, 5250]
    assert task.target(source, distribution(task.name, vocabulary, order="cpython_set")) == [5250, 18108, 25806]
    assert task.target(source, distribution(task.name, vocabulary, order="sorted")) == [5250, 18108, 25806]


def test_t5_numbers_of_two_pieces_and_unknown_ones():
    vocabulary = t5_vocabulary()
    assert vocabulary.number(220) == (204, 1755)
    with pytest.raises(UserError, match="number 7 are not known"):
        vocabulary.number(7)
    assert t5_vocabulary(lambda text: [int(text)]).number(7) == (7,)


@given(sequences)
def test_unary_properties(x):
    assert f.unique(f.unique(x)) == f.unique(x)
    assert set(f.unique(x)) == set(x)
    assert f.reverse(f.reverse(x)) == f.identity(x) == x
    assert f.deduplicate(f.duplicate(x)) == f.deduplicate(x)
    assert all(a != b for a, b in zip(f.deduplicate(x), f.deduplicate(x)[1:], strict=False))
    assert f.length(f.duplicate(x)) == 2 * f.length(x)
    assert f.first_token(f.reverse(x)) == f.last_token(x)


@given(sequences, sequences)
def test_set_properties(a, b):
    assert set(f.union(a, b)) == set(f.union(b, a))
    parts = [f.intersect(a, b), f.set1_minus_set2(a, b), f.set2_minus_set1(a, b)]
    assert Counter(chain.from_iterable(parts)) == Counter(f.union(a, b))


@given(sequences, non_empty)
def test_query_properties(a, q):
    text = "".join(map(str, a))
    assert f.search(a, q) == ("".join(map(str, q)) in text)
    assert f.delete(a, q) == [int(c) for c in text.replace("".join(map(str, q)), "", 1)]
    assert f.count(a, q[:1]) == len(a) - len([x for x in a if x != q[0]])


@given(non_empty, st.randoms())
def test_sort_properties(a, random):
    order = sorted(set(a) | {9})
    random.shuffle(order)
    result = f.sort(a, order)
    assert Counter(result) == Counter(a)
    ranks = [order.index(x) for x in result]
    assert ranks == sorted(ranks)


@given(non_empty, st.integers(0, 6), st.integers(0, 6))
def test_replace_properties(a, key, value):
    result = f.replace(a, [key, value])
    assert (key not in result) or key == value
    assert [i for i, x in enumerate(a) if x != key and result[i] != x] == []


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=1, max_size=6))
def test_longest_word_properties(words):
    word = f.longest_word(*words)
    assert word in words
    assert all(len(other) <= len(word) for other in words)
    assert f.longest_word_length(*words) == len(word)


def test_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="intersect"):
        get_task("intersection")
    assert get_task("copy").name == "identity"
    assert len(SIMPLE_TASKS) == 19


@pytest.mark.parametrize(
    ("name", "low", "high", "message"),
    [
        ("set", 5, 4, "length bounds 5..4"),
        ("set", 0, 4, "length bounds 0..4"),
        ("delete", 10, 20, "twice the minimum plus one"),
        ("union", 1, 2, "maximum of at least 3"),
    ],
)
def test_impossible_bounds(name, low, high, message):
    with pytest.raises(UserError, match=message):
        SYNTHETIC_TASKS[name].check_bounds("authors", low, high)


def test_defects_are_named():
    vocabulary = compact_vocabulary(50, SYNTHETIC_TASKS)
    union = distribution("union", vocabulary, "paper", 3, 20)
    s = vocabulary.separator
    assert SYNTHETIC_TASKS["union"].defect([5, s, 6], [5, 6], union) is None
    assert "the target is 6 5, not 5 6" in str(SYNTHETIC_TASKS["union"].defect([5, s, 6], [6, 5], union))
    assert "0 separators" in str(SYNTHETIC_TASKS["union"].defect([5, 6], [5], union))
    sort = distribution("sort", vocabulary, "paper", 4, 20)
    assert SYNTHETIC_TASKS["sort"].defect([5, 6, s, 6], [6, 5], sort) == "the input is not one of sort"
    assert f.split([1, 2, 9, 3], 9) == [[1, 2], [3]]
