"""The embedded tasks: answers follow from the text, splits share no passage, the same rows every time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from metro_t0.errors import UserError
from metro_t0.prompts.datasets import available_splits, load_rows
from metro_t0.prompts.embedded import MAKERS, SPLITS
from metro_t0.prompts.templates import load_templates


@pytest.mark.parametrize("subset", MAKERS)
def test_rows_are_balanced_and_every_template_renders(subset: str) -> None:
    assert available_splits("embedded", subset) == sorted(SPLITS)
    rows = load_rows("embedded", subset, "train")
    labels = Counter(row["label"] for row in rows)
    assert len(rows) > 3000
    assert max(labels.values()) < 1.1 * min(labels.values())
    for template in load_templates("embedded", subset).values():
        rendered = [template.render(row) for row in rows[:60]]
        assert sum(each is not None for each in rendered) > 20
        for each in rendered:
            if each and each.choices:
                assert each.target in each.choices
                assert len(set(each.choices)) == len(each.choices)


def test_answers_follow_from_the_text() -> None:
    for row in load_rows("embedded", "word_in_passage", "validation"):
        assert (row["word"].lower() in row["passage"].lower()) == bool(row["label"])
    for row in load_rows("embedded", "which_word", "validation"):
        words = [row["word1"], row["word2"]]
        assert words[row["label"]] in row["passage"]
        assert words[1 - row["label"]].lower() not in row["passage"].lower()
    passages = {row["passage"] for row in load_rows("embedded", "which_word", "validation")}
    for row in load_rows("embedded", "word_order", "validation"):
        ends = [row["end1"], row["end2"]]
        assert f"{row['passage']} {ends[row['label']]}" in passages or not any(
            p.startswith(row["passage"]) for p in passages
        )
        assert ends[0] != ends[1]
        assert sorted(ends[0].split()) == sorted(ends[1].split())
    for row in load_rows("embedded", "missing_word", "validation"):
        assert "____" in row["passage"]
        assert [choice in row["passage"] for choice in row["choices"]].index(True) == row["label"]


def test_no_passage_is_in_two_splits() -> None:
    passages = [{row["passage"] for row in load_rows("embedded", "which_word", split)} for split in SPLITS]
    assert not passages[0] & passages[1]
    assert not passages[0] & passages[2]
    assert not passages[1] & passages[2]


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="no embedded data set embedded/next_par; did you mean next_part"):
        load_rows("embedded", "next_par", "train")
    with pytest.raises(UserError, match="no split 'dev'"):
        load_rows("embedded", "next_part", "dev")


def test_templates_may_be_numbered(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "templates.yaml").write_text(
        "dataset: mine\ntemplates:\n  1: !Template {name: first, jinja: '{{ a }} ||| {{ b }}'}\n"
    )
    assert list(load_templates("mine", templates_dir=tmp_path)) == ["first"]
