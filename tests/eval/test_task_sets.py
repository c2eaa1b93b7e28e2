"""The built-in task sets are the published ones, and the real data gives scores that equal the definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from eval.cli import main
from eval.examples import build_examples
from eval.results import ResultsDirectory, read_predictions
from eval.runner import task_rows, task_templates
from eval.statements import statements_of_a_text
from eval.tasks import built_in_tasks, task_set_of
from metro_t0.prompts.datasets import DatasetName


def test_t0_eval_is_the_published_list(spec_dir: Path) -> None:
    published = json.loads((spec_dir / "t0_eval.json").read_text())
    tasks = built_in_tasks("t0").tasks
    assert len(tasks) == 11
    for entry, task in zip(published, tasks, strict=True):
        assert (task.dataset.name, task.dataset.subset, task.split) == (
            entry["dataset"],
            entry["subset"],
            entry["split"],
        )
        assert list(task.templates or ()) == entry["templates"]
        assert [t.name for t in task_templates(task, None)] == entry["templates"]
        assert all(template.has_choices for template in task_templates(task, None))
    assert sum(len(task.templates or ()) for task in tasks) == 112


def test_mmlu_is_the_published_list(spec_dir: Path) -> None:
    published = json.loads((spec_dir / "mmlu.json").read_text())
    tasks = built_in_tasks("mmlu", "test").tasks
    assert [task.name for task in tasks] == published["subjects"]
    assert {(str(t.templates_of), t.templates, t.split) for t in tasks} == {
        ("ai2_arc/ARC-Challenge", ("heres_a_problem",), "test")
    }


@pytest.mark.parametrize(("set_name", "task_name"), [("t0", "wsc"), ("t0", "hellaswag"), ("mmlu", "virology")])
def test_real_rows_score_as_defined(
    set_name: str, task_name: str, real_data: Path, model_directories: dict[str, Path], tmp_path: Path
) -> None:
    directory, data = model_directories["t5v1.1"], real_data / "tasks"
    arguments = ["--model", str(directory), "--data-dir", str(data), "--output", str(tmp_path), "--limit", "6"]
    assert main([set_name, *arguments, "--only", task_name, "--save-predictions"]) == 0
    model = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    task = next(t for t in built_in_tasks(set_name).tasks if t.name == task_name)
    template = task_templates(task, None)[0]
    predictions = read_predictions(ResultsDirectory(tmp_path).predictions_path(task_name, template.name))
    assert len(predictions) == 6
    indices = [prediction.index for prediction in predictions]
    examples = build_examples(task, template, task_rows(task, data), indices, seed=1).examples
    for example, prediction in zip(examples, predictions, strict=True):
        source = tokenizer(example.source, return_tensors="pt", truncation=True, max_length=512).input_ids
        for choice, found in zip(example.choices, prediction.log_probabilities, strict=True):
            labels = tokenizer(choice, return_tensors="pt").input_ids
            with torch.no_grad():
                log_p = model(input_ids=source, labels=labels).logits.log_softmax(-1)
            assert found == pytest.approx(log_p.gather(-1, labels[..., None]).sum().item(), rel=1e-6, abs=1e-4)


def test_btzsc_puts_the_statements_of_a_text_together(
    model_directories: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the layout of its hub repository: a row per text and statement, one of them true."""
    btzsc = task_set_of("btzsc")
    assert len(btzsc.tasks) == 22
    assert btzsc.tasks[11].dataset == DatasetName("btzsc/btzsc", "agnews")
    statements = ["This is sports.", "This is politics.", "This is business."]
    truth = [1, 0, 2, 2]
    rows = [
        {"text": f"text {number}", "hypothesis": statement, "labels": int(place == truth[number])}
        for number in range(4)
        for place, statement in enumerate(statements)
    ]
    rows += [{"text": "no one is true", "hypothesis": statement, "labels": 0} for statement in statements]
    found = statements_of_a_text([*rows, *rows[:3]])
    assert [row["label"] for row in found] == [*truth, -1, truth[0]]
    assert all(row["choices"] == statements for row in found)
    assert [row["text"] for row in statements_of_a_text(rows[:3] * 2)] == ["text 0", "text 0"]

    directory = tmp_path / "data" / "btzsc/btzsc/agnews"
    directory.mkdir(parents=True)
    (directory / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", str(model_directories["t5"]), "--data-dir", str(tmp_path / "data"), "--device", "cpu"]
    output = tmp_path / "o"
    assert main(["tasks", "--tasks", "btzsc", "--only", "agnews", *given, "--output", str(output)]) == 0
    result = json.loads((output / "results/agnews/which_statement.json").read_text())
    assert (result["n"], result["num_rows"], result["labels"]) == (4, 5, statements)
    assert result["chance"] == pytest.approx(1 / 3)
    assert all(f"- {statement}" in result["samples"][0]["source"] for statement in statements)
    assert "what_is_true" in {path.stem for path in (output / "results/agnews").iterdir()}
