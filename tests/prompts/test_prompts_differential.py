"""Rendering equals promptsource's own code, which is imported here and nowhere else in the project."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jinja2 import pass_context

from metro_t0.errors import UserError
from metro_t0.prompts.datasets import DatasetName, available_splits, load_rows, local_datasets
from metro_t0.prompts.sandbox import Draws
from metro_t0.prompts.templates import Template, load_templates, templated_datasets

ROWS_PER_SPLIT = 6


@pytest.fixture(scope="module")
def promptsource() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import promptsource.templates as module
        except ImportError as error:
            pytest.skip(f"promptsource's Python code cannot be imported ({error}); it needs setuptools<81 and pandas")
    return module


class SeededChoice:
    """promptsource's `choice` filter with its unseeded generator replaced by ours; called at render time."""

    def __init__(self) -> None:
        self.draws = Draws(())

    def filter(self) -> Any:
        @pass_context
        def choice(_context: object, items: Sequence[Any]) -> Any:
            return self.draws(items)

        return choice


@pytest.fixture
def seeded_choice(promptsource: ModuleType, monkeypatch: pytest.MonkeyPatch) -> SeededChoice:
    seeded = SeededChoice()
    monkeypatch.setitem(promptsource.env.filters, "choice", seeded.filter())
    return seeded


def reference(theirs: Any, row: dict[str, Any], key: tuple[int | str, ...], seeded: SeededChoice) -> Any:
    """[parts, choices] by promptsource, or the exception's class."""
    try:
        seeded.draws = Draws(key)
        parts = theirs.apply(row)
        seeded.draws = Draws(key)
        return [parts, theirs.get_answer_choices_list(row)]
    except Exception as error:
        return type(error)


def ours(template: Template, row: dict[str, Any], key: tuple[int | str, ...]) -> Any:
    try:
        return list(template.render_parts(row, key))
    except UserError:
        return UserError


def assert_equal(module: ModuleType, dataset: DatasetName, rows: Sequence[dict[str, Any]], seeded: SeededChoice) -> int:
    theirs = module.DatasetTemplates(dataset.name, dataset.subset)
    compared = 0
    for name, template in load_templates(dataset.name, dataset.subset).items():
        for index, row in enumerate(rows):
            key = (3, str(dataset), name, index)
            expected, got = reference(theirs[name], row, key, seeded), ours(template, row, key)
            assert got == expected or (got is UserError and isinstance(expected, type)), (dataset, name, index)
            compared += 1
    return compared


def test_every_template_file_reads_as_promptsource_reads_it(promptsource: ModuleType) -> None:
    datasets = [name for name in templated_datasets() if name.name != "embedded"][::12]
    assert len(datasets) > 20
    for dataset in datasets:
        theirs = promptsource.DatasetTemplates(dataset.name, dataset.subset)
        mine = load_templates(dataset.name, dataset.subset)
        assert list(mine) == theirs.all_template_names
        for name, template in mine.items():
            assert (template.jinja, template.answer_choices) == (theirs[name].jinja, theirs[name].answer_choices)
            assert template.original_task == bool(theirs[name].metadata.original_task)
            assert template.choices_in_prompt == bool(theirs[name].metadata.choices_in_prompt)
            assert list(template.metrics) == (theirs[name].metadata.metrics or [])
            template.compile()


def test_real_rows_render_as_promptsource_renders_them(
    promptsource: ModuleType, seeded_choice: SeededChoice, real_data: Path
) -> None:
    templated = set(templated_datasets())
    directory = real_data / "tasks"
    compared = 0
    for dataset in local_datasets(directory):
        if dataset not in templated:
            continue
        for split in available_splits(dataset.name, dataset.subset, directory)[:2]:
            rows = load_rows(dataset.name, dataset.subset, split, directory)[:ROWS_PER_SPLIT]
            compared += assert_equal(promptsource, dataset, rows, seeded_choice)
    assert compared > 2000


def test_awkward_rows_render_as_promptsource_renders_them(
    promptsource: ModuleType, seeded_choice: SeededChoice
) -> None:
    """Separators in the text (even where the cut falls inside one), long and empty fields, markup, odd types."""
    texts = [
        "left ||| right",
        "|||",
        "x" * 2045 + "|||" + "y" * 50,
        "word " * 600,
        "x" * 2053,
        "x" * 2054,
        "",
        " \n padded \t",
        "{{ premise }} {% raw %} <b>&amp;</b>",
        "naïve 東京 \U0001f600",
    ]
    rows = [
        {"premise": text, "hypothesis": other, "label": label, "idx": 0}
        for text, other, label in zip(texts, reversed(texts), [0, 1, -1, 2, 7, 0, 1, 0, 1, 0], strict=True)
    ]
    rows.append({"premise": None, "hypothesis": 3, "label": 0, "idx": 0})
    rows.append({"premise": ["a ||| b"], "hypothesis": {"k": "v"}, "label": 1, "idx": 0})
    rows.append({"premise": "p", "hypothesis": "h", "label": "not a number", "idx": 0})
    assert assert_equal(promptsource, DatasetName("super_glue", "rte"), rows, seeded_choice) == 130
    assert assert_equal(promptsource, DatasetName("super_glue", "cb"), rows, seeded_choice) == 195


def test_truncation_can_be_switched_off_as_in_promptsource(promptsource: ModuleType) -> None:
    row = {"premise": "long " * 1000, "hypothesis": "h", "label": 0, "idx": 0}
    theirs = promptsource.DatasetTemplates("super_glue", "rte")
    for name, template in load_templates("super_glue", "rte", max_variable_length=None).items():
        assert template.render_parts(row)[0] == theirs[name].apply(row, truncate=False)
