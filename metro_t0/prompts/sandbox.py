"""The Jinja environment in which prompt templates run.

Template files come from other people, so they run in Jinja's sandbox: no private attributes, no unsafe calls.
What a harmless template prints is what promptsource prints, filter for filter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, nodes, pass_context, pass_environment
from jinja2.exceptions import SecurityError, TemplateAssertionError
from jinja2.filters import do_int, do_truncate
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import soft_str

from metro_t0.prompts import limits
from metro_t0.randomness import keyed_seed

# The name under which `choice` finds its keys among the variables. Jinja identifiers hold no spaces, so that
# no template can read or replace it.
DRAWS = "draws of choice"
# The name of the filter `shorten`.
SHORTEN = "shorten"
# The filter through which every loop runs.
COUNTED = "counted turns"
# Filters that stand in a subscript for a constant and for `int`, see `PromptEnvironment._parse`.
WRITTEN_INDEX = "written index"
CLASS_NUMBER = "class number"
DICT_ATTRIBUTES = frozenset(dir(dict))


class HiddenLabel(Exception):
    """A row's label is hidden: -1, empty or no number where a class is looked up."""


class WrittenIndex(int):
    """A negative index that the template itself writes down, such as `turns[-1]`."""


def class_number(value: Any) -> Any:
    """The filter `int` inside a subscript, where an empty label, or another that is no number, is not class 0."""
    number: Any = do_int(value, None)  # type: ignore[arg-type]
    if number is None:
        raise HiddenLabel
    return number


class Draws:
    """The random choices of one rendering: the k-th one is a function of (keys, k) alone."""

    __slots__ = ("count", "keys")

    def __init__(self, keys: tuple[int | str, ...]) -> None:
        self.keys = keys
        self.count = 0

    def __call__(self, items: Sequence[Any]) -> Any:
        index = keyed_seed(*self.keys, self.count) % len(items)
        self.count += 1
        return items[index]


@pass_context
def choice(context: Context, items: Sequence[Any]) -> Any:
    """One of `items`, by the `Draws` of the rendering.

    It takes the context so that Jinja cannot fold `["a", "b"] | choice` into one constant at compile time.
    """
    if not items:
        raise ValueError("choice from an empty list")
    draws: Draws = context.parent[DRAWS]
    return draws(items)


def most_frequent(items: Sequence[Any]) -> list[Any] | None:
    """All items that occur as often as the most frequent one, in order of first occurrence; None of nothing."""
    if not items:
        return None
    counts = Counter(items)
    highest = max(counts.values())
    return [item for item, count in counts.items() if count == highest]


def highlight(text: str) -> str:
    """Wrap `text` in the colored HTML span of promptsource's viewer."""
    return "<span style='color: #F08080'>" + text + "</span>"


@pass_environment
def shorten(environment: Environment, value: Any, length: int) -> str:
    """The same as Jinja's `value | string | truncate(length)`, quicker for what is short enough."""
    text = value if value.__class__ is str else soft_str(limits.checked(value))
    return text if len(text) <= length else do_truncate(environment, text, length)


class PromptEnvironment(SandboxedEnvironment):
    """Jinja's sandbox with promptsource's filters, which refuses loudly and bounds what a template may spend.

    The stock sandbox turns a forbidden attribute into an undefined value that prints as nothing; here it raises.
    The mutable sandbox is used because some of promptsource's templates collect into lists of their own.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    code_generator_class = limits.Generator

    def __init__(self) -> None:
        super().__init__()
        del self.globals["lipsum"]  # makes text without end
        self.filters = {name: limits.bounded(name, run) for name, run in self.filters.items()}
        self.globals.update(zip=zip)
        self.filters.update(choice=choice, most_frequent=most_frequent, highlight=highlight)
        self.filters[SHORTEN] = shorten
        self.filters[COUNTED] = limits.counted
        self.filters[WRITTEN_INDEX] = WrittenIndex
        self.filters[CLASS_NUMBER] = class_number

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse, and mark in every subscript what the template wrote itself.

        So that `getitem` can tell `turns[-1]` from `answer_choices[label]` with a hidden label, which Python would
        take for the last choice.
        """
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            if loop.recursive:
                raise TemplateAssertionError("recursive loops are not allowed in prompts", loop.lineno)
            loop.iter = nodes.Filter(loop.iter, COUNTED, [], [], None, None)
            loop.iter.set_environment(self)
        for subscript in tree.find_all(nodes.Getitem):
            index = subscript.arg
            if isinstance(index, nodes.Neg) and isinstance(index.node, nodes.Const):
                constant = nodes.Const(-index.node.value)
                subscript.arg = nodes.Filter(constant, WRITTEN_INDEX, [], [], None, None)
                subscript.arg.set_environment(self)
            for part in [index, *index.find_all(nodes.Filter)]:
                if isinstance(part, nodes.Filter) and part.name == "int" and not (part.args or part.kwargs):
                    part.name = CLASS_NUMBER
        return tree

    def getitem(self, obj: Any, argument: Any) -> Any:
        """The sandbox's subscript. Raises `HiddenLabel` for a negative index that comes from the row."""
        if argument.__class__ is int and argument < 0 and isinstance(obj, list | tuple | str):
            raise HiddenLabel
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """The sandbox's attribute access; a key of a plain dict is found without trying its attributes first."""
        if obj.__class__ is dict and attribute not in DICT_ATTRIBUTES and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"access to attribute {attribute!r} of a {type(obj).__name__}")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Evaluate an operation, unless its result would be too large."""
        limits.check_operation(operator, left, right)
        return limits.checked(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function, a method or a macro as the sandbox does: a step, within the bounds of sizes."""
        limits.spend(limits.STEP)
        limits.check_call(__obj, args, kwargs)
        return limits.checked(super().call(__context, __obj, *args, **kwargs))

    joined = staticmethod(limits.joined)
    concat = staticmethod(limits.joined)
    checked = staticmethod(limits.checked)
