"""Who may import whom, and what every command and script owes its user."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("metro_t0", "fairseq_plugins", "finetune", "eval", "ablation")
ALLOWED = {room: {room, "metro_t0"} for room in ROOMS}
ALLOWED["ablation"].add("eval")  # it looks at the evaluation before it trains
COMMANDS: dict[str, str] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]


def imports_of(path: Path) -> Iterator[str]:
    """Top-level packages that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_the_library_and_themselves(room: str) -> None:
    wrong = [
        f"{path.relative_to(REPOSITORY)} imports {name}"
        for path in (REPOSITORY / room).rglob("*.py")
        for name in imports_of(path)
        if name in ROOMS and name not in ALLOWED[room]
    ]
    assert not wrong


def test_fairseq_is_imported_only_by_the_plugin() -> None:
    wrong = [
        str(path.relative_to(REPOSITORY))
        for room in ROOMS
        if room != "fairseq_plugins"
        for path in (REPOSITORY / room).rglob("*.py")
        if "fairseq" in imports_of(path)
    ]
    assert not wrong


@pytest.mark.parametrize("module", ["eval.cli", "metro_t0.hf", "finetune.cli"])
def test_evaluating_needs_no_fairseq(module: str) -> None:
    blocked = f"import sys; sys.modules['fairseq'] = None; import {module}"
    subprocess.run([sys.executable, "-c", blocked], check=True, cwd=REPOSITORY)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    module, function = COMMANDS[command].split(":")
    call = f"import sys; sys.argv[0] = '{command}'; from {module} import {function}; sys.exit({function}())"
    run = subprocess.run(
        [sys.executable, "-c", call, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "example" in run.stdout.lower()


def test_no_module_is_a_bag_of_leftovers() -> None:
    names = {path.stem for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "misc", "common"}


MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 60


@pytest.mark.parametrize("room", [*ROOMS, "scripts"])
def test_no_file_and_no_function_is_longer_than_one_can_read(room: str) -> None:
    too_long = []
    for path in (REPOSITORY / room).rglob("*.py"):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(REPOSITORY)
        if (lines := len(text.splitlines())) > MOST_LINES:
            too_long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    too_long.append(f"{name}: {node.name} has {lines} lines")
    assert not too_long


def test_the_method_can_be_read_in_one_sitting() -> None:
    """Model and objectives; how they are computed is in kernels."""
    files = [path for room in ("modeling", "objectives") for path in (REPOSITORY / "metro_t0" / room).glob("*.py")]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) < 1_500
