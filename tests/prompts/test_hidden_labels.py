"""Rows whose label is hidden (-1, as in test splits) have no target: they are left out and counted, never guessed."""

from __future__ import annotations

from typing import Any

import pytest

from eval.examples import HIDDEN_LABEL, RENDER_FAILED, build_examples
from eval.tasks import EvalTask
from metro_t0.errors import UserError
from metro_t0.prompts.names import DatasetName
from metro_t0.prompts.rendering import HiddenLabelError, Template

CHOICES = "no ||| yes ||| maybe"


def template(jinja: str, choices: str | None = CHOICES) -> Template:
    return Template(name="t", dataset="d", jinja=jinja, answer_choices=choices)


@pytest.mark.parametrize(
    ("jinja", "row"),
    [
        ("{{ q }} ||| {{ answer_choices[label] }}", {"label": -1}),
        ("{{ q }} ||| {{ ['no', 'yes'][label] }}", {"label": -1}),
        ("{{ q }} ||| {{ options[label] }}", {"label": -1, "options": ["a", "b"]}),
        ("{{ q }} ||| {{ 'ABC'[label] }}", {"label": -1}),
        ("{{ q }} ||| {{ answer_choices[label | int] }}", {"label": ""}),  # as in the test split of hellaswag
        ("{{ q }} ||| {{ answer_choices[label | int - 1] }}", {"label": ""}),  # as in that of winogrande
        ("{{ q }} ||| {{ answer_choices[label - 1] }}", {"label": 0}),
        ("{{ q }} ||| {% if label == 1 %}yes{% else %}no{% endif %}", {"label": -1}),
        ("{{ q }} ||| {% if label %}yes{% else %}no{% endif %}", {"label": -1}),
        ("{{ q }} ||| {{ 'no' if not label else 'yes' }}", {"label": -1}),
        ("{{ q }} ||| {{ 'no' if label != 1 else 'yes' }}", {"label": -1}),
        ("{{ q }} ||| {{ 'no' if label != 1 else 'yes' }}", {"label": -1.0}),  # numbers of a column with gaps
        ("{{ q }} ||| {{ 'no' if label != 1 else 'yes' }}", {"label": None}),
        ("{{ q }} ||| {{ 'no' if label != 1 else 'yes' }}", {"label": float("nan")}),
        ("{{ q }} ||| {% if answer == '1' %}yes{% else %}no{% endif %}", {"answer": ""}),  # winogrande's test split
        ("{{ q }} ||| {% if label == 2 | string %}yes{% else %}no{% endif %}", {"label": ""}),  # that of hellaswag
        ("{{ q }} ||| {{ answer_choices[label | int] }}", {"label": float("nan")}),
        ("{{ q }} ||| {{ answer_choices[label | int] }}", {"label": "?"}),
        ("{{ q }} ||| {% if label | int == 1 %}yes{% else %}no{% endif %}", {"label": "-1"}),
        ("{{ q }} ||| {% if label | int == 1 %}yes{% else %}no{% endif %}", {"label": ""}),
        ("{% set x = label %}{% set y = x | int %}{{ q }} ||| {{ 'yes' if y == 1 else 'no' }}", {"label": -1}),
        ("{% set label = label | int %}{{ q }} ||| {{ 'yes' if label else 'no' }}", {"label": -1}),
    ],
)
def test_a_hidden_label_gives_no_example(jinja: str, row: dict[str, Any]) -> None:
    with pytest.raises(HiddenLabelError, match="template 't' of d: the row's label is hidden"):
        template(jinja).render({"q": "so?", **row})


@pytest.mark.parametrize(
    ("jinja", "row", "target"),
    [
        ("{{ q }} ||| {{ answer_choices[-1] }}", {}, "maybe"),
        ("{{ q }} ||| {{ turns[-2] }}", {"turns": ["a", "b", "c"]}, "b"),
        ("{{ q }} ||| {{ turns[-2:] | join }}", {"turns": ["a", "b", "c"]}, "bc"),
        ("{{ q }} ||| {{ answer_choices[label] }}", {"label": 2}, "maybe"),
        ("{{ q }} ||| {{ answer_choices[label | int] }}", {"label": "1"}, "yes"),
        (
            "{{ q }} ||| {% if score == -1 %}bad{% elif score == 0 %}fair{% else %}good{% endif %}",
            {"score": -1},
            "bad",
        ),
        ("{{ q }} ||| {% if score > 0 %}good{% else %}bad{% endif %}", {"score": -1}, "bad"),
        ("{{ q }} ||| {{ {-1: 'bad', 1: 'good'}[score] }}", {"score": -1}, "bad"),
        ("{{ q }} ||| {{ score }}", {"score": -1}, "-1"),
        ("{{ q }} ||| {% if hint == '' %}none{% elif hint == 'a' %}a{% else %}b{% endif %}", {"hint": ""}, "none"),
        ("{{ q }} ||| {% if hint is none %}none{% elif hint == 'a' %}a{% else %}b{% endif %}", {"hint": None}, "none"),
        ("{{ q }} ||| {% if 'a' in text %}a{% else %}none{% endif %}", {"text": ""}, "none"),
        ("{{ q }} ||| {{ number | int }}", {"number": ""}, "0"),
        ("{% set x = score %}{{ q }} ||| {{ 'bad' if x < 0 else 'good' if x == 1 else 'fair' }}", {"score": -1}, "bad"),
    ],
)
def test_what_the_template_itself_writes_stays(jinja: str, row: dict[str, Any], target: str) -> None:
    rendered = template(jinja).render({"q": "so?", **row})
    assert rendered is not None
    assert rendered.target == target


def test_evaluation_leaves_them_out_and_counts_them() -> None:
    rows = [{"q": f"q{i}", "label": i % 4 - 1} for i in range(8)]
    task = EvalTask("d", DatasetName("d"), "test")
    built = build_examples(task, template("{{ q }} ||| {{ answer_choices[label] }}"), rows, range(8), seed=0)
    assert [example.gold for example in built.examples] == [0, 1, 2, 0, 1, 2]
    assert built.skipped == {HIDDEN_LABEL: 2}
    assert issubclass(HiddenLabelError, UserError)


@pytest.mark.parametrize(
    ("answer", "reason"), [(-1, HIDDEN_LABEL), (None, HIDDEN_LABEL), ("B", RENDER_FAILED), (4, RENDER_FAILED)]
)
def test_an_answer_of_mmlu_that_is_hidden_or_no_index(answer: Any, reason: str) -> None:
    rows = [{"question": "so?", "choices": ["a", "b", "c", "d"], "answer": answer}]
    task = EvalTask("mmlu", DatasetName("mmlu"), "test", row_format="mmlu_as_arc")
    asked = template("{{ question }} ||| {{ answerKey }}", "A ||| B ||| C ||| D")
    assert build_examples(task, asked, rows, [0], seed=0).skipped == {reason: 1}
