"""The one error type whose message is meant for the person at the keyboard, and how text is put into a message."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

MOST_LISTED = 30


class UserError(Exception):
    """Bad input. The message is one line: what is wrong, in which file or field, and what to do.

    Every command prints it without a traceback and exits with status 2 (see `metro_t0.command`).
    """


def printable(text: str) -> str:
    """`text` without what a terminal would obey: control characters and changes of direction become escapes.

    Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _commands_terminal(c) else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`text` on one line, safe to print."""
    return printable(" ".join(text.split()))


def first_line(error: BaseException) -> str:
    """The first line of what a library says, for a message of ours; the error's type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """How an error message about an unknown name ends: the nearest known ones, or all where they are few, or nothing.

    One rule for all messages: `unknown task 'rtte'` + `; did you mean rte?`
    """
    choices = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, choices, n=3)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; choose one of {', '.join(choices)}" if 0 < len(choices) <= MOST_LISTED else ""


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is none of the known ones."""
    return UserError(f"unknown {what} {name!r:.80}{nearest(name, known)}")


TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Invisible characters that change the direction in which a terminal writes."""


def _commands_terminal(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in TURNS
