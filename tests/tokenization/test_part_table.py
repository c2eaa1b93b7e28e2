"""The table of strings against a dict, and Arrow's strings against lists."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metro_t0.tokenization import part_table
from metro_t0.tokenization.arrow_strings import content_of, from_content, from_list, matches, select, to_list
from metro_t0.tokenization.part_table import Growing, PartTable, alphabetical_order

# Few characters, so that strings share heads, tails and sizes; sizes around the borders of 8 and 16 bytes.
STRINGS = st.text(st.sampled_from("ab\0é▁"), max_size=20) | st.sampled_from("ab").flatmap(
    lambda character: st.integers(6, 18).map(lambda size: character * size)
)


@given(rows=st.lists(st.lists(STRINGS, max_size=60), max_size=5))
def test_table_is_a_dict(rows: list[list[str]]) -> None:
    table, expected = PartTable(), {}
    for row in rows:
        new = sorted({string for string in row if string not in expected})
        numbers = np.arange(len(new)) * 7 + len(expected)
        table.insert(from_list(new), numbers)
        expected |= dict(zip(new, numbers.tolist(), strict=True))
        assert len(table) == len(expected)
        asked = [*row, *expected, "c", "aab"]
        assert table.find(from_list(asked)).tolist() == [expected.get(string, -1) for string in asked]


def test_table_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_table, "FIRST_BITS", 1)
    table = PartTable()
    strings = from_list([f"{number:x}" * (1 + number % 4) for number in range(20_000)])
    strings = strings.dictionary_encode().dictionary
    for start in range(0, len(strings), 3_000):
        part = strings[start : start + 3_000]
        table.insert(part, np.arange(start, start + len(part)))
    assert np.array_equal(table.find(strings), np.arange(len(strings)))
    assert table.find(from_list(["", "-1", "x" * 17])).tolist() == [-1, -1, -1]


def test_strings_of_one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every string wants the same slot, each is found all the same."""
    monkeypatch.setattr(part_table, "MIX_ALL", np.uint64(0))
    table = PartTable()
    strings = from_list([str(number) for number in range(300)])
    table.insert(strings, np.arange(300))
    assert np.array_equal(table.find(strings), np.arange(300))
    assert table.find(from_list(["300"])).tolist() == [-1]


@given(st.lists(st.lists(st.integers(0, 99), max_size=1_500), max_size=6))
def test_growing_array(rows: list[list[int]]) -> None:
    growing = Growing(np.int32)
    for row in rows:
        growing.extend(np.array(row, np.int32))
    assert growing.values.tolist() == [value for row in rows for value in row]
    assert len(growing) == sum(map(len, rows))


@given(strings=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=9)),
       start=st.integers(0, 3))  # fmt: skip
def test_arrow_strings(strings: list[str], start: int) -> None:
    array = from_list(strings)[start:]
    strings = strings[start:]
    assert to_list(array) == strings
    content, offsets = content_of(array)
    assert pa.Array.equals(from_content(content.tobytes(), offsets[:-1]), array)
    assert to_list(select(array, np.arange(len(strings))[::-1])) == strings[::-1]
    assert matches(array, "[’'a]$").tolist() == [string[-1:] in tuple("’'a") for string in strings]
    heads = [string.encode()[:8].ljust(8, b"\0") for string in strings]
    assert [heads[place] for place in alphabetical_order(array)] == sorted(heads)


def test_pandas_is_not_imported() -> None:
    """Arrow imports it on the way from and to Python objects, for half a second."""
    code = (
        "import sys; from metro_t0.tokenization.arrow_strings import from_list, matches, select, to_list;"
        "strings = select(from_list(['a', 'b']), matches(from_list(['a', 'b']), 'b'));"
        "assert to_list(strings) == ['b'] and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
