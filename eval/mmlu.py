"""MMLU through the prompt of AI2-ARC, with retrieved passages where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from metro_t0.errors import UserError
from metro_t0.prompts.rendering import HIDDEN, HiddenLabelError, RenderError
from metro_t0.shapes import expect, json_value
from metro_t0.text_files import read_lines

LETTERS = "ABCD"


def as_arc(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of MMLU (question, choices, answer index) in the columns of AI2-ARC.

    Raises `HiddenLabelError` where the answer is hidden, `RenderError` where it is no index of up to four choices.
    """
    choices, answer = list(row["choices"]), row["answer"]
    if answer is None or answer == HIDDEN:
        raise HiddenLabelError(f"mmlu_as_arc: the row's answer is hidden ({HIDDEN} or empty)")
    if len(choices) > len(LETTERS) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise RenderError(f"mmlu_as_arc: answer {answer!r} to {len(choices)} choices, not an index of up to four")
    labels = list(LETTERS[: len(choices)])
    return {
        "id": "",
        "question": row["question"],
        "choices": {"text": choices, "label": labels},
        "answerKey": labels[answer],
    }


def question_key(row: Mapping[str, Any]) -> str:
    """What passages are stored under: subject, question and options, since some questions occur more than once."""
    return "\n".join([row["subject"], row["question"], *row["choices"]])


class Passage(TypedDict):
    """One passage of a line of `metro-t0-eval retrieve`."""

    text: str


class PassagesOfQuestion(TypedDict):
    """One line of `metro-t0-eval retrieve`."""

    key: str
    passages: list[Passage]


def load_passages(path: Path) -> dict[str, list[str]]:
    """Passages per question, best first, as `metro-t0-eval retrieve` writes them (JSONL: key, passages)."""
    passages: dict[str, list[str]] = {}
    for place, line in read_lines(path):
        entry = expect(json_value(line, place), PassagesOfQuestion, place)
        passages[entry["key"]] = [passage["text"] for passage in entry["passages"]]
    return passages


def adds_passages(path: Path, top_k: int) -> Callable[[Mapping[str, Any], str], str]:
    """(row, prompt) -> the prompt with the first `top_k` passages that the file has for the row's question."""
    passages = load_passages(path)

    def add(row: Mapping[str, Any], source: str) -> str:
        key = question_key(row)
        if key not in passages:
            raise UserError(f"{path}: no passages for the question {row['question'][:80]!r}; retrieve again")
        return with_passages(source, passages[key][:top_k])

    return add


def with_passages(source: str, passages: Sequence[str]) -> str:
    """The prompt, an empty line, and one line `Reference passage i: ...` per passage (METRO-T0, appendix)."""
    lines = [f"Reference passage {i}: {passage}" for i, passage in enumerate(passages, start=1)]
    return "\n".join([source, "", *lines]) if lines else source
