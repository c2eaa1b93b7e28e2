"""The catalog: every synthetic task with its function or checker, its sampler and its settings."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from metro_t0.errors import UserError, unknown
from metro_t0.synthetic import dyck, functions, lime, nonsense, query_samplers, samplers, set_samplers
from metro_t0.synthetic.law import Law, Sampler
from metro_t0.synthetic.settings import Order, Profile
from metro_t0.synthetic.vocabulary import Vocabulary

Kind = Literal["unary", "binary", "words", "own"]
Function = Callable[..., Any]
SetOperation = Callable[[set[int], set[int]], set[int]]
Defect = Callable[[Sequence[int], Sequence[int], Vocabulary], str | None]


@dataclass(frozen=True)
class Task:
    """name: public name. authors_name: its name in the authors' data.
    kind: one sequence, two with a separator, words with dividers, or a layout of its own.
    function: input -> output (None for tasks of their own layout, which have a `defect` that checks an example).
    set_operation: CPython's own operation, for the tasks whose output is a set.
    shortest, span: the smallest maximal length, and whether 2 * low + 1 <= high is needed.
    prefixed: whether the authors' data put the task's name in front.
    """

    name: str
    kind: Kind
    sampler: Sampler
    function: Function | None = None
    authors_name: str = ""
    set_operation: SetOperation | None = None
    defect: Defect | None = None
    shortest: int = 1
    wide: bool = False
    distinct: bool = False

    @property
    def prefixed(self) -> bool:
        return self.kind != "own"


def _unary(name: str, function: Function, sampler: Sampler, authors_name: str = "", distinct: bool = False) -> Task:
    return Task(name, "unary", sampler, function, authors_name or name, distinct=distinct)


def _set_pair(name: str, function: Function, sampler: Sampler, operation: SetOperation, authors_name: str = "") -> Task:
    return Task(name, "binary", sampler, function, authors_name or name, set_operation=operation, shortest=3)


def _lime(mode: lime.Mode) -> Task:
    return Task(f"lime_{mode}", "own", partial(lime.sample, mode), defect=partial(lime.defect, mode))


def _dyck(name: str, settings: dyck.DyckSettings) -> Task:
    return Task(name, "own", partial(dyck.sample, settings), defect=partial(dyck.defect, settings))


SIMPLE_TASKS = (
    _unary("set", functions.unique, samplers.unique, distinct=True),
    _unary("identity", functions.identity, samplers.identity, "copy"),
    _unary("duplicate", functions.duplicate, samplers.duplicate),
    _unary("reverse", functions.reverse, samplers.reverse),
    _unary("deduplicate", functions.deduplicate, samplers.deduplicate, distinct=True),
    _unary("last_token", functions.last_token, samplers.last_token, "last_char"),
    _unary("first_token", functions.first_token, samplers.first_token, "first_char"),
    _unary("length", functions.length, samplers.length),
    Task("longest_word", "words", samplers.longest_word, functions.longest_word, "longest_word"),
    Task("longest_word_length", "words", samplers.longest_word_length, functions.longest_word_length),
    Task("delete", "binary", query_samplers.delete, functions.delete, "delete", shortest=4, wide=True),
    Task("search", "binary", query_samplers.search, functions.search, "search", shortest=4, wide=True),
    Task("sort", "binary", samplers.sort, functions.sort, "sort", shortest=4),
    Task("replace", "binary", samplers.replace, functions.replace, "replace", shortest=4),
    Task("count", "binary", samplers.count, functions.count, "count", shortest=3),
    _set_pair("union", functions.union, set_samplers.union, operator.or_),
    _set_pair("intersect", functions.intersect, set_samplers.intersect, operator.and_),
    _set_pair(
        "set1_minus_set2", functions.set1_minus_set2, set_samplers.set1_minus_set2, operator.sub, "set_1_minus_2"
    ),
    _set_pair(
        "set2_minus_set1",
        functions.set2_minus_set1,
        set_samplers.set2_minus_set1,
        lambda first, second: second - first,
        "set_2_minus_1",
    ),
)

EARLIER_TASKS = (
    _lime("induct"),
    _lime("deduct"),
    _lime("abduct"),
    _dyck("dyck", dyck.DyckSettings()),
    _dyck("dyck_uniform", dyck.DyckSettings(zipf=False)),
    _dyck("dyck_sentences", dyck.DyckSettings(whole_sentences=True)),
    Task("nonsense_summary", "own", nonsense.sample, defect=nonsense.defect),
)

TASKS: dict[str, Task] = {task.name: task for task in (*SIMPLE_TASKS, *EARLIER_TASKS)}
# A group stands for its members with equal rates.
GROUPS: dict[str, tuple[str, ...]] = {"lime": ("lime_induct", "lime_deduct", "lime_abduct")}


def get_task(name: str) -> Task:
    """The task of this public or authors' name. Raises `UserError` with the nearest names."""
    by_authors = {task.authors_name: task for task in TASKS.values() if task.authors_name}
    task = TASKS.get(name) or by_authors.get(name)
    if task is None:
        raise unknown("synthetic task", name, [*TASKS, *GROUPS, *by_authors])
    return task


def task_law(
    task: Task, vocabulary: Vocabulary, profile: Profile, low: int, high: int, task_prefix: bool | None = None
) -> Law:
    """The law of a task. `task_prefix` None: as the profile has it (authors: yes, paper: no).

    Raises `UserError` for impossible length bounds.
    """
    if task.kind != "own":
        _check_bounds(task, profile, low, high)
    prefixed = task.prefixed and (profile == "authors" if task_prefix is None else task_prefix)
    prefix = (*vocabulary.name(task.name), vocabulary.task_divider) if prefixed else ()
    if task.name == "longest_word" and profile == "paper":
        vocabulary.number(high)
    return Law(vocabulary, profile, low, high, prefix)


def _check_bounds(task: Task, profile: Profile, low: int, high: int) -> None:
    if low < 1 or high < low or high >= 2**14:
        raise UserError(f"length bounds {low}..{high}: they must satisfy 1 <= minimum <= maximum < {2**14}")
    if high < task.shortest:
        raise UserError(f"length bounds {low}..{high}: task {task.name} needs a maximum of at least {task.shortest}")
    if task.wide and high < 2 * low + 1:
        raise UserError(
            f"length bounds {low}..{high}: task {task.name} needs a maximum of at least twice the minimum plus one "
            f"({2 * low + 1}), for a sequence and an absent query"
        )
    if task.distinct and profile == "paper" and low < 2:
        raise UserError(f"length bounds {low}..{high}: task {task.name} in the paper profile needs a minimum of 2")


def task_sampler(task: Task, profile: Profile) -> Sampler:
    """The sampler; in the paper profile longest_word gives the length of the word."""
    return samplers.longest_word_length if _gives_length(task, profile) else task.sampler


def task_function(task: Task, profile: Profile) -> Callable[..., Any] | None:
    return functions.longest_word_length if _gives_length(task, profile) else task.function


def _gives_length(task: Task, profile: Profile) -> bool:
    return task.name == "longest_word" and profile == "paper"


def split(tokens: Sequence[int], divider: int) -> list[list[int]]:
    """The stretches between dividers."""
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == divider:
            parts.append([])
        else:
            parts[-1].append(int(token))
    return parts


def render(output: list[int] | int | bool, vocabulary: Vocabulary) -> list[int]:
    """Ids of what a function gave."""
    if isinstance(output, bool):
        return list(vocabulary.yes if output else vocabulary.no)
    if isinstance(output, int):
        return list(vocabulary.number(output))
    return output or [vocabulary.empty]


def target_of(task: Task, source: Sequence[int], law: Law, order: Order = "first_occurrence") -> list[int]:
    """The target of a source with its prefix. Raises `ValueError` where the source is not one of this task."""
    function = task_function(task, law.profile)
    if function is None:
        raise ValueError(f"the target of {task.name} is not a function of the source alone")
    prefix = list(law.prefix)
    if list(source[: len(prefix)]) != prefix:
        raise ValueError("the source does not start with the prefix of the task")
    body = list(source[len(prefix) :])
    arguments = _arguments(task, body, law.vocabulary)
    if task.set_operation is not None and order != "first_occurrence":
        result = list(task.set_operation(*map(set, arguments)))
        return render(sorted(result) if order == "sorted" else result, law.vocabulary)
    try:
        return render(function(*arguments), law.vocabulary)
    except (KeyError, IndexError):
        raise ValueError(f"the input is not one of {task.name}") from None


def _arguments(task: Task, body: list[int], vocabulary: Vocabulary) -> list[list[int]]:
    if task.kind == "unary":
        return [body]
    arguments = split(body, vocabulary.word_divider if task.kind == "words" else vocabulary.separator)
    if task.kind == "binary" and len(arguments) != 2:
        raise ValueError(f"the input has {len(arguments) - 1} separators, not one")
    if task.name == "replace" and len(arguments[1]) != 2:
        raise ValueError("the second sequence of replace is not a key and a value")
    if task.name == "count" and len(arguments[1]) != 1:
        raise ValueError("the second sequence of count is not one token")
    return arguments


def defect_of(
    task: Task, source: Sequence[int], target: Sequence[int], law: Law, order: Order = "first_occurrence"
) -> str | None:
    """What is wrong with an example, or None."""
    if task.defect is not None:
        return task.defect(source, target, law.vocabulary)
    try:
        wanted = target_of(task, source, law, order)
    except ValueError as error:
        return str(error)
    if wanted == [int(token) for token in target]:
        return None
    return f"the target is {_short(target)}, not {_short(wanted)}"


def _short(tokens: Sequence[int], most: int = 12) -> str:
    shown = " ".join(str(int(token)) for token in tokens[:most])
    return shown if len(tokens) <= most else f"{shown} .. ({len(tokens)} tokens)"
