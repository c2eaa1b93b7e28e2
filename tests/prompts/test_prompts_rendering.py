"""Templates: what is rendered, what is refused, and that random choices depend on their keys alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment, StrictUndefined, UndefinedError
from jinja2.sandbox import SandboxedEnvironment, SecurityError

from metro_t0.errors import UserError
from metro_t0.prompts.names import DatasetName, task_name
from metro_t0.prompts.rendering import MissingColumnError, RenderError, Template
from metro_t0.prompts.templates import find_template, load_templates, templated_datasets


def make(jinja: str, answer_choices: str | None = None) -> Template:
    return Template(name="t", dataset="d", jinja=jinja, answer_choices=answer_choices)


def test_source_target_and_choices() -> None:
    template = make("Is {{ text }} good? ||| {{ answer_choices[label] }}", "No ||| Yes")
    rendered = template.render({"text": " it ", "label": 1})
    assert rendered == ("Is  it  good?", "Yes", ["No", "Yes"])
    assert template.has_choices
    assert template.required_columns == {"text", "label"}


@pytest.mark.parametrize(
    "jinja",
    [
        "no separator {{ a }}",
        "two ||| {{ a }} ||| parts",
        "source ||| ",
        "||| {{ a }}",
        "{% if not a %}x ||| y{% endif %}",
    ],
)
def test_no_target_gives_none(jinja: str) -> None:
    assert make(jinja).render({"a": "A"}) is None


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__ }}",
        "{{ text['__class__'] }}",
        "{{ text | attr('__class__') }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ 'x' * 10000000000 }}",
        "{{ 10 ** 10000000 }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(attack: str) -> None:
    with pytest.raises(UserError) as caught:
        make(attack + " ||| y").render({"text": "t"})
    message = str(caught.value)
    assert "template 't' of d" in message
    assert "\n" not in message


def test_no_template_reads_the_keys_of_the_draws() -> None:
    assert make("{{ _ is defined }} ||| y").render({"a": 1}) == ("False", "y", None)
    with pytest.raises(UserError, match="does not parse"):
        make("{{ draws of choice }} ||| y").render({"a": 1})


def test_syntax_errors_name_the_template_and_line() -> None:
    with pytest.raises(UserError, match=r"template 't' of d: does not parse \(line 2: .*\)$"):
        make("\n{% if x %} ||| y").compile()
    with pytest.raises(UserError, match="no_such_filter"):
        make("{{ x | no_such_filter }} ||| y").compile()


def test_a_missing_column_is_named() -> None:
    with pytest.raises(MissingColumnError, match=r"no column label, text in the row \(it has other\)"):
        make("{{ text }} ||| {{ label }}").render({"other": 1})


def test_names_that_a_template_sets_or_tests_are_not_required() -> None:
    template = make("{% set a = b %}{% if c is defined %}{{ c }}{% endif %}{% for d in zip(b, b) %}{{ d }}{% endfor %}")
    assert template.required_columns == {"b"}


def test_columns_that_the_template_also_sets_or_tests_are_read() -> None:
    assert make("{{ a }}{% set a = 'x' %}{{ a }} ||| y").render({"a": "r"}) == ("rx", "y", None)
    assert make("{% if c is defined %}{{ c }}{% else %}none{% endif %} ||| y").render({"c": 3}) == ("3", "y", None)
    assert make("{{ range }}{{ zip is string }} ||| y").render({"range": "r", "zip": "z"}) == ("rTrue", "y", None)


def test_fixed_choices_are_a_new_list_for_every_row() -> None:
    template = make("{{ answer_choices.append(a) or a }} ||| y", " No ||| Yes ")
    assert template.render({"a": "1"}) == ("1", "y", ["No", "Yes", "1"])
    assert template.render({"a": "2"}) == ("2", "y", ["No", "Yes", "2"])


KEYS = ["text", "items", "keys", "get", "_x", "__class__", "__len__", "missing"]


@given(st.sets(st.sampled_from(KEYS)), st.sampled_from(KEYS))
def test_attributes_of_dicts_are_those_of_the_stock_sandbox(present: set[str], name: str) -> None:
    row = {"d": dict.fromkeys(present, "value")}
    try:
        # The name once more where the stock sandbox would hide what is forbidden.
        expected = SandboxedEnvironment(undefined=StrictUndefined).from_string(f"{{{{ d.{name} }}}}").render(row)
    except (SecurityError, UndefinedError):
        expected = None
    try:
        parts, _ = make(f"{{{{ d.{name} }}}}").render_parts(row)
    except UserError:
        parts = [""]
    assert parts == [expected or ""]


@given(st.text(st.sampled_from("ab \n."), max_size=40), st.integers(3, 30))
def test_shortening_is_jinjas_truncation(text: str, length: int) -> None:
    expected = Environment().from_string(f"{{{{ text | string | truncate({length}) }}}}").render(text=text)
    template = Template(name="t", dataset="d", jinja="{{ text }}", max_variable_length=length)
    assert template.render_parts({"text": text})[0] == [expected.strip()]
    assert template.render_parts({"text": [text]})[0] == [
        Environment().from_string(f"{{{{ text | string | truncate({length}) }}}}").render(text=[text]).strip()
    ]


def test_failures_on_a_row_are_one_line() -> None:
    with pytest.raises(RenderError, match="ZeroDivisionError"):
        make("{{ (1 / n) }} ||| y").render({"n": 0})
    with pytest.raises(RenderError, match="choice from an empty list"):
        make("{{ n | choice }} ||| y").render({"n": []})


def test_the_reserved_column_is_refused() -> None:
    with pytest.raises(UserError, match="answer_choices"):
        make("x ||| y").render({"answer_choices": "a"})


@given(st.lists(st.text(max_size=3), min_size=1, max_size=5), st.integers(), st.text(max_size=5))
def test_choices_are_functions_of_their_keys(items: list[str], seed: int, name: str) -> None:
    template = make("{{ items | choice }}/{{ items | choice }} ||| y")
    key = (seed, name)
    assert template.render_parts({"items": items}, key) == template.render_parts({"items": items}, key)


def test_constant_lists_are_drawn_anew_for_every_row() -> None:
    template = make("{{ ['a', 'b', 'c'] | choice }}{{ ['a', 'b', 'c'] | choice }} ||| y")
    drawn = [template.render({"x": 1}, (0, i)) for i in range(300)]
    sources = [rendered.source for rendered in drawn if rendered]
    assert set(sources) == {x + y for x in "abc" for y in "abc"}
    assert all(15 < sources.count(s) < 60 for s in set(sources))  # 33 expected of each


def test_most_frequent_keeps_ties_in_order() -> None:
    assert make("{{ x | most_frequent | join }} ||| y").render({"x": list("cabbac")}) == ("cab", "y", None)


def test_a_users_own_directory_of_templates(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "sub"
    folder.mkdir(parents=True)
    (folder / "templates.yaml").write_text(
        "dataset: mine\nsubset: sub\ntemplates:\n"
        "  k1: !Template\n    name: one\n    jinja: '{{ a }} ||| {{ b }}'\n    metadata: !TemplateMetadata\n"
        "      original_task: true\n      choices_in_prompt: false\n      metrics: [Accuracy]\n"
    )
    assert DatasetName("mine", "sub") in templated_datasets(tmp_path)  # beside promptsource's
    template = load_templates("mine", "sub", tmp_path)["one"]
    assert (template.original_task, template.metrics, template.dataset) == (True, ("Accuracy",), "mine/sub")
    assert template.render({"a": 1, "b": 2}) == ("1", "2", None)
    (tmp_path / "owner/name").mkdir(parents=True)
    folder.rename(tmp_path / "owner/name/configuration")
    assert DatasetName.parse("owner/name/configuration") in templated_datasets(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("templates: [", "not a YAML file"),
        ("dataset: x", "has no field templates, which must be a mapping"),
        ("templates: {k: {name: n}}", "template: k: has no field jinja, which must be text"),
        ("templates: {k: 3}", "template: k: must be a mapping, is 3"),
        ("templates: {k: !!python/object/apply:os.system ['true']}", "not a YAML file"),
        ("templates: {k: {name: n, jinja: x, answer_choices: [a]}}", "answer_choices"),
    ],
)
def test_malformed_files_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "templates.yaml").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_templates("d", None, tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_names_give_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean super_glue/rte"):
        load_templates("super_glue", "rtee")
    with pytest.raises(UserError, match="did you mean GPT-3 style"):
        find_template(load_templates("super_glue", "rte"), "GPT3 style")


def test_task_names_are_t0s() -> None:
    assert task_name(DatasetName("gigaword"), "summarize?!") == "gigaword_summarize_"
    assert (
        task_name(DatasetName("wiki_hop", "original"), "choose_best_object") == "wiki_hop_original_choose_best_object"
    )
    assert task_name(DatasetName("super_glue", "wsc.fixed"), "Who or what is/are") == (
        "super_glue_wsc.fixed_Who_or_what_is_are"
    )


def test_task_names_of_long_templates_fit_a_file_name_and_stay_apart() -> None:
    names = [task_name(DatasetName("ag_news"), 100 * "\u984c" + end) for end in "ab"]
    assert len(set(names)) == 2
    for name in names:
        assert name.startswith("ag_news_\u984c")
        assert len(f"{name}.source.bin".encode()) < 210
