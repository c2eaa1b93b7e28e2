"""The six downstream tasks of Wu, Li and Liang (2022) as source/target text, from `datasets` rows or a local copy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from metro_t0.data.pairs import Pair
from metro_t0.errors import UserError, unknown
from metro_t0.files import atomic_path
from metro_t0.prompts.datasets import load_rows
from metro_t0.shapes import expect

Row = Mapping[str, Any]
NON_WORD = re.compile(r"([^\w\s])")


class Answers(TypedDict):
    """SQuAD's column `answers`, as `datasets` has it."""

    text: list[str]


def summarization(row: Row) -> Pair:
    """CNN/Daily Mail: lower-cased article and highlights."""
    highlights = " . ".join(line.strip().rstrip(" .") for line in row["highlights"].splitlines() if line.strip())
    return Pair(f"summarize: {row['article'].lower()}", (f"{highlights.lower()} .",))


def structured(row: Row) -> Pair:
    """MTOP and WebQSP: question and structured knowledge (an intent table, or entities and triples)."""
    return Pair(f"{row['question']} ; structured knowledge: {row['knowledge']}", (row["target"],))


def reading(row: Row) -> Pair:
    """SQuAD: question and context; all answers are references, the first is trained on."""
    return Pair(f"question: {row['question']} context: {row['context']}", tuple(row["answers"]["text"]))


def reading_padded(row: Row) -> Pair:
    """The same with spaces round every character that is not of a word, as the authors trained it."""
    pair = reading(row)
    spaced = [" ".join(NON_WORD.sub(r" \1 ", text).split()) for text in (pair.source, *pair.references)]
    return Pair(spaced[0], tuple(spaced[1:]))


def code_translation(row: Row) -> Pair:
    """A Java method and the C# method."""
    return Pair(row["java"].strip(), (row["cs"].strip(),))


def retrosynthesis(row: Row) -> Pair:
    """SMILES of the product and of the reactants."""
    return Pair(row["product"], (row["reactants"],))


@dataclass(frozen=True)
class Downstream:
    """dataset: name for `load_rows`; fields: columns a row must have."""

    dataset: str
    fields: tuple[str, ...]
    convert: Callable[[Row], Pair]


DOWNSTREAM_TASKS: dict[str, Downstream] = {
    "cnndm_10k": Downstream("cnn_dailymail/3.0.0", ("article", "highlights"), summarization),
    "mtop": Downstream("mtop", ("question", "knowledge", "target"), structured),
    "webqsp": Downstream("web_qsp", ("question", "knowledge", "target"), structured),
    "squad": Downstream("squad", ("question", "context", "answers"), reading),
    "squad_padded": Downstream("squad", ("question", "context", "answers"), reading_padded),
    "code_translation": Downstream("code_x_glue_cc_code_to_code_trans", ("java", "cs"), code_translation),
    "retrosynthesis": Downstream("uspto_50k", ("product", "reactants"), retrosynthesis),
}


def get_downstream(name: str) -> Downstream:
    """The task of that name. Raises `UserError` with the nearest names."""
    if name not in DOWNSTREAM_TASKS:
        raise unknown("downstream task", name, DOWNSTREAM_TASKS)
    return DOWNSTREAM_TASKS[name]


def pairs(task: Downstream, rows: Iterable[Row]) -> Iterable[Pair]:
    """Source and references of every row. Raises `UserError` naming the row and what is missing or wrong in it."""
    for number, row in enumerate(rows, 1):
        missing = [field for field in task.fields if field not in row]
        if missing:
            raise UserError(
                f"{task.dataset}: row {number} has no column {missing[0]} (it has {', '.join(row)}); "
                f"this task needs {', '.join(task.fields)}"
            )
        for field in task.fields:
            expect(row[field], Answers if field == "answers" else str, f"{task.dataset}: row {number}: {field}")
        pair = task.convert(row)
        if not pair.references:
            raise UserError(f"{task.dataset}: row {number} has no answer; leave out rows whose answers are hidden")
        yield pair


def write_split(name: str, split: str, data_dir: Path | None, output: Path, name_of_split: str) -> int:
    """Write OUTPUT/SPLIT.jsonl of {source, target, references}; gives the number of examples.

    The file serves `prompt_finetuning` (with dict.txt and tokenizer.json beside it) and `metro-t0-eval generate`.
    """
    task = get_downstream(name)
    dataset, _, subset = task.dataset.partition("/")
    rows = load_rows(dataset, subset or None, split, data_dir)
    count = 0
    with (
        atomic_path(output / f"{name_of_split}.jsonl") as temporary,
        open(temporary, "w", encoding="utf-8") as stream,
    ):
        for pair in pairs(task, rows):
            row = {"source": pair.source, "target": pair.references[0], "references": list(pair.references)}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count
