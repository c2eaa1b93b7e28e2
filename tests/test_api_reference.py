"""The API reference is made from the docstrings, without network."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "api_reference.py"


def test_reference_has_a_page_for_every_module(tmp_path: Path) -> None:
    pytest.importorskip("pdoc")
    spec = importlib.util.spec_from_file_location("api_reference", SCRIPT)
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rooms = ("metro_t0.modeling", "metro_t0.objectives")  # the others are made alike; these are what people extend
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")  # a module that cannot be imported, a broken annotation
        script.main(tmp_path, rooms)
    names = [name for room in rooms for name in script.modules(room)]
    assert len(names) > 10
    for name in names:
        assert (tmp_path / f"{name.replace('.', '/')}.html").is_file(), name
    assert "Equation 13" in (tmp_path / "metro_t0" / "objectives" / "losses.html").read_text()
