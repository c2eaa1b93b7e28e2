"""The catalog: every synthetic task with its function, the distribution of its inputs, and its bounds."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from metro_t0.errors import UserError, unknown
from metro_t0.synthetic import dyck, lime, nonsense, samplers
from metro_t0.synthetic import functions as f
from metro_t0.synthetic.distribution import Distribution
from metro_t0.synthetic.draws import Draws
from metro_t0.synthetic.ragged import Examples, Ragged
from metro_t0.synthetic.settings import Profile
from metro_t0.synthetic.vocabulary import SyntheticVocabulary

Function = Callable[..., Any]
LONGEST = 2**14


@dataclass(frozen=True)
class SyntheticTask(ABC):
    """What a stream, a file and a check need to know of a task."""

    name: str

    def prefix(self, vocabulary: SyntheticVocabulary) -> tuple[int, ...]:
        """What stands before every input, where prefixes are on."""
        return (*vocabulary.name(self.name), vocabulary.task_divider)

    @abstractmethod
    def check_bounds(self, profile: Profile, low: int, high: int) -> None:
        """Raises `UserError` for bounds of the input's length that are impossible."""

    @abstractmethod
    def draw(self, draws: Draws, distribution: Distribution, n: int) -> Examples:
        """n examples."""

    @abstractmethod
    def defect(self, source: Sequence[int], target: Sequence[int], distribution: Distribution) -> str | None:
        """What is wrong with an example, or None."""


@dataclass(frozen=True)
class FunctionTask(SyntheticTask):
    """A task whose target is a function of its source.

    name: public name. authors_name: its name in the authors' data.
    kind: one sequence, two with a separator, or words with dividers.
    function: sequences -> tokens, number or truth value. paper_function: the paper's, where it is another one.
    sources: draws the sources of n examples.
    set_operation: CPython's own operation, for the tasks whose output is a set.
    second_size: tokens of the second sequence, where they are fixed.
    shortest: the smallest maximal length. wide: 2 * low + 1 <= high is needed.
    distinct: the paper draws distinct tokens, and needs two at least.
    """

    kind: Literal["unary", "binary", "words"]
    function: Function
    sources: Callable[[Draws, Distribution, int], Ragged]
    authors_name: str = ""
    paper_function: Function | None = None
    set_operation: Callable[[set[int], set[int]], set[int]] | None = None
    second_size: int | None = None
    shortest: int = 1
    wide: bool = False
    distinct: bool = False

    def check_bounds(self, profile: Profile, low: int, high: int) -> None:
        problem = None
        if low < 1 or high < low or high >= LONGEST:
            problem = f"they must satisfy 1 <= minimum <= maximum < {LONGEST}"
        elif high < self.shortest:
            problem = f"task {self.name} needs a maximum of at least {self.shortest}"
        elif self.wide and high < 2 * low + 1:
            problem = (
                f"task {self.name} needs a maximum of at least twice the minimum plus one ({2 * low + 1}), "
                "for a sequence and an absent query"
            )
        elif self.distinct and profile == "paper" and low < 2:
            problem = f"task {self.name} in the paper profile needs a minimum of 2"
        if problem is not None:
            raise UserError(f"length bounds {low}..{high}: {problem}")

    def draw(self, draws: Draws, distribution: Distribution, n: int) -> Examples:
        if self._function(distribution) in f.NUMERIC:
            for value in range(distribution.high + 1):
                distribution.vocabulary.number(value)  # says now which ids are not known
        sources = self.sources(draws, distribution, n)
        return Examples(sources, Ragged.from_lists([self.target(source, distribution) for source in sources.lists()]))

    def _function(self, distribution: Distribution) -> Function:
        return self.function if distribution.authors or self.paper_function is None else self.paper_function

    def output(self, source: Sequence[int], distribution: Distribution) -> list[int] | int | bool:
        """What the function makes of a source with its prefix. Raises `ValueError` where it is not one of this task."""
        arguments = self._arguments(source, distribution)
        if self.set_operation is not None and distribution.order != "first_occurrence":
            found = self.set_operation(*map(set, arguments))
            return sorted(found) if distribution.order == "sorted" else list(found)
        try:
            result: list[int] | int | bool = self._function(distribution)(*arguments)
        except (KeyError, IndexError):
            raise ValueError(f"the input is not one of {self.name}") from None
        return result

    def target(self, source: Sequence[int], distribution: Distribution) -> Sequence[int]:
        """The output as ids. Raises `ValueError` where the source is not one of this task."""
        output, vocabulary = self.output(source, distribution), distribution.vocabulary
        if isinstance(output, bool):
            return vocabulary.answer(output)
        return vocabulary.number(output) if isinstance(output, int) else output or (vocabulary.empty,)

    def _arguments(self, source: Sequence[int], distribution: Distribution) -> list[list[int]]:
        size, vocabulary = len(distribution.prefix), distribution.vocabulary
        if tuple(source[:size]) != distribution.prefix:
            raise ValueError("the source does not start with the prefix of the task")
        body = list(source[size:])
        if self.kind == "unary":
            return [body]
        arguments = f.split(body, vocabulary.word_divider if self.kind == "words" else vocabulary.separator)
        if self.kind == "binary" and len(arguments) != 2:
            raise ValueError(f"the input has {len(arguments) - 1} separators, not one")
        if self.second_size not in (None, len(arguments[-1])):
            raise ValueError(f"the second sequence has {len(arguments[-1])} tokens, not {self.second_size}")
        return arguments

    def defect(self, source: Sequence[int], target: Sequence[int], distribution: Distribution) -> str | None:
        try:
            wanted = self.target(source, distribution)
        except ValueError as error:
            return str(error)
        shown = [" ".join(map(str, tokens[:12])) + " .." * (len(tokens) > 12) for tokens in (target, wanted)]
        return None if list(wanted) == list(target) else "the target is {}, not {}".format(*shown)


@dataclass(frozen=True)
class OwnLayoutTask(SyntheticTask):
    """A task with a layout of its own, whose lengths have no bounds and whose targets may have several right answers.

    examples: draws n examples. check: what is wrong with an example, or None.
    """

    examples: Callable[[Draws, Distribution, int], Examples]
    check: Callable[[Sequence[int], Sequence[int], SyntheticVocabulary], str | None]

    def prefix(self, vocabulary: SyntheticVocabulary) -> tuple[int, ...]:
        return ()

    def check_bounds(self, profile: Profile, low: int, high: int) -> None:
        """Lengths are the layout's own."""

    def draw(self, draws: Draws, distribution: Distribution, n: int) -> Examples:
        return self.examples(draws, distribution, n)

    def defect(self, source: Sequence[int], target: Sequence[int], distribution: Distribution) -> str | None:
        return self.check(source, target, distribution.vocabulary)


def _swapped_sub(first: set[int], second: set[int]) -> set[int]:
    return second - first


_set_task = partial(FunctionTask, kind="binary", sources=samplers.set_pair, shortest=3)
SIMPLE_TASKS = (
    FunctionTask("set", "unary", f.unique, samplers.shuffled_groups, distinct=True),
    FunctionTask("identity", "unary", f.identity, samplers.independent, "copy"),
    FunctionTask("duplicate", "unary", f.duplicate, samplers.independent),
    FunctionTask("reverse", "unary", f.reverse, samplers.independent),
    FunctionTask("deduplicate", "unary", f.deduplicate, samplers.consecutive_groups, distinct=True),
    FunctionTask("last_token", "unary", f.last_token, samplers.independent, "last_char"),
    FunctionTask("first_token", "unary", f.first_token, samplers.independent, "first_char"),
    FunctionTask("length", "unary", f.length, samplers.independent),
    FunctionTask("longest_word", "words", f.longest_word, samplers.words, paper_function=f.longest_word_length),
    FunctionTask("longest_word_length", "words", f.longest_word_length, samplers.words),
    FunctionTask("delete", "binary", f.delete, partial(samplers.queries, 0.75, 0.75), shortest=4, wide=True),
    FunctionTask("search", "binary", f.search, partial(samplers.queries, 0.5, 0.75), shortest=4, wide=True),
    FunctionTask("sort", "binary", f.sort, samplers.sort, shortest=4),
    FunctionTask("replace", "binary", f.replace, samplers.replace, shortest=4, second_size=2),
    FunctionTask("count", "binary", f.count, samplers.count, shortest=3, second_size=1),
    _set_task("union", function=f.union, set_operation=operator.or_),
    _set_task("intersect", function=f.intersect, set_operation=operator.and_),
    _set_task("set1_minus_set2", function=f.set1_minus_set2, set_operation=operator.sub, authors_name="set_1_minus_2"),
    _set_task("set2_minus_set1", function=f.set2_minus_set1, set_operation=_swapped_sub, authors_name="set_2_minus_1"),
)
EARLIER_TASKS = (
    *(OwnLayoutTask(f"lime_{m}", partial(lime.sample, m), partial(lime.defect, m)) for m in get_args(lime.Mode)),
    *(OwnLayoutTask(n, partial(dyck.sample, s), partial(dyck.defect, s)) for n, s in dyck.SETTINGS.items()),
    OwnLayoutTask("nonsense_summary", nonsense.sample, nonsense.defect),
)
SYNTHETIC_TASKS: dict[str, SyntheticTask] = {task.name: task for task in (*SIMPLE_TASKS, *EARLIER_TASKS)}
GROUPS = {"lime": ("lime_induct", "lime_deduct", "lime_abduct")}  # stands for its members with equal rates


def get_task(name: str) -> SyntheticTask:
    """The task of this public or authors' name. Raises `UserError` with the nearest names."""
    by_authors = {task.authors_name: task for task in SIMPLE_TASKS if task.authors_name}
    task = SYNTHETIC_TASKS.get(name) or by_authors.get(name)
    if task is None:
        raise unknown("synthetic task", name, [*SYNTHETIC_TASKS, *GROUPS, *by_authors])
    return task
