"""Random arguments, shapes and bytes on every command: it succeeds, or says what is wrong in one line.

The same inputs in every run. METRO_T0_FUZZ=N tries N times as many, other ones each time:

    METRO_T0_FUZZ=20 pytest tests/commands/test_fuzz.py
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_inputs import LINES, NUMBERS, is_tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import CASES, ONE_LINE, PROGRAMS, SUCCESS, Case, make_world, outcome_of

EFFORT = int(os.environ.get("METRO_T0_FUZZ", "0"))
SLOW = ("analyze ", "eval tasks", "eval report")
QUICK_CASES = [case for case in CASES if case.reads and (EFFORT or not case.line.startswith(SLOW))]
TREES = [(case, name) for case in QUICK_CASES for name in case.reads if is_tree(name)]
FILES = [(case, name) for case in QUICK_CASES for name in case.reads]
WORDS = sorted({word for line in LINES.splitlines() for word in line.split()[1:]} | set(NUMBERS))
OPTIONS = sorted(
    f"--{name.replace('_', '-')}"
    for program in PROGRAMS.values()
    for command in program.commands
    for name in command.__dataclass_fields__  # type: ignore[attr-defined]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner))


def fuzz(examples: int) -> Any:
    """Settings of a test: the same `examples` inputs in every run, unless more are asked for."""
    return settings(
        max_examples=examples * max(1, EFFORT),
        derandomize=not EFFORT,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("world")
    make_world(place)
    return place


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def check(arguments: list[str], place: Path, note: object = "") -> None:
    outcome, said = outcome_of(arguments, place)
    assert outcome in (SUCCESS, ONE_LINE), f"{' '.join(arguments)} {note}: {outcome}: {said}"


def renew(world: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(world, work)


@fuzz(60)
@given(
    program=st.sampled_from(sorted(PROGRAMS)),
    rest=st.lists(st.sampled_from(WORDS) | st.sampled_from(OPTIONS) | st.text(min_size=1, max_size=9), max_size=6),
    data=st.data(),
)
def test_arguments(program: str, rest: list[str], data: st.DataObject, world: Path, work: Path) -> None:
    if not work.exists():
        renew(world, work)
    command = data.draw(st.sampled_from(sorted(command.name for command in PROGRAMS[program].commands)))
    check([program, command, *(word.replace("\0", "") for word in rest)], work)


@fuzz(25)
@given(which=st.sampled_from(TREES), value=VALUES, data=st.data())
def test_shapes(which: tuple[Case, str], value: Any, data: st.DataObject, world: Path, work: Path) -> None:
    case, name = which
    renew(world, work)
    path = work / name
    read, write = (json.loads, json.dumps) if name.endswith(".json") else (yaml.safe_load, yaml.safe_dump)
    tree = read(path.read_text())
    path.write_text(write(changed(tree, value, data)), encoding="utf-8", errors="replace")
    check(case.arguments, work, f"[{name}: {path.read_text()[:300]}]")


def changed(tree: Any, value: Any, data: st.DataObject) -> Any:
    """The tree with `value` at a random place."""
    if not isinstance(tree, dict | list) or not tree or data.draw(st.integers(0, 3)) == 0:
        return value
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))[:5]
    key = data.draw(st.sampled_from(keys))
    tree[key] = changed(tree[key], value, data)
    return tree


@fuzz(30)
@given(which=st.sampled_from(FILES), data=st.data(), new=st.binary(max_size=40))
def test_bytes(which: tuple[Case, str], data: st.DataObject, new: bytes, world: Path, work: Path) -> None:
    case, name = which
    renew(world, work)
    path = work / name
    content = path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.sampled_from((0, 1, len(new), len(content))))
    path.write_bytes(content[:start] + new + content[start + length :])
    check(case.arguments, work, f"[{name}: {new!r} for {length} bytes at {start}]")
