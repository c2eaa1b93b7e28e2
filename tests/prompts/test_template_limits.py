# ruff: noqa: E501 - templates
"""No template runs for long or fills the memory, and what published templates do stays allowed."""

from __future__ import annotations

import time

import pytest

from metro_t0.errors import UserError
from metro_t0.prompts import limits
from metro_t0.prompts.rendering import Template

BAD = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "doubling": "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "adding": "{% set ns = namespace(s='ab') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "format": "{{ '%999999999d' % 1 }}",
    "format filter": "{{ '%999999999d'|format(1) }}",
    "star": "{{ '%*d'|format(999999999, 1) }}",
    "str.format": "{{ '{:999999999d}'.format(1) }}",
    "lipsum": "{{ lipsum(99999) }}",
    "center": "{{ 'x'|center(999999999) }}",
    "ljust": "{{ 'x'.ljust(999999999) }}",
    "zfill": "{{ 'x'.zfill(999999999) }}",
    "replace": "{% set s = 'a' * 1000000 %}{{ s|replace('a', s) }}",
    "replace method": "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
    "join": "{% set s = 'a' * 1000000 %}{{ s.join(s) }}",
    "join filter": "{{ (['a' * 1000000] * 1000)|join('b') }}",
    "power": "{{ 9 ** 99999 }}",
    "squares": "{% set ns = namespace(n=9) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}{{ ns.n }}",
    "shared": "{% set ns = namespace(l=['x']) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    "extend": "{% set l = [1] %}{% for i in range(60) %}{% if l.extend(l) %}{% endif %}{% endfor %}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "deep macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "endless": "{% set l = [1] %}{% for x in l %}{% if l.append(1) %}{% endif %}{% endfor %}",
    "recursive": "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "batch": "{{ [1]|batch(999999999, 'x')|list }}",
    "indent": "{{ ('x\n' * 1000)|indent(100000) }}",
    "sum": "{{ ([[1] * 100000] * 10000)|sum(start=[]) }}",
    "set block": "{% set s %}{% for i in range(9999) %}{{ 'a' * 100000 }}{% endfor %}{% endset %}{{ s }}",
    "output": "{% for i in range(99999) %}{{ 'a' * 2000 }}{% endfor %}",
    "tojson": "{% set ns = namespace(l=['x']) %}{% for i in range(60) %}{% set ns.l = dict(a=ns.l, b=ns.l) %}{% endfor %}{{ ns.l|tojson }}",
    "zip": "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = zip(ns.l, ns.l)|list + zip(ns.l, ns.l)|list %}{% endfor %}{{ ns.l }}",
}


@pytest.mark.parametrize("attack", BAD)
def test_work_is_bounded(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_SECONDS", 3)
    template = Template(name="t", dataset="d", jinja=BAD[attack] + " ||| y", max_variable_length=None)
    start = time.process_time()
    with pytest.raises(UserError, match=r"asks for too much|fails to render|no column lipsum|does not parse"):
        template.render({}, ("key",))
    assert time.process_time() - start < 10


def test_loops_calls_and_joins_of_a_usual_size_are_as_before() -> None:
    text = (
        "{% macro name(x) %}<{{ x }}>{% endmacro %}{% for x in items %}{{ loop.index }}/{{ loop.length }}{{ name(x) }}"
        "{% if not loop.last %}, {% endif %}{% endfor %}; {{ items | join('-') ~ '!' }} {{ '%s=%d' | format('a', 3) }} "
        "{{ 'x'.replace('x', 'y') }} {{ ([items, 1][1] + 2) }} {{ {'a': items}['a'][0] }} ||| {{ ('a' * 3) }}"
    )
    rendered = Template(name="t", dataset="d", jinja=text).render({"items": ["u", "v"]}, ("key",))
    assert rendered is not None
    assert rendered.source == "1/2<u>, 2/2<v>; u-v! a=3 y 3 u"
    assert rendered.target == "aaa"
