"""What a prompt template may spend: steps, size of what it makes, and time.

A template comes with a data set, from whoever made it. The sandbox keeps it from reaching out; here it is kept from
running for ever or filling the memory. The bounds are far above what any published template does. Steps and sizes are
counted, so that whether a template is refused does not depend on the machine; time is the last resort.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.nodes import Concat, Const, Dict, List, Pair, Tuple

MOST_WORK = 10_000_000
"""Of one rendering: every character and item that is made or looked through, and `STEP` for every turn and call."""
STEP = 200
LARGEST = 1_000_000
"""Characters of a text, items of a list (with those inside), and the largest number given to a function."""
LARGEST_BITS = 4096
"""Of a whole number."""
MOST_SECONDS = 10
WIDTH = re.compile(r"\d{7,}")
"""Digits in a format that make a text longer than `LARGEST`."""


class TooMuch(SecurityError):
    """A template that asks for more than the bounds."""


class _Budget(threading.local):
    """What is left to the rendering of this thread."""

    left = MOST_WORK


_budget = _Budget()


def start() -> None:
    """A new rendering begins."""
    _budget.left = MOST_WORK


def spend(work: int) -> None:
    """Take from the budget. Raises `TooMuch` where it is used up."""
    _budget.left -= work
    if _budget.left < 0:
        raise TooMuch("it makes too many steps or too much text")


class Generator(CodeGenerator):
    """Jinja's compiler, whose `~` is `joined`."""

    def visit_Concat(self, node: Concat, frame: Frame) -> None:
        """`a ~ b ~ c`."""
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: List, frame: Frame) -> None:
        """A list; one that may hold other values has its size checked, so that sharing cannot make it explode."""
        self._checked(node, frame, super().visit_List)

    def visit_Dict(self, node: Dict, frame: Frame) -> None:
        """A mapping, likewise."""
        self._checked(node, frame, super().visit_Dict)

    def visit_Tuple(self, node: Tuple, frame: Frame) -> None:
        """A tuple, likewise, where it is a value."""
        if node.ctx == "load":
            self._checked(node, frame, super().visit_Tuple)
        else:
            super().visit_Tuple(node, frame)

    def _checked(self, node: Any, frame: Frame, write: Callable[[Any, Frame], None]) -> None:
        constant = all(isinstance(item.value if isinstance(item, Pair) else item, Const) for item in node.items)
        if not constant:
            self.write("environment.checked(")
        write(node, frame)
        if not constant:
            self.write(")")


def counted(items: Iterable[Any]) -> Iterator[Any]:
    """The items of a loop, each a step."""
    for item in items:
        spend(STEP)
        yield item


def joined(parts: Iterable[Any]) -> str:
    """The texts of all parts, one after the other."""
    texts = []
    size = 0
    for part in parts:  # every prompt goes through here: no calls for what is a text
        if part.__class__ is not str:
            part = str(checked(part))
        texts.append(part)
        size += len(part)
        if size > LARGEST:
            _check_size(size)
    spend(size)
    return "".join(texts)


def checked(value: Any) -> Any:
    """The value itself. Raises `TooMuch` where it is larger than the bounds, all that it holds counted."""
    if value.__class__ is str:
        spend(len(value))
        _check_size(len(value))
    elif value.__class__ is int:
        if value.bit_length() > LARGEST_BITS:
            raise TooMuch(f"a number of more than {LARGEST_BITS:,} bits")
    elif isinstance(value, (list, tuple, dict, set)):
        spend(_size(value))
    return value


def _size(value: Any) -> int:
    """The items of a container and the characters of its texts, those inside it too, as often as they are there."""
    size = 0
    waiting = [value]
    while waiting:
        at = waiting.pop()
        if isinstance(at, dict):
            waiting += at.keys()
            waiting += at.values()
        elif isinstance(at, (list, tuple, set)):
            waiting += at
        size += len(at) if isinstance(at, (str, list, tuple, set, dict)) else 1
        if size > LARGEST:
            raise TooMuch(f"a value of more than {LARGEST:,} items and characters")
    return size


def check_call(function: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Refuse, before it runs, a call whose result could be larger than the bounds."""
    receiver = getattr(getattr(function, "__wrapped__", function), "__self__", None)
    given = [*arguments, *named.values()]
    for value in (receiver, *given):
        checked(value)
    _check_numbers(given)
    if isinstance(receiver, str):
        name = function.__name__
        if name == "join" and given:
            check_join(receiver, given[0])
        elif name == "replace" and len(given) > 1:
            check_replace(receiver, given[0], given[1])
        elif name in ("format", "format_map"):
            check_format(receiver)
        elif name in ("expandtabs", "translate"):
            _check_size(len(receiver) * max((v for v in given if isinstance(v, int)), default=8))


def _check_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int | float) and abs(value) > LARGEST:
            raise TooMuch(f"a number above {LARGEST:,} given to a function")


def check_join(separator: str, items: Any) -> None:
    """Refuse a join of too much."""
    if isinstance(items, str):
        _check_size(len(items) * (1 + len(separator)))
    elif isinstance(items, (list, tuple)):
        _check_size(sum(len(str(checked(item))) for item in items) + len(separator) * len(items))


def check_replace(text: str, old: Any, new: Any) -> None:
    """Refuse a replacement that makes too long a text."""
    times = text.count(str(old)) if str(old) else len(text) + 1
    _check_size(len(text) + times * len(str(new)))


def check_format(text: str) -> None:
    """Refuse a width or precision of millions."""
    if WIDTH.search(text):
        raise TooMuch("a format of millions of characters")


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise TooMuch(f"a text of more than {LARGEST:,} characters")


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuse `+`, `*`, `**` and `%` whose result would be too large."""
    if operator == "%" and isinstance(left, str):
        check_format(left)
        _check_numbers(right if isinstance(right, tuple) else (right,))
        checked(right)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if operator in ("*", "**") and bits > LARGEST_BITS:
            raise TooMuch(f"a number of more than {LARGEST_BITS:,} bits")
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                _check_size(len(sequence) * times)
    elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        _check_size(len(left) + len(right))


def bounded(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose arguments, and whose result, are within the bounds."""

    def guarded(*given: Any, **named: Any) -> Any:
        values = [value for value in given if isinstance(value, (str, int, float, list, tuple, dict))]
        for value in values:
            checked(value)
        _check_numbers([*(v for v in values[1:] if isinstance(v, int | float)), *named.values()])
        texts = [value for value in values if isinstance(value, str)]
        if name == "format" and texts:
            check_format(texts[0])
        elif name == "replace" and len(texts) > 2:
            check_replace(*texts[:3])
        elif name == "join" and values:
            check_join(texts[-1] if texts else "", values[0])
        elif name == "indent" and texts:
            width = next((v for v in (*values[1:], *named.values()) if isinstance(v, int)), 4)
            _check_size(len(texts[0]) + (texts[0].count("\n") + 1) * width)
        return checked(run(*given, **named))

    for mark in ("jinja_pass_arg", "jinja_async_variant"):
        if hasattr(run, mark):
            setattr(guarded, mark, getattr(run, mark))
    guarded.__name__ = name
    return guarded


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise `TooMuch` in the body after `MOST_SECONDS`, where signals can do that (the main thread)."""
    if threading.get_ident() != threading.main_thread().ident or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield  # a caller has a limit of its own, or there is no way to interrupt
        return
    # Left in place afterwards: putting it there and back took longer than most prompts do.
    if signal.getsignal(signal.SIGALRM) is not _stop:
        signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _stop(*_: object) -> None:
    raise TooMuch(f"more than {MOST_SECONDS} seconds")
