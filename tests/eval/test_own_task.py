"""The tutorial on a task of one's own, run as it is written; and what `--data-dir` and `--templates` stand beside."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from eval.cli import main as eval_main
from finetune.cli import main as prompts_main
from metro_t0.tokenization.settings import BpeSettings
from metro_t0.tokenization.training import train_bpe

TUTORIAL = Path(__file__).parents[2] / "docs/own_task.md"
PROGRAMS = {"metro-t0-prompts": prompts_main, "metro-t0-eval": eval_main}


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    words = ["message", "account", "department", "forwarded", "billing", "accounts", "support", "technical"]
    train_bpe(Counter(dict.fromkeys(words, 50)), BpeSettings(60), tmp_path / "vocabulary")
    return tmp_path / "vocabulary"


def test_the_tutorial_on_a_task_of_ones_own(
    tmp_path: Path,
    model_directories: dict[str, Path],
    vocabulary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = TUTORIAL.read_text()
    files = re.findall(r"^`(mine/\S+)`[^\n]*:\n\n```\w+\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    commands = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    assert len(files) == 5
    assert len(commands) == 5
    monkeypatch.chdir(tmp_path)
    for name, content in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    replaced = {"google/flan-t5-small": str(model_directories["t5"]), "VOCAB": str(vocabulary)}
    outputs = []
    for command in commands:
        program, *arguments = shlex.split(command)
        assert PROGRAMS[program]([replaced.get(word, word) for word in arguments]) == 0, command
        outputs.append(capsys.readouterr().out)
    show, listed, table, check, built = outputs
    assert prompts_main([*shlex.split(commands[0])[1:], "--rows", "9"]) == 0  # the last row has no answer
    assert "Nobody has read this one yet" not in capsys.readouterr().out
    assert "Which department should answer this message: billing, technical support, accounts?" in show
    assert "help_desk_forwarded_to" in listed
    assert "help_desk" in table
    assert "ok      help_desk: local files; " in check
    assert "2 of 2 templates render" in check
    assert "tasks in mine/prompted/mixture.json" in built
    results = [json.loads(path.read_text()) for path in (tmp_path / "mine/results/results").rglob("*.json")]
    assert len(results) == 2
    for result in results:
        assert result["num_rows"] == 7
        assert result["skipped"] == {"label of the row is hidden": 1}
        assert sum(outcome in "01" for outcome in result["outcomes"]) == 6


def test_a_split_whose_labels_are_all_hidden_has_no_score(
    tmp_path: Path, model_directories: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """And the other task keeps its own."""
    (tmp_path / "data/d").mkdir(parents=True)
    for split, label in [("validation", 1), ("test", -1)]:
        (tmp_path / f"data/d/{split}.jsonl").write_text(f'{{"q": "so?", "label": {label}}}\n' * 3)
    (tmp_path / "templates/d").mkdir(parents=True)
    template = {"name": "t", "jinja": "{{ q }} ||| {{ answer_choices[label] }}", "answer_choices": "no ||| yes"}
    (tmp_path / "templates/d/templates.yaml").write_text(json.dumps({"templates": {"1": template}}))
    tasks = [{"dataset": "d"}, {"name": "secret", "dataset": "d", "split": "test"}]
    (tmp_path / "tasks.yaml").write_text(json.dumps({"tasks": tasks}))
    command = ["tasks", "--tasks", str(tmp_path / "tasks.yaml"), "--model", str(model_directories["t5"])]
    command += ["--data-dir", str(tmp_path / "data"), "--templates", str(tmp_path / "templates")]
    assert eval_main([*command, "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "mean over 1 of 2" in out
    assert "not scored: secret: template 't' of d: none of 3 rows of test can be scored (3 times: label" in out
    assert eval_main([*command, "--output", str(tmp_path / "other"), "--only", "secret"]) == 2


def write_templates(directory: Path, dataset: str, *names: str) -> None:
    folder = directory / dataset
    folder.mkdir(parents=True, exist_ok=True)
    templates = {str(key): {"name": name, "jinja": "{{ q }} ||| {{ a }}"} for key, name in enumerate(names)}
    (folder / "templates.yaml").write_text(json.dumps({"templates": templates}))


def write_rows(directory: Path, dataset: str) -> None:
    (directory / dataset).mkdir(parents=True, exist_ok=True)
    (directory / dataset / "train.jsonl").write_text('{"q": "a", "a": "b"}\n')


def test_own_templates_and_rows_stand_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_templates(tmp_path / "templates", "mine", "plain")
    write_templates(tmp_path / "templates", "glue/mrpc", "my wording")  # in place of promptsource's
    write_rows(tmp_path / "data", "mine")
    where = ["--data-dir", str(tmp_path / "data"), "--templates", str(tmp_path / "templates")]
    assert prompts_main(["show", "--dataset", "mine", *where]) == 0
    assert prompts_main(["show", "--dataset", "embedded/next_part", *where]) == 0
    assert prompts_main(["list", "--dataset", "imdb", "--templates", str(tmp_path / "templates")]) == 0
    assert "imdb_Sentiment_with_choices_" in capsys.readouterr().out
    assert prompts_main(["list", "--dataset", "glue/mrpc", "--templates", str(tmp_path / "templates")]) == 0
    out = capsys.readouterr().out
    assert "my wording" in out
    assert "equivalent" not in out
    (tmp_path / "mix.yaml").write_text("train: [mine, imdb, quail]\n")
    assert prompts_main(["list", "--mixture", str(tmp_path / "mix.yaml"), *where]) == 0
    mine, imdb, quail = (
        line for line in capsys.readouterr().out.splitlines() if line[2:].startswith(("mine", "imdb", "quail"))
    )
    assert str(tmp_path / "data") in mine
    assert "stanfordnlp/imdb" in imdb
    assert "CC BY-NC-SA 4.0 *" in quail


@pytest.mark.parametrize(
    ("datasets", "templates", "message"),
    [
        (["d"], {"d": ["a b", "a-b"]}, "templates 'a b' and 'a-b' are one task, d_a_b; rename one"),
        (["d"], {"d": ["a b", "a b"]}, "templates 'a b' and 'a b' are one task, d_a_b; rename one"),
        (["a/b", "a_b"], {"a/b": ["x"], "a_b": ["y"]}, "a/b and a_b share their file names"),
        (["d", "e", "d"], {"d": ["x"], "e": ["x"]}, "lists d twice; leave one of them out"),
        (["a", "a/b"], {"a": ["b c"], "a/b": ["c"]}, "are one task, a_b_c; rename one of them"),
    ],
)
def test_names_that_collide_are_refused(
    tmp_path: Path,
    vocabulary: Path,
    capsys: pytest.CaptureFixture[str],
    datasets: list[str],
    templates: dict[str, list[str]],
    message: str,
) -> None:
    for dataset, names in templates.items():
        write_templates(tmp_path / "templates", dataset, *names)
        write_rows(tmp_path / "data", dataset)
    (tmp_path / "mix.yaml").write_text(f"train: {json.dumps(datasets)}\n")
    options = ["--mixture", str(tmp_path / "mix.yaml"), "--tokenizer", str(vocabulary), "--workers", "1"]
    options += ["--data-dir", str(tmp_path / "data"), "--templates", str(tmp_path / "templates")]
    assert prompts_main(["build", *options, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
