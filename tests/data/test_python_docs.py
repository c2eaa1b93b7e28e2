"""The embedded corpus."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from metro_t0.data import python_docs
from metro_t0.errors import UserError


def characters(documents: list[list[str]]) -> int:
    return sum(len(line.encode()) + 1 for document in documents for line in document)


def test_standard_library_alone_gives_two_megabytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = sysconfig.get_paths() | {"purelib": str(tmp_path), "platlib": str(tmp_path)}
    monkeypatch.setattr(python_docs.sysconfig, "get_paths", lambda: paths)
    documents = list(python_docs.documents())
    assert characters(documents) > 2_000_000
    lines = [line for document in documents for line in document]
    assert len(lines) == len(set(lines))
    assert all(line == " ".join(line.split()) for line in lines)
    letters = sum(character.isalpha() or character == " " for line in lines for character in line)
    assert letters > 0.9 * sum(map(len, lines))


def test_size_limit_and_determinism() -> None:
    first = list(python_docs.documents("builtin:python-docs?max_mb=0.3"))
    assert 200_000 < characters(first) <= 300_000
    assert first == list(python_docs.documents("builtin:python-docs?max_mb=0.3"))


def test_nothing_is_executed(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        'raise SystemExit\n"""Not first, but at the beginning of a line."""\n'
        "text = '''no doc string'''\ndef f():\n    r'''A doc \\' string.\n\n    Second.\n    '''\n    # A comment\n"
        "    # of two lines.\n    return 1  # not this\n"
    )
    assert list(python_docs._doc_strings(source)) == [
        "Not first, but at the beginning of a line.",
        "A doc \\' string.\n\nSecond.",
        " A comment\n of two lines.",
    ]


@pytest.mark.parametrize("spec", ["builtin:python-dox", "builtin:python-docs?max_mb=x", "builtin:"])
def test_unknown_names(spec: str) -> None:
    with pytest.raises(UserError, match="python-docs"):
        python_docs.check_spec(spec)


@pytest.fixture(autouse=True)
def _no_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reading documentation must import no module."""
    before = set(sys.modules)
    yield
    assert set(sys.modules) == before
