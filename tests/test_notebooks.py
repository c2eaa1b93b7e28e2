"""The notebooks run from top to bottom, in one namespace as in Jupyter, and end where their text says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def run(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)  # undone after the test: a notebook may change the folder
    notebook = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    assert all(not cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")  # kept clean
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), names)
    return names


def test_masks_and_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = run("masks_and_samples.ipynb", monkeypatch, tmp_path)
    assert names["curves"]["mlm"][-1] < 0.7 * names["curves"]["mlm"][0]
    assert names["curves"]["clm"][-1] < 0.5 * names["curves"]["clm"][0]
    assert names["restored"] > 0.5
    assert names["on_replaced"] > names["elsewhere"]


def test_own_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("own_task.ipynb", monkeypatch, tmp_path)
    assert names["status"] == 0
    assert "| help_desk |" in capsys.readouterr().out
