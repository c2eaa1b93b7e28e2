"""What all commands share: options made from dataclasses, error lines, exit statuses, progress."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn, dataclass_transform

from metro_t0 import __version__, files
from metro_t0.errors import UserError, nearest, one_line
from metro_t0.options import Kind, kinds, parse
from metro_t0.progress import be_quiet

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143
CLOSED_PIPE = 141
METAVARS = {int: "N", float: "X", Path: "PATH", str: "NAME"}


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Command:
    """A subcommand: a frozen dataclass whose fields are its options; `run` does the work.

    Its docstring is its help: the first paragraph says what it does, the rest, such as examples, follows the options,
    after that of the classes it builds on. It is called like its class (`InitStats`: init-stats), or `name`.
    A field whose type is a dataclass adds that class's fields as options, and holds an instance made of them.
    """

    name: ClassVar[str] = "command"
    about: ClassVar[str] = ""
    examples: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        about, _, examples = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
        cls.about = " ".join(about.split())
        inherited = [base.examples for base in cls.__bases__ if issubclass(base, Command) and base.examples]
        cls.examples = "\n\n".join([*inherited, examples] if examples else inherited)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<!^)(?=[A-Z][a-z])", "-", cls.__name__).lower()
        dataclass(frozen=True, kw_only=True)(cls)

    def run(self) -> int | None:
        """Do the work and return the exit status (None: 0). What is slow to import is imported here."""
        raise NotImplementedError


@dataclass(frozen=True)
class Program:
    """A program of several commands, or of one. Calling it runs a command line and returns the exit status."""

    name: str
    about: str
    commands: Sequence[type[Command]]
    one: bool = False
    """It has one command, whose options are the program's own."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """argv: the arguments (default: the process's)."""
        try:
            return run(self.name, lambda: self._run(argv))
        except SystemExit as ended:  # --help, --version, an argument that is refused
            return int(ended.code or 0)

    def _run(self, argv: Sequence[str] | None) -> int | None:
        parsed, unknown = self.parser().parse_known_args(argv)
        chosen: Parser = parsed.parser
        if unknown:
            known = [option for action in chosen._actions for option in action.option_strings]
            option = unknown[0].partition("=")[0]
            near = nearest(option, known) if option.startswith("--") else ""
            chosen.error(f"unrecognized argument {unknown[0]}{near}")
        be_quiet(parsed.quiet)
        _silence_other_bars(parsed.quiet)
        return run(chosen.prog, lambda: build(parsed.command, parsed).run())

    def parser(self) -> Parser:
        """The argument parser, with shell completion where the shell asks for it."""
        parser = Parser(prog=self.name, description=self.about, epilog=self.examples())
        parser.add_argument("--version", action="version", version=f"{self.name} {__version__}")
        if self.one:
            add_options(parser, self.commands[0])
        else:
            commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
            for command in self.commands:
                about, epilog = command.about, command.examples
                add_options(commands.add_parser(command.name, help=about, description=about, epilog=epilog), command)
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(parser)
        return parser

    def examples(self) -> str:
        """Those of its one command, or the first of every command."""
        if self.one:
            return self.commands[0].examples
        found = (re.search(rf"^ *{self.name} {each.name}\b(.*\\\n)*.*", each.examples, re.M) for each in self.commands)
        return "\n".join(["examples:", *(f"  {first[0].strip()}" for first in found if first)])


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the line breaks of examples, abbreviates nothing and complains in one line."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Print one line and end with status 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {one_line(message)} (see --help)\n")


def add_options(parser: Parser, command: type[Command]) -> None:
    """Add the option of every field, the required ones in a group of their own, and --quiet."""
    required = parser.add_argument_group("required options")
    parser._action_groups.insert(1, parser._action_groups.pop())
    for field, kind in _flat(command):
        _add(required if field.default is MISSING and not field.metadata.get("positional") else parser, field, kind)
    parser.add_argument("-q", "--quiet", action="store_true", help="print no progress")
    parser.set_defaults(command=command, parser=parser)


def _flat(settings: type) -> Iterator[tuple[Field[Any], Kind]]:
    for field, kind in zip(dataclasses.fields(settings), kinds(settings).values(), strict=True):
        if dataclasses.is_dataclass(kind.base):
            yield from _flat(kind.base)
        elif field.init:
            yield field, kind


def _add(parser: Any, field: Field[Any], kind: Kind) -> None:
    declared = field.metadata
    default: Any = None if field.default is MISSING else field.default
    about = declared.get("help", "")
    flag = declared.get("flag", f"--{field.name.replace('_', '-')}")
    if kind.base is bool:
        action = argparse.BooleanOptionalAction if kind.optional else f"store_{str(not default).lower()}"
        name = f"--no-{flag[2:]}" if default is True else flag
        parser.add_argument(name, dest=field.name, action=action, default=default, help=about.replace("%", "%%"))
        return
    more: dict[str, Any] = {"default": default, "type": partial(_parsed, kind=kind, declared=declared)}
    if kind.choices:
        more["choices"] = kind.choices
    else:
        more["metavar"] = declared.get("metavar", METAVARS[kind.base])
    if kind.many and not declared.get("names"):
        more["nargs"] = argparse.REMAINDER if declared.get("rest") else "+"
    if declared.get("positional"):
        if default is None and kind.optional:
            more["nargs"] = "?"
        action = parser.add_argument(field.name, help=about.replace("%", "%%"), **more)
        action.completer = declared.get("complete")
        return
    if default not in (None, "", ()):
        about += f" (default: {' '.join(map(str, default)) if kind.many else default})"
    required = field.default is MISSING
    parser.add_argument(flag, dest=field.name, required=required, help=about.replace("%", "%%"), **more)


def _parsed(text: str, kind: Kind, declared: Mapping[str, Any]) -> Any:
    try:
        return parse(text, kind, declared)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def build(settings: type, parsed: argparse.Namespace) -> Any:
    """An instance of the dataclass from a parsed command line."""
    values: dict[str, Any] = {}
    for field, kind in zip(dataclasses.fields(settings), kinds(settings).values(), strict=True):
        if dataclasses.is_dataclass(kind.base):
            values[field.name] = build(kind.base, parsed)
        elif field.init:
            value = getattr(parsed, field.name)
            values[field.name] = tuple(value) if kind.many else value
    return settings(**values)


def run(program: str, body: Callable[[], int | None]) -> int:
    """Run a command's body and return its exit status.

    0 (or what the body returns) on success; 2 with one line on standard error for a `UserError` and for what the system
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
