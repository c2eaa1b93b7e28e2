"""Arrow's strings against lists."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from metro_t0.tokenization.arrow_strings import content_of, from_content, from_list, matches, select, to_list


@given(strings=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=9)),
       start=st.integers(0, 3))  # fmt: skip
def test_arrow_strings(strings: list[str], start: int) -> None:
    array = from_list(strings)[start:]
    strings = strings[start:]
    assert to_list(array) == strings
    content, offsets = content_of(array)
    assert pa.Array.equals(from_content(content, offsets), array)
    assert to_list(select(array, np.arange(len(strings))[::-1])) == strings[::-1]
    assert matches(array, "[’'a]$").tolist() == [string[-1:] in tuple("’'a") for string in strings]


def test_pandas_is_not_imported() -> None:
    """Arrow imports it on the way from and to Python objects, for half a second."""
    code = (
        "import sys; from metro_t0.tokenization.arrow_strings import from_list, matches, select, to_list;"
        "strings = select(from_list(['a', 'b']), matches(from_list(['a', 'b']), 'b'));"
        "assert to_list(strings) == ['b'] and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
