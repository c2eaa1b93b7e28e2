"""One prompt template: compiled once, rendered row by row in the sandbox.

Behavior (truncation, protection of the separator, stripping) equals `Template.apply` and
`Template.get_answer_choices_list` of promptsource 0.2.3, which the tests compare against on real rows. One thing
differs: a row whose label is hidden (-1, as in test splits) has no example, where promptsource takes the last choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeVar

import jinja2
from jinja2 import meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context

from metro_t0.errors import UserError, one_line
from metro_t0.prompts import MAX_VARIABLE_LENGTH, limits
from metro_t0.prompts.sandbox import DRAWS, SHORTEN, Draws, HiddenLabel, PromptEnvironment

SEPARATOR = "|||"

# Stands for a separator inside a row's text while the rendered template is split. It is promptsource's own, since
# its length counts in the truncation.
PROTECTED_SEPARATOR = "3ed2dface8203c4c9dfb1a5dc58e41e0"

HIDDEN = -1
"""What stands for the label of a row whose class is kept secret, as in the test splits of GLUE."""
HIDDEN_CLASSES = (HIDDEN, str(HIDDEN))

T = TypeVar("T")

TEXTS_KEPT = 4096
ENVIRONMENT = PromptEnvironment()


class Rendered(NamedTuple):
    """One prompted example as text."""

    source: str
    target: str
    choices: list[str] | None


class MissingColumnError(UserError):
    """A row lacks a column that the template uses."""


class RenderError(UserError):
    """A template that compiles but fails on this row."""


class HiddenLabelError(RenderError):
    """A row whose label is hidden, so that it has no target."""


@dataclass(frozen=True)
class Template:
    """A prompt template of promptsource: Jinja text that renders a row to `source ||| target`.

    Compilation happens on first use. All errors are `UserError`s that name the template.
    """

    name: str
    dataset: str
    """Data set and subset, as `name` or `name/subset`."""
    jinja: str
    answer_choices: str | None = None
    """Jinja text that renders to the choices separated by `|||`, or None for open-ended tasks."""
    original_task: bool = False
    """Whether the prompt asks for the task that the data set was made for."""
    choices_in_prompt: bool = False
    metrics: tuple[str, ...] = ()
    max_variable_length: int | None = MAX_VARIABLE_LENGTH
    """Characters kept of every `{{ expression }}` in the prompt (not in the answer choices); None keeps all."""

    @property
    def has_choices(self) -> bool:
        """Whether the template lists its answer choices, as rank classification needs."""
        return self.answer_choices is not None

    @cached_property
    def required_columns(self) -> frozenset[str]:
        """The names that the template reads from a row."""
        return self._columns.required

    def render(self, row: Mapping[str, Any], seed_key: tuple[int | str, ...] = ()) -> Rendered | None:
        """The prompted example of one row, or None where the template has no source or no target for it.

        seed_key: keys of the random choices, for instance (seed, data set, template, row index).
        Raises `MissingColumnError`, `RenderError` or, where the row's label is hidden, its subclass `HiddenLabelError`.
        """
        parts, choices = self.render_parts(row, seed_key)
        if len(parts) != 2 or not parts[0] or not parts[1]:
            return None
        return Rendered(parts[0], parts[1], choices)

    def render_parts(
        self, row: Mapping[str, Any], seed_key: tuple[int | str, ...] = ()
    ) -> tuple[list[str], list[str] | None]:
        """All stripped parts between separators, and the answer choices.

        The parts are [source, target] as a rule and [""] for a row that the template passes over. Raises as `render`.
        """
        if "answer_choices" in row:
            raise UserError(f"{self.title}: the rows have a column 'answer_choices', a reserved name; rename it")
        variables = self._variables(row)
        variables[DRAWS] = Draws(seed_key)
        choices = None
        if self._fixed_choices is not None:
            choices = self._fixed_choices.copy()
        elif self._compiled_choices is not None:
            choices = _split(self._run(self._compiled_choices, variables))
        variables["answer_choices"] = choices
        return _split(self._run(self._compiled_prompt, variables)), choices

    def _variables(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the template can read: the environment's own names, and the columns that occur in it."""
        variables: dict[str, Any] = ENVIRONMENT.globals.copy()
        columns = self._columns
        if not columns.required <= row.keys():
            missing = ", ".join(sorted(columns.required - row.keys()))
            raise MissingColumnError(f"{self.title}: no column {missing} in the row (it has {', '.join(row)})")
        for name in columns.read:
            if name in row:
                value = row[name]
                is_hidden = name in columns.classes and value in HIDDEN_CLASSES
                if is_hidden or (name in columns.named and _is_empty(value)):
                    raise self._hidden_label()
                variables[name] = value.replace(SEPARATOR, PROTECTED_SEPARATOR) if isinstance(value, str) else value
        return variables

    def compile(self) -> None:
        """Compile now rather than on first use. Raises `UserError` where the text does not parse."""
        _ = self._compiled_prompt, self._compiled_choices, self._fixed_choices, self._columns

    def __getstate__(self) -> dict[str, Any]:
        # Compiled Jinja cannot be pickled; a process that receives the template compiles it once, see `_compile`.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def title(self) -> str:
        """How messages name the template."""
        return f"template {self.name!r} of {self.dataset}"

    @cached_property
    def _columns(self) -> Columns:
        texts = [self._prompt_text] if self.answer_choices is None else [self._prompt_text, self.answer_choices]
        found = self._translate(lambda: [_columns_of(text) for text in texts])
        return Columns(*(frozenset().union(*sets) - {"answer_choices"} for sets in zip(*found, strict=True)))

    @cached_property
    def _fixed_choices(self) -> list[str] | None:
        """The choices where they are plain text, the same for all rows."""
        if self._compiled_choices is None or self.answer_choices is None or "{" in self.answer_choices:
            return None
        return _split(self._run(self._compiled_choices, {}))

    @cached_property
    def _compiled_prompt(self) -> jinja2.Template:
        return self._translate(lambda: _compile(self._prompt_text))

    @cached_property
    def _compiled_choices(self) -> jinja2.Template | None:
        if self.answer_choices is None:
            return None
        text = self.answer_choices
        return self._translate(lambda: _compile(text))

    @property
    def _prompt_text(self) -> str:
        # Plain text replacement, as in promptsource: the filters bind to the last operand of an expression only.
        if self.max_variable_length is None:
            return self.jinja
        return self.jinja.replace("}}", f" | {SHORTEN}({self.max_variable_length}) }}}}")

    def _run(self, compiled: jinja2.Template, variables: dict[str, Any]) -> str:
        try:
            # What compiled.render(variables) does, without copying names into a new dictionary one by one.
            limits.start()
            context = Context(ENVIRONMENT, variables, None, compiled.blocks)
            with limits.time_limit():
                return limits.joined(compiled.root_render_func(context))
        except HiddenLabel:
            raise self._hidden_label() from None
        except limits.TooMuch as error:
            raise UserError(f"{self.title}: asks for too much ({error}); it will not be run") from None
        except SecurityError as error:
            raise UserError(f"{self.title}: reaches outside the sandbox ({error}); it will not be run") from None
        except Exception as error:  # a template is a program: whatever it raises is its own failure on this row
            raise RenderError(
                f"{self.title}: fails to render ({type(error).__name__}: {one_line(str(error))})"
            ) from None

    def _hidden_label(self) -> HiddenLabelError:
        return HiddenLabelError(f"{self.title}: the row's label is hidden ({HIDDEN} or empty)")

    def _translate(self, parse: Callable[[], T]) -> T:
        try:
            return parse()
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{self.title}: does not parse (line {error.lineno}: {one_line(str(error))})") from None
        except jinja2.TemplateError as error:
            raise UserError(f"{self.title}: does not compile ({one_line(str(error))})") from None


@lru_cache(maxsize=TEXTS_KEPT)
def _compile(text: str) -> jinja2.Template:
    return ENVIRONMENT.from_string(text)


class Columns(NamedTuple):
    """Names in a Jinja text that may stand for columns of a row."""

    required: frozenset[str]
    """Read, and never set nor tested with `is defined`."""
    read: frozenset[str]
    """All names that are looked up when the text is rendered."""
    classes: frozenset[str]
    """Read as the number of a class: compared with 0, 1, ... or tested for truth, and never with less than 0."""
    named: frozenset[str]
    """Compared with numbers or names of classes, and never tested for being empty."""


@lru_cache(maxsize=TEXTS_KEPT)
def _columns_of(text: str) -> Columns:
    tree = ENVIRONMENT.parse(text)
    stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    tested = {
        test.node.name
        for test in tree.find_all(nodes.Test)
        if test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name)
    }
    classes, named = _class_columns(tree)  # first, since the search for names folds the constants of the tree
    undeclared = frozenset(meta.find_undeclared_variables(tree))
    # A column may have the name of a function of the environment, and is then meant.
    functions = ENVIRONMENT.globals.keys() & {name.name for name in tree.find_all(nodes.Name)}
    return Columns(undeclared - stored - tested, undeclared | functions, classes & undeclared, named & undeclared)


def _class_columns(tree: nodes.Template) -> tuple[frozenset[str], frozenset[str]]:
    """`Columns.classes` and `Columns.named`."""
    column = _columns_behind(tree)
    classes = {name for test in _truth_tests(tree) if (name := column(test))}
    named = set()
    handled = set()  # by the template itself: `label >= 0`, `label != -1`, `label in [...]`
    filled = {*classes, *(name for test in tree.find_all(nodes.Test) if (name := column(test.node)))}
    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        names = {name for side in sides if (name := column(side))}
        constants = [side.value for side in sides if isinstance(side, nodes.Const)]
        numbers = [value for value in constants if value.__class__ is int]
        as_text = any(isinstance(side, nodes.Filter) and side.name == "string" for side in sides)
        if numbers or as_text or any(isinstance(value, str) for value in constants):
            named |= names
        if any(value is None or value == "" for value in constants):
            filled |= names
        if all(operand.op in ("eq", "ne") for operand in compare.ops) and numbers:
            classes |= names
        elif not all(operand.op in ("eq", "ne") for operand in compare.ops) or any(
            isinstance(side, nodes.Neg) for side in sides
        ):
            handled |= names
    return frozenset(classes - handled), frozenset(named - handled - filled)


def _columns_behind(tree: nodes.Template) -> Callable[[nodes.Node], str | None]:
    """The function from an expression to the name in `label`, `label | int` or, after `set x = label | int`, `x`."""
    sets = [(to.target.name, to.node) for to in tree.find_all(nodes.Assign) if isinstance(to.target, nodes.Name)]
    times = Counter(name for name, _ in sets)
    meant: dict[str, str] = {}

    def column(node: nodes.Node) -> str | None:
        while isinstance(node, nodes.Filter) and node.name == "int" and node.node is not None:
            node = node.node
        return meant.get(node.name, node.name) if isinstance(node, nodes.Name) else None

    for name, value in sets:
        if times[name] == 1 and (behind := column(value)):
            meant[name] = behind
    return column


def _is_empty(value: Any) -> bool:
    """Nothing, no text, or NaN: what files have where there is no class."""
    return value is None or value == "" or (isinstance(value, float) and value != value)


def _truth_tests(tree: nodes.Template) -> Iterator[nodes.Node]:
    branches: list[nodes.If | nodes.CondExpr] = [*tree.find_all(nodes.If), *tree.find_all(nodes.CondExpr)]
    for branch in branches:
        yield branch.test.node if isinstance(branch.test, nodes.Not) else branch.test


def _split(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(SEPARATOR)]
    if PROTECTED_SEPARATOR in text:
        parts = [part.replace(PROTECTED_SEPARATOR, SEPARATOR) for part in parts]
    return parts
