"""One definition of a setting: a dataclass field with its type, default, help text and range.

Commands (`metro_t0.command`), fairseq's options (`fairseq_plugins.options`) and the checks of settings that a program
makes (`check`) all read it, so that a name, a default or a bound is written once.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from metro_t0.errors import UserError, unknown

Settings = TypeVar("Settings")
MOST_DIGITS = 30
"""Digits of a number that is quoted back, and of one that is read at all."""


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    **more: Any,
) -> Any:
    """A dataclass field with help text and bounds; required where it has no default.

    more: `metavar` (what stands for the value in the help), `positional` (an argument without dashes), `names` (a
    list of names, separated by commas), `rest` (all that is left of the line), `complete` (the values that a shell
    suggests), `flag` (another spelling of the option), or anything that some reader of the field wants to know.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    declared = {"help": help, **{name: bound for name, bound in bounds.items() if bound is not None}, **more}
    return dataclasses.field(default=default, metadata=declared)


@dataclass(frozen=True)
class Kind:
    """What values a field takes: one or many, of a plain type, of a list of choices, or None."""

    base: type
    choices: tuple[str, ...] = ()
    optional: bool = False
    many: bool = False


def kind_of(hint: Any) -> Kind:
    """The kind that a type hint describes: `int`, `Path | None`, `Literal["a", "b"]`, `tuple[str, ...]`."""
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = [part for part in get_args(hint) if part is not type(None)]
        return dataclasses.replace(kind_of(inner), optional=True)
    if get_origin(hint) is Literal:
        return Kind(str, get_args(hint))
    if get_origin(hint) is tuple:
        return dataclasses.replace(kind_of(get_args(hint)[0]), many=True)
    return Kind(hint)


def kinds(settings: type) -> dict[str, Kind]:
    """The kind of every field of a dataclass. A field that is itself a dataclass has that class as its base."""
    hints = get_type_hints(settings)
    return {field.name: kind_of(hints[field.name]) for field in dataclasses.fields(settings)}


BROKEN: dict[str, Callable[[float, float], bool]] = {
    "at_least": operator.lt,
    "above": operator.le,
    "at_most": operator.gt,
    "below": operator.ge,
}
"""Bound -> whether a number breaks it."""


def out_of_range(value: float, bounds: Mapping[str, Any]) -> str | None:
    """What is wrong with a number, as in "must be at least 1", or None; NaN and infinity are never right."""
    if not math.isfinite(value):
        return "must be a finite number"
    for name, is_broken in BROKEN.items():
        if name in bounds and is_broken(value, bounds[name]):
            return f"must be {name.replace('_', ' ')} {_plain(bounds[name])}"
    return None


def _plain(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def check(settings: Any, named: str = "", declared: type | None = None) -> None:
    """Compare the fields of a settings object with their declaration.

    declared: the dataclass that declares them (default: the object's own). named: what the messages call a field, as
    in "model field ". Raises `UserError` for a number out of range, none of the choices, or another type.
    """
    declared = declared or type(settings)
    for field, kind in zip(dataclasses.fields(declared), kinds(declared).values(), strict=True):
        value = getattr(settings, field.name)
        if (value is None and kind.optional) or dataclasses.is_dataclass(kind.base):
            continue
        for item in value if kind.many else (value,):
            problem = _problem(item, kind, field.metadata)
            if problem:
                raise UserError(f"{named}{field.name} is {item!r:.80}; {problem}")


def _problem(value: Any, kind: Kind, bounds: Mapping[str, Any]) -> str | None:
    if kind.choices:
        return None if value in kind.choices else f"choose one of {', '.join(kind.choices)}"
    if kind.base in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind.base is float else int):
            return f"it must be a {'whole ' if kind.base is int else ''}number"
        return (problem := out_of_range(value, bounds)) and f"it {problem}"
    if kind.base in (str, bool) and not isinstance(value, kind.base):
        return "it must be text" if kind.base is str else "it must be true or false"
    return None


def from_values(settings: type[Settings], values: Mapping[str, Any], named: str) -> Settings:
    """Settings from the plain values of a file, or from a fairseq config with its enums and its "true" and "false".

    Raises `UserError` on a field that does not exist.
    """
    known = kinds(settings)
    for name in values.keys() - known.keys():
        raise unknown(named, name, known)
    return settings(**{name: _plain_value(value, known[name].base) for name, value in values.items()})


def _plain_value(value: Any, kind: type) -> Any:
    if kind is bool and not isinstance(value, bool):
        return str(value).lower() == "true"
    return str(value) if kind is str else value


def parse(text: str, kind: Kind, bounds: Mapping[str, Any]) -> Any:
    """The value that an argument of a command line stands for. Raises `ValueError` that says what is wrong with it."""
    if bounds.get("names"):
        return _names(text)
    if kind.base not in (int, float):
        return Path(text) if kind.base is Path else text
    shown = text if len(text) <= MOST_DIGITS else f"{text[:MOST_DIGITS]}..."
    try:
        value = kind.base(text) if len(text) <= MOST_DIGITS else None
    except ValueError:
        value = None
    if value is None:
        raise ValueError(f"{shown!r} is not a {'whole ' if kind.base is int else ''}number")
    if problem := out_of_range(value, bounds):
        raise ValueError(f"{shown} {problem}")
    return value


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ValueError("give names separated by commas")
    return names
