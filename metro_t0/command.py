"""What all commands share: options made from dataclasses, error lines, exit statuses, progress."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from metro_t0 import __version__, files
from metro_t0.errors import UserError, nearest, one_line
from metro_t0.options import Kind, kinds, parse
from metro_t0.progress import be_quiet

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143
CLOSED_PIPE = 141
METAVARS = {int: "N", float: "X", Path: "PATH", str: "NAME"}


class Command:
    """A subcommand: its docstring is the help text, its dataclass fields are the options, `run` does the work.

    A field whose type is a dataclass gives its fields as options, and holds an instance made of them.
    """

    name: ClassVar[str]
    examples: ClassVar[str] = ""

    def run(self) -> int | None:
        """Do the work and give the exit status (None: 0). What is slow to import is imported here."""
        raise NotImplementedError


@dataclass(frozen=True)
class Program:
    """A program of several commands. Calling it runs a command line (default: the process's) and gives its status."""

    name: str
    about: str
    commands: Sequence[type[Command]]
    examples: str = ""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        try:
            return run(self.name, lambda: self._run(argv))
        except SystemExit as ended:  # --help, --version, an argument that is refused
            return int(ended.code or 0)

    def _run(self, argv: Sequence[str] | None) -> int | None:
        given, unknown = self.parser().parse_known_args(argv)
        chosen: Parser = given.parser
        if unknown:
            known = [option for action in chosen._actions for option in action.option_strings]
            option = unknown[0].partition("=")[0]
            near = nearest(option, known) if option.startswith("--") else ""
            chosen.error(f"unrecognized argument {unknown[0]}{near}")
        be_quiet(given.quiet)
        _silence_other_bars(given.quiet)
        return run(chosen.prog, lambda: build(given.command, given).run())

    def parser(self) -> Parser:
        """The argument parser, with shell completion where the shell asks for it."""
        parser = Parser(prog=self.name, description=self.about, epilog=self.examples)
        parser.add_argument("--version", action="version", version=f"{self.name} {__version__}")
        commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
        for command in self.commands:
            about = " ".join((command.__doc__ or "").split())
            made = commands.add_parser(command.name, help=about, description=about, epilog=command.examples)
            add_options(made, command)
            made.set_defaults(command=command, parser=made)
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(parser)
        return parser


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the line breaks of examples, abbreviates nothing and complains in one line."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Print one line and end with status 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {one_line(message)} (see --help)\n")


def add_options(parser: Parser, settings: type) -> None:
    """Add the option of every field of a dataclass, the required ones in a group of their own, and --quiet."""
    required = parser.add_argument_group("required options")
    parser._action_groups.insert(1, parser._action_groups.pop())
    for field, kind in _flat(settings):
        _add(required if field.default is MISSING and not field.metadata.get("positional") else parser, field, kind)
    parser.add_argument("-q", "--quiet", action="store_true", help="print no progress")


def _flat(settings: type) -> Iterator[tuple[Field[Any], Kind]]:
    declared = kinds(settings)
    for field in dataclasses.fields(settings):
        kind = declared[field.name]
        if dataclasses.is_dataclass(kind.base):
            yield from _flat(kind.base)
        elif field.init:
            yield field, kind


def _add(parser: Any, field: Field[Any], kind: Kind) -> None:
    about = field.metadata.get("help", "").replace("%", "%%")
    flag = field.metadata.get("flag", f"--{field.name.replace('_', '-')}")
    if kind.base is bool:
        action = argparse.BooleanOptionalAction if kind.optional else f"store_{str(not field.default).lower()}"
        name = f"--no-{flag[2:]}" if field.default is True else flag
        parser.add_argument(name, dest=field.name, action=action, default=field.default, help=about)
        return
    more: dict[str, Any] = {"help": about, "type": _type(field, kind)}
    more["metavar"] = field.metadata.get("metavar", METAVARS[kind.base]) if not kind.choices else None
    if kind.choices:
        more["choices"] = kind.choices
    if kind.many and not field.metadata.get("names"):
        more["nargs"] = "+"
    if field.metadata.get("positional"):
        parser.add_argument(field.name, **more)
        return
    if field.default is MISSING:
        more["required"] = True
    else:
        more["default"] = field.default
        if field.default not in (None, "", ()):
            shown = " ".join(map(str, field.default)) if kind.many else field.default
            more["help"] += f" (default: {shown})".replace("%", "%%")
    parser.add_argument(flag, dest=field.name, **more)


def _type(field: Field[Any], kind: Kind) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            if field.metadata.get("names"):
                return _names(text)
            return parse(text, kind, field.metadata)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ValueError("give names separated by commas")
    return names


def build(settings: type, given: argparse.Namespace) -> Any:
    """An instance of the dataclass from a parsed command line."""
    values: dict[str, Any] = {}
    for (name, kind), field in zip(kinds(settings).items(), dataclasses.fields(settings), strict=True):
        if dataclasses.is_dataclass(kind.base):
            values[name] = build(kind.base, given)
        elif field.init:
            value = getattr(given, name)
            values[name] = tuple(value) if kind.many else value
    return settings(**values)


def run(program: str, body: Callable[[], int | None]) -> int:
    """Run a command's body and give its exit status.

    0 (or what the body gives) on success; 2 with one line on standard error for a `UserError` and for what the system
    refuses (a full disk, a missing permission); 130 after Ctrl-C, 143 after SIGTERM, both with temporary files removed;
    141, silently, where the reader of a pipe has gone.
    Any other exception is a defect of the program and keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal of another encoding is no reason to stop
    try:
        try:
            with _sigterm_raises():
                return body() or 0
        finally:
            _flush()
    except BrokenPipeError:
        _discard_output()
        return CLOSED_PIPE
    except (UserError, OSError, MemoryError) as error:
        print(f"{program}: error: {one_line(describe(error))}", file=sys.stderr)
        return BAD_INPUT
    except Terminated:
        print(f"{program}: terminated", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what it holds is released, what is half-written removed."""


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Raise `Terminated` on SIGTERM, unless it is ignored or the program has a handler of its own."""

    def stop(*_: object) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def describe(error: BaseException) -> str:
    """One line about an error that is not the program's fault: `FILE: reason`."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if not isinstance(error, OSError) or error.errno is None:
        return str(error) or type(error).__name__
    name = error.filename2 or error.filename  # of a rename, what was to be made
    return f"{os.fsdecode(name)}: {files.describe(error)}" if isinstance(name, (str, bytes)) else files.describe(error)


def _silence_other_bars(quiet: bool) -> None:
    """Bars of other libraries: none beside ours, and none in a log; downloads keep theirs on a terminal."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _flush() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard_output()
        if error.errno == errno.EPIPE:
            raise
        raise UserError(f"standard output: {(error.strerror or str(error)).lower()}") from None


def _discard_output() -> None:
    """Let nothing complain, at the end of the process, about output that nobody takes."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
