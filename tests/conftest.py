"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REAL_DATA_VARIABLE = "METRO_T0_REAL_DATA"
DEFAULT_REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of real development data (corpus/, vocab/, tasks/), or a skip that says how to provide it."""
    directory = Path(os.environ.get(REAL_DATA_VARIABLE, DEFAULT_REAL_DATA))
    if not (directory / "corpus").is_dir():
        pytest.skip(f"real data not found at {directory}; set {REAL_DATA_VARIABLE} to its directory")
    return directory


@pytest.fixture(scope="session")
def spec_dir() -> Path:
    """Published facts and reference tables (see the README there)."""
    return Path(__file__).resolve().parent / "facts"
