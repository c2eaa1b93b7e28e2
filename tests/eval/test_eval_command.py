"""The command from model and data to results: what it writes, resumes, refuses and says."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from eval.cli import main
from eval.results import ResultsDirectory, TemplateResult, read_predictions
from eval.runner import task_templates
from eval.tasks import built_in_tasks
from metro_t0.prompts.datasets import load_rows

T0_HERE = ["rte", "copa"]


def run_t0(model: Path, data_dir: Path, output: Path, *more: str) -> int:
    return main(["t0", "--model", str(model), "--data-dir", str(data_dir), "--output", str(output), *more])


def results_of(output: Path) -> dict[tuple[str, str], TemplateResult]:
    return {(r.task, r.template): r for r in ResultsDirectory(output).load()}


@pytest.fixture(scope="module")
def t5_results(model_directories: dict[str, Path], data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("results") / "t5"
    assert run_t0(model_directories["t5"], data_dir, output, "--save-predictions", "--length-normalize") == 0
    return output


def test_predictions_equal_the_definition_from_text(
    t5_results: Path, model_directories: dict[str, Path], data_dir: Path
) -> None:
    """Row, template, tokenizer and model again, without anything of the evaluation's own."""
    model = AutoModelForSeq2SeqLM.from_pretrained(model_directories["t5"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_directories["t5"])
    task = next(t for t in built_in_tasks("t0").tasks if t.name == "copa")
    rows = load_rows("super_glue", "copa", "validation", data_dir)
    for template in task_templates(task, None)[:3]:
        predictions = read_predictions(ResultsDirectory(t5_results).predictions_path("copa", template.name))
        expected = {}
        for index, row in enumerate(rows):
            rendered = template.render(row)
            if rendered is None:
                continue
            scores = []
            for choice in rendered.choices or []:
                inputs = tokenizer(rendered.source, return_tensors="pt")
                labels = tokenizer(choice, return_tensors="pt").input_ids
                with torch.no_grad():
                    log_p = model(input_ids=inputs.input_ids, labels=labels).logits.log_softmax(-1)
                scores.append(log_p.gather(-1, labels[..., None]).sum().item())
            expected[index] = (scores, (rendered.choices or []).index(rendered.target))
        assert [p.index for p in predictions] == list(expected)
        for prediction in predictions:
            scores, gold = expected[prediction.index]
            assert prediction.log_probabilities == pytest.approx(scores, abs=1e-4)
            assert prediction.gold == gold
            assert prediction.predicted == scores.index(max(scores))


def test_what_is_written(t5_results: Path) -> None:
    summary = json.loads((t5_results / "summary.json").read_text())
    assert list(summary["tasks"]) == T0_HERE
    assert len(summary["missing"]) == 9
    assert summary["average"]["label"] == "mean over 2 of 11"
    assert summary["average"]["complete"] is False
    rte = json.loads(next((t5_results / "results" / "rte").glob("must_be_true*.json")).read_text())
    assert rte["n"] == 14
    assert set(rte["versions"]) == {"python", "torch", "transformers"}
    assert rte["run"]["fingerprint"] == summary["run"]["fingerprint"]
    assert sum(map(sum, rte["confusion"])) == 14
    assert len(summary["tasks"]["rte"]["templates"]) == 10
    table = (t5_results / "table.md").read_text()
    assert "METRO-T0_LARGE++" in table
    assert "mean over 2 of 11" in table
    assert "length-normalized" in table


def test_average_of_task_is_mean_over_templates(t5_results: Path) -> None:
    summary = json.loads((t5_results / "summary.json").read_text())
    for task in T0_HERE:
        values = [r.score.value for (name, _), r in results_of(t5_results).items() if name == task]
        assert summary["tasks"][task]["value"] == pytest.approx(sum(values) / len(values))
    assert summary["average"]["value"] == pytest.approx(sum(summary["tasks"][t]["value"] for t in T0_HERE) / 2)


def test_second_run_computes_only_what_is_missing(
    t5_results: Path, model_directories: dict[str, Path], data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = next((t5_results / "results" / "copa").glob("*.json"))
    before = {p: p.stat().st_mtime_ns for p in t5_results.glob("results/*/*.json")}
    content = json.loads(lost.read_text())
    lost.unlink()
    assert run_t0(model_directories["t5"], data_dir, t5_results, "--save-predictions") == 0
    changed = [p for p in before if p.stat().st_mtime_ns != before[p]]
    assert changed == [lost]
    again = json.loads(lost.read_text())
    assert again["outcomes"] == content["outcomes"]
    assert again["samples"] == content["samples"]


def test_prompts_at_the_limit_are_counted(model_directories: dict[str, Path], data_dir: Path, tmp_path: Path) -> None:
    """Those that filled the maximum length, whether exactly or cut to it."""
    tokenizer = AutoTokenizer.from_pretrained(model_directories["t5"])
    task = next(t for t in built_in_tasks("t0").tasks if t.name == "copa")
    rows = load_rows("super_glue", "copa", "validation", data_dir)
    template = task_templates(task, None)[0]
    rendered = [template.render(row) for row in rows]
    lengths = sorted(len(tokenizer(r.source)["input_ids"]) for r in rendered if r is not None)
    limit = lengths[len(lengths) // 2]
    assert lengths[0] < limit < lengths[-1]
    more = ("--only", "copa", "--max-source-tokens", str(limit), "--device", "cpu")
    assert run_t0(model_directories["t5"], data_dir, tmp_path / "o", *more) == 0
    found = results_of(tmp_path / "o")["copa", template.name]
    assert found.truncated_sources == sum(length >= limit for length in lengths)
    report = (tmp_path / "o" / "report.html").read_text()
    assert f"{found.truncated_sources} prompts at the length limit" in report


def test_what_can_be_known_is_checked_before_the_weights_are_read(
    t5_results: Path, model_directories: dict[str, Path], data_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr("eval.loading.load_seq2seq", load)
    model, none = model_directories["t5"], tmp_path / "none"
    assert run_t0(model, data_dir, tmp_path / "o", "--only", "rte,cupa") == 2
    assert run_t0(model, none, tmp_path / "o") == 2
    assert "no data for any task of t0" in capsys.readouterr().err
    assert run_t0(model_directories["bart"], data_dir, t5_results) == 2
    (tmp_path / "file").write_text("")
    assert run_t0(model, data_dir, tmp_path / "file") == 2
    (tmp_path / "own.yaml").write_text("tasks: [{dataset: super_glue/copa, templates: [no such template]}]")
    own = ["--tasks", str(tmp_path / "own.yaml"), "--data-dir", str(data_dir), "--output", str(tmp_path / "o")]
    assert main(["tasks", "--model", str(model), *own]) == 2
    (tmp_path / "pairs.tsv").write_text("no target\n")
    generated = ["--file", str(tmp_path / "pairs.tsv"), "--output", str(tmp_path / "g")]
    assert main(["generate", "--model", str(model), *generated]) == 2
    # A finished run has nothing to score and reads no weights either.
    assert run_t0(model, data_dir, t5_results, "--save-predictions", "--length-normalize") == 0


def test_refuses_the_results_of_another_model(
    t5_results: Path, model_directories: dict[str, Path], data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_t0(model_directories["bart"], data_dir, t5_results) == 2
    assert "belongs to other settings" in capsys.readouterr().err
    assert run_t0(model_directories["t5"], data_dir, t5_results, "--max-source-tokens", "64") == 2
    assert "max_source_tokens 512 -> 64" in capsys.readouterr().err


def test_killed_run_resumes(
    t5_results: Path, model_directories: dict[str, Path], data_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    arguments = ["t0", "--model", model_directories["t5"], "--data-dir", data_dir, "--output", output, "--only", "copa"]
    process = subprocess.Popen([sys.executable, "-m", "eval.cli", *map(str, arguments)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(output.glob("results/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in output.glob("results/*/*.json")}
    assert kept
    assert all(json.loads(p.read_text())["n"] for p in kept)
    assert run_t0(model_directories["t5"], data_dir, output, "--only", "copa") == 0
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items())
    whole = {key: r.outcomes for key, r in results_of(t5_results).items() if key[0] == "copa"}
    assert {key: r.outcomes for key, r in results_of(output).items()} == whole


def test_two_processes_equal_one(
    t5_results: Path, model_directories: dict[str, Path], data_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "two"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["t0", "--model", model_directories["t5"], "--data-dir", data_dir, "--output", output, "--only", "copa"]
    subprocess.run(
        [*launcher, "-m", "eval.cli", *map(str, arguments), "--save-predictions", "--device", "cpu"],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    one = {key: r for key, r in results_of(t5_results).items() if key[0] == "copa"}
    two = results_of(output)
    assert one.keys() == two.keys()
    for key, result in one.items():
        assert two[key].outcomes == result.outcomes
        assert two[key].confusion == result.confusion
        assert two[key].skipped == result.skipped
        first = read_predictions(ResultsDirectory(t5_results).predictions_path(*key))
        second = read_predictions(ResultsDirectory(output).predictions_path(*key))
        for a, b in zip(first, second, strict=True):
            assert b.index == a.index
            assert b.log_probabilities == pytest.approx(a.log_probabilities, rel=1e-6, abs=2e-5)


def test_mmlu_averages_over_subjects_and_reads_passages(
    model_directories: dict[str, Path], data_dir: Path, tmp_path: Path
) -> None:
    common = ["mmlu", "--model", str(model_directories["bart"]), "--data-dir", str(data_dir)]
    assert main([*common, "--output", str(tmp_path / "plain")]) == 0
    summary = json.loads((tmp_path / "plain" / "summary.json").read_text())
    assert list(summary["tasks"]) == ["anatomy", "virology"]
    assert summary["average"]["label"] == "mean over 2 of 57"
    source = results_of(tmp_path / "plain")["anatomy", "heres_a_problem"].samples[0]["source"]
    assert source.startswith("Here's a problem to solve: ")
    assert "- A: " in source

    from eval.mmlu import question_key

    passages = tmp_path / "passages.jsonl.gz"
    with gzip.open(passages, "wt") as stream:
        for row in load_rows("mmlu", None, "validation", data_dir):
            found = [{"text": f"about {row['question']}"}, {"text": "second"}, {"text": "third"}]
            stream.write(json.dumps({"key": question_key(row), "passages": found}) + "\n")
    more = ["--passages", str(passages), "--top-k", "2", "--output", str(tmp_path / "with")]
    assert main([*common, *more]) == 0
    augmented = results_of(tmp_path / "with")["anatomy", "heres_a_problem"].samples
    sample = next(s for s in augmented if s["index"] == 0)
    assert sample["source"].startswith(source + "\n\nReference passage 1: about ")
    assert sample["source"].endswith("\nReference passage 2: second")


def test_task_file_with_defaults_and_all_templates(
    model_directories: dict[str, Path], data_dir: Path, tmp_path: Path
) -> None:
    tasks = tmp_path / "mine.yaml"
    tasks.write_text(
        "tasks:\n- {dataset: super_glue/copa}\n- {name: short, dataset: super_glue/rte, templates: [must be true]}\n"
    )
    output = tmp_path / "out"
    arguments = ["--model", str(model_directories["t5"]), "--data-dir", str(data_dir), "--output", str(output)]
    assert main(["tasks", "--tasks", str(tasks), *arguments, "--limit", "4"]) == 0
    templates = {task: {t for name, t in results_of(output) if name == task} for task in ("super_glue/copa", "short")}
    assert templates["short"] == {"must be true"}
    assert "cause_effect" in templates["super_glue/copa"]
    assert len(templates["super_glue/copa"]) == 12
    assert json.loads((output / "summary.json").read_text())["average"]["label"] == "mean over 2, 4 rows of each"


def test_rows_whose_target_is_no_choice_are_counted(model_directories: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "data" / "toy"
    folder.mkdir(parents=True)
    rows = [{"text": f"row {i}", "answer": answer} for i, answer in enumerate(["red", "blue", "green", ""])]
    (folder / "validation.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    templates = tmp_path / "templates" / "toy"
    templates.mkdir(parents=True)
    (templates / "templates.yaml").write_text(
        "dataset: toy\ntemplates:\n  a: !Template\n    answer_choices: red ||| blue\n    id: a\n"
        "    jinja: 'Color of {{text}}? ||| {{answer}}'\n    metadata: !TemplateMetadata {}\n    name: color\n"
        "  b: !Template\n    answer_choices: null\n    id: b\n"
        "    jinja: '{{text}} ||| {{answer}}'\n    metadata: !TemplateMetadata {}\n    name: open\n"
    )
    tasks = tmp_path / "toy.yaml"
    tasks.write_text("tasks: [toy]\n")
    common = ["--data-dir", str(tmp_path / "data"), "--templates", str(tmp_path / "templates")]
    model = ["--model", str(model_directories["t5"])]
    assert main(["tasks", "--tasks", str(tasks), *model, *common, "--output", str(tmp_path / "out")]) == 0
    result = results_of(tmp_path / "out")["toy", "color"]
    assert result.score.n == 2
    assert result.outcomes[2:] == "--"
    assert result.skipped == {
        "target is not among the answer choices": 1,
        "template gives no target for the row": 1,
    }


def test_results_are_of_their_rows_and_of_the_model_as_it_reads(
    model_directories: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again after the rows, the split or the model's own settings changed."""
    model = shutil.copytree(model_directories["t5"], tmp_path / "model")
    (tmp_path / "templates" / "toy").mkdir(parents=True)
    template = {"name": "t", "jinja": "{{q}}? ||| {{answer_choices[label]}}", "answer_choices": "no ||| yes"}
    (tmp_path / "templates/toy/templates.yaml").write_text(json.dumps({"templates": {"1": template}}))
    where = ["--templates", str(tmp_path / "templates"), "--device", "cpu", "--data-dir"]

    def run(output: str, split: str, rows: int, label: int, *more: str) -> TemplateResult:
        folder = tmp_path / f"{split}{rows}{label}"  # read once in a process
        (folder / "toy").mkdir(parents=True)
        text = "".join(json.dumps({"q": f"row {i}", "label": label}) + "\n" for i in range(rows))
        (folder / "toy" / f"{split}.jsonl").write_text(text)
        (tmp_path / "toy.yaml").write_text(f"tasks: [{{name: toy, dataset: toy, split: {split}}}]")
        output_of = ["--model", str(model), "--output", str(tmp_path / output)]
        assert main(["tasks", "--tasks", str(tmp_path / "toy.yaml"), *output_of, *where, str(folder), *more]) == 0
        return results_of(tmp_path / output)["toy", "t"]

    first = run("o", "validation", 6, 0, "--save-predictions")
    other_labels = run("o", "validation", 6, 1)
    assert other_labels.score.value == 1 - first.score.value
    assert not list((tmp_path / "o").glob("predictions/*/*.gz"))  # those were of the rows before
    assert run("o", "test", 5, 0).num_rows == 5
    run("sample", "test", 20, 0, "--limit", "5")
    compared = ["report", str(tmp_path / "o"), str(tmp_path / "sample"), "--output", str(tmp_path / "c")]
    assert main(compared) == 2
    assert "the two results are not of the same rows" in capsys.readouterr().err
    with pytest.raises(AssertionError):
        run("o", "test", 5, -1)  # all hidden: nothing is left of the result before
    assert not list((tmp_path / "o").glob("results/*/*.json"))
    run("o", "test", 5, 1)
    (model / "generation_config.json").write_text('{"decoder_start_token_id": 3}')
    command = ["tasks", "--tasks", str(tmp_path / "toy.yaml"), "--model", str(model), *where]
    command.append(str(tmp_path / "test50"))
    assert main([*command, "--output", str(tmp_path / "o")]) == 2
    assert "belongs to other settings (files" in capsys.readouterr().err
    run_file = tmp_path / "o" / "run.json"
    of_an_earlier_version = {key: value for key, value in json.loads(run_file.read_text()).items() if key != "files"}
    run_file.write_text(json.dumps(of_an_earlier_version))
    assert main([*command, "--output", str(tmp_path / "o")]) == 0


def test_bytes_need_no_vocabulary_file(tmp_path: Path) -> None:
    from eval.loading import open_model
    from eval.settings import ModelSettings

    sizes = {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 16, "num_layers": 1, "vocab_size": 384}
    config = T5Config(**sizes, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    ByT5Tokenizer().save_pretrained(tmp_path)
    assert open_model(ModelSettings(name=str(tmp_path))).tokenizer("a")["input_ids"] == [100, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t0", "--only", "rtee"], "no task 'rtee' in t0; did you mean rte"),
        (["t0", "--device", "cuda:99"], "--device cuda:99: not usable here"),
        (["t0", "--limit", "0"], "--limit: 0 must be at least 1"),
    ],
)
def test_bad_options(
    arguments: list[str],
    message: str,
    model_directories: dict[str, Path],
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ["--model", str(model_directories["t5"]), "--data-dir", str(data_dir), "--output", str(tmp_path / "o")]
    assert main([*arguments, *common]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("tasks: [super_glue/rtte]", "no templates for data set super_glue/rtte; did you mean"),
        (
            "tasks: [{dataset: super_glue/rte, templates: [must be tru]}]",
            "no template 'must be tru' for super_glue/rte; did you mean must be true",
        ),
        (
            "tasks: [{dataset: super_glue/rte, templats: [x]}]",
            "unknown field 'templats' in 'tasks'; did you mean templates",
        ),
        (
            "tasks: [{dataset: super_glue/copa, templates: [cause_effect], split: tset}]",
            "no split 'tset' of super_glue/copa",
        ),
        ("tasks: []", "needs a list 'tasks'"),
        ("tasks: [super_glue/rte, super_glue/rte]", "two tasks are called 'super_glue/rte'"),
        ("tasks: [xsum]", "no template of xsum has answer choices"),
        ("tasks: [{dataset: super_glue/rte, templates: [a, b, a]}]", "names 'a' twice"),
        (
            "tasks: [{dataset: super_glue/rte, templates: [heres_a_problem], templates_of: ai2_arc/ARC-Challenge, "
            "row_format: mmlu_as_arc}]",
            "super_glue/rte validation: no column 'choices', which mmlu_as_arc needs",
        ),
    ],
)
def test_bad_task_files(
    tasks: str,
    message: str,
    model_directories: dict[str, Path],
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(tasks)
    common = ["--model", str(model_directories["t5"]), "--data-dir", str(data_dir), "--output", str(tmp_path / "o")]
    assert main(["tasks", "--tasks", str(path), *common]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_bad_models(
    model_directories: dict[str, Path], data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    causal = tmp_path / "causal"
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1)).save_pretrained(causal)
    bare = tmp_path / "bare"
    AutoModelForSeq2SeqLM.from_pretrained(model_directories["t5"]).save_pretrained(bare)
    for model, message in [
        (causal, "a gpt2 model is not encoder-decoder"),
        (bare, "no tokenizer in it"),
        (tmp_path / "nothing", "no such directory"),
        (tmp_path, "no config.json"),
    ]:
        assert run_t0(model, data_dir, tmp_path / "o") == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
