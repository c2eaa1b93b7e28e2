"""Options are made from declarations: their types, bounds, defaults, help; and every command's declarations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

import ablation.cli
import eval.cli
import finetune.cli
import metro_t0.analysis.cli
import metro_t0.convert
import metro_t0.data.cli
import metro_t0.launch
import metro_t0.synthetic.cli
from metro_t0.command import Command, Program
from metro_t0.errors import UserError
from metro_t0.options import BROKEN, Kind, check, kinds, option

PROGRAMS: list[Program] = [
    room.main
    for room in (
        metro_t0.data.cli, finetune.cli, eval.cli, metro_t0.convert, metro_t0.synthetic.cli, metro_t0.analysis.cli,
        ablation.cli, metro_t0.launch,
    )
]  # fmt: skip


@dataclass(frozen=True)
class Inner:
    """Settings of a library function."""

    share: float = option(0.5, "a share", above=0, at_most=1)
    way: Literal["up", "down"] = option("up", "where to")

    def __post_init__(self) -> None:
        check(self)


class Try(Command):
    """Try things, 100% of them.

    example:
      metro-t0-x try a
    """

    found: ClassVar[list[Any]] = []
    files: tuple[Path, ...] = option(help="what to try", positional=True, metavar="FILE")
    inner: Inner
    count: int = option(help="how often", at_least=1, at_most=10)
    names: tuple[str, ...] = option((), "which", names=True)
    code: bool = option(True, "no code")
    fast: bool = option(False, "be quick")
    prefix: bool | None = option(None, "with a prefix")

    def run(self) -> int:
        self.found.append(self)
        return 5


MAIN = Program("metro-t0-x", "A program.", (Try,))


def test_a_command_line_becomes_the_dataclass() -> None:
    line = "try a b --count 3 --share 0.25 --way down --names u,v --no-code --no-prefix -q"
    assert MAIN(line.split()) == 5
    made = Try.found.pop()
    assert made == Try(
        files=(Path("a"), Path("b")), inner=Inner(0.25, "down"), count=3, names=("u", "v"), code=False, prefix=False
    )
    assert MAIN(["try", "a", "--count", "3"]) == 5
    assert Try.found.pop() == Try(files=(Path("a"),), inner=Inner(), count=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("try a", "try: error: the following arguments are required: --count"),
        ("try --count 1", "the following arguments are required: FILE"),
        ("try a --count 0", "argument --count: 0 must be at least 1"),
        ("try a --count 11", "argument --count: 11 must be at most 10"),
        ("try a --count 1e1", "argument --count: '1e1' is not a whole number"),
        ("try a --count " + "9" * 5000, "is not a whole number"),
        ("try a --count 1 --share 0", "argument --share: 0 must be above 0"),
        ("try a --count 1 --share nan", "argument --share: nan must be a finite number"),
        ("try a --count 1 --share -inf", "expected one argument"),
        ("try a --count 1 --way left", "invalid choice: 'left'"),
        ("try a --count 1 --names ,", "give names separated by commas"),
        ("try a --count 1 --shares 1", "unrecognized argument --shares; did you mean --share"),
        ("try a --coun 1", "the following arguments are required: --count"),
        ("tri", "invalid choice: 'tri'"),
        ("", "the following arguments are required: COMMAND"),
        ("try a --count \x1b[31m", "'\\x1b[31m' is not a whole number"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert MAIN(line.split(" ") if line else []) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""


def test_help_shows_defaults_and_what_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert MAIN(["try", "--help"]) == 0
    text = capsys.readouterr().out
    required, others = text[text.index("required options:") :].split("\noptions:")
    assert "--count N" in required
    assert "--share X" in others
    assert "(default: 0.5)" in others
    assert "100% of them" in text
    assert "metro-t0-x try a" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for program in PROGRAMS:
        assert program(["--version"]) == 0
        assert capsys.readouterr().out == f"{program.name} {metro_t0.__version__}\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 2.0}, "share is 2.0; it must be at most 1"),
        ({"share": float("nan")}, "share is nan; it must be a finite number"),
        ({"share": "1"}, "share is '1'; it must be a number"),
        ({"way": "left"}, "way is 'left'; choose one of up, down"),
    ],
)
def test_settings_made_by_a_program_are_checked_too(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Inner(**settings)


def declared(settings: type) -> Iterator[tuple[dataclasses.Field[Any], Kind]]:
    for field, kind in zip(dataclasses.fields(settings), kinds(settings).values(), strict=True):
        if dataclasses.is_dataclass(kind.base):
            yield from declared(kind.base)
        else:
            yield field, kind


ALL = [(program.name, command) for program in PROGRAMS for command in program.commands]


@pytest.mark.parametrize(("program", "command"), ALL, ids=[f"{program} {command.name}" for program, command in ALL])
def test_every_option_has_help_and_every_number_both_bounds(program: str, command: type[Command]) -> None:
    assert command.__doc__
    assert command.__doc__[0].isupper()
    assert f"{program} {command.name}" in command.examples or program in command.examples
    for field, kind in declared(command):
        if field.init:
            assert field.metadata.get("help") or field.metadata.get("positional"), field.name
        if field.init and kind.base in (int, float):
            bounds = BROKEN.keys() & field.metadata.keys()
            assert len(bounds) >= 2, f"{field.name} needs a lower and an upper bound"


def test_one_name_for_one_thing() -> None:
    """Names that mean the same in all commands have one default; names that were given up are not used."""
    defaults: dict[str, set[Any]] = {}
    flags = set()
    for _, command in ALL:
        for field, kind in declared(command):
            flags.add(field.metadata.get("flag", f"--{field.name.replace('_', '-')}"))
            defaults.setdefault(field.name, set()).add((field.default, kind.many))
    for name in ("seed", "data_dir", "templates_dir", "device", "only", "limit", "workers", "max_source_tokens"):
        assert len(defaults[name]) == 1, name
    assert not flags & {"--max-source", "--max-source-length", "--max-target", "--set", "--eval-limit", "--destination"}
