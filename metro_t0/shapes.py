"""Is what a JSON or YAML file holds of the shape that its reader needs? One line says where it is not.

A shape is a type hint: `dict[str, float]`, `list[str]`, `int | None`, a `Literal`, or a `TypedDict`, whose keys may be
`NotRequired`; other keys than its own are left to the reader.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

from metro_t0.errors import UserError
from metro_t0.text_files import parse_json

NAMES = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
LONGEST_SHOWN = 60


def json_value(text: str | bytes, place: str) -> Any:
    """One JSON value. place: the file, or file and line. Raises `UserError` for whatever is none.

    NaN and infinities, which no JSON has, are refused only where a shape asks for a number.
    """
    try:
        return parse_json(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 text (byte {error.start})") from None
    except ValueError as error:
        raise UserError(f"{place}: not a JSON file ({str(error).partition(';')[0]})") from None


def expect(value: Any, shape: Any, place: str) -> Any:
    """`value`, which is of that shape. Raises `UserError`: place, field, what was expected and what is there."""
    origin, arguments = get_origin(shape), get_args(shape)
    if shape is Any:
        return value
    if origin in (Required, NotRequired):
        return expect(value, arguments[0], place)
    if origin in (Union, types.UnionType):
        return _one_of(value, arguments, place)
    if origin is Literal:
        if value not in arguments:
            raise _wrong(place, f"one of {', '.join(map(str, arguments))}", value)
    elif is_typeddict(shape):
        _expect_fields(value, shape, place)
    elif origin is dict:
        for key, item in _of_kind(value, dict, place).items():
            expect(key, arguments[0], f"{place}: key {key!r:.{LONGEST_SHOWN}}")
            expect(item, arguments[1], f"{place}: {key}")
    elif origin is list:
        for number, item in enumerate(_of_kind(value, list, place), 1):
            expect(item, arguments[0], f"{place}: item {number}")
    else:
        _of_kind(value, shape, place)
    return value


def _expect_fields(value: Any, shape: Any, place: str) -> None:
    _of_kind(value, dict, place)
    for name, hint in get_type_hints(shape, include_extras=True).items():
        if name in value:
            expect(value[name], hint, f"{place}: {name}")
        elif get_origin(hint) is Required or (shape.__total__ and get_origin(hint) is not NotRequired):
            raise UserError(f"{place}: has no field {name}, which must be {_name(hint)}")


def _one_of(value: Any, shapes: tuple[Any, ...], place: str) -> Any:
    fitting = [shape for shape in shapes if isinstance(value, get_origin(shape) or _plain(shape))]
    if not fitting:
        raise _wrong(place, " or ".join(map(_name, shapes)), value)
    return expect(value, fitting[0], place)


def _plain(shape: Any) -> Any:
    return dict if is_typeddict(shape) else (int, float) if shape is float else shape


def _of_kind(value: Any, kind: type, place: str) -> Any:
    right = isinstance(value, _plain(kind)) and (kind is bool or not isinstance(value, bool))
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise _wrong(place, _name(kind), value)
    return value


def _wrong(place: str, expected: str, value: Any) -> UserError:
    found = "nothing" if value is None else NAMES.get(type(value), type(value).__name__)
    if isinstance(value, (str, int, float)):
        shown = repr(value) if isinstance(value, str) else json.dumps(value)
        found = shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."
    return UserError(f"{place}: must be {expected}, is {found}")


def _name(shape: Any) -> str:
    origin = get_origin(shape)
    if origin in (Required, NotRequired):
        return _name(get_args(shape)[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_name, get_args(shape)))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(shape)))}"
    plain = dict if is_typeddict(shape) else origin or shape
    return "nothing" if plain is type(None) else NAMES.get(plain, str(plain))


def field(value: Mapping[str, Any], name: str, shape: Any, place: str, default: Any = ...) -> Any:
    """One field of a mapping. Raises `UserError` where it is absent, unless there is a default, or of another shape."""
    if name not in value:
        if default is ...:
            raise UserError(f"{place}: has no field {name}, which must be {_name(shape)}")
        return default
    return expect(value[name], shape, f"{place}: {name}")
