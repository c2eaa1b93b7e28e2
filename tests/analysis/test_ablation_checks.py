"""What the ablation driver refuses before it trains anything: directories, variants, options, another vocabulary."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ablation.cli import main
from finetune.cli import main as prompts_command
from metro_t0.data.cli import main as data_command


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary, token files and a mixture that belong together, and an evaluation task."""
    directory = tmp_path_factory.mktemp("inputs")
    text = directory / "text.txt"
    text.write_text("\n\n".join(f"some words of document {n} and some more words" for n in range(200)))
    vocab = ["--vocab-size", "60", "--workers", "1"]
    assert data_command(["tokenizer", str(text), *vocab, "--output", str(directory / "tokenizer")]) == 0
    given = ["--tokenizer", str(directory / "tokenizer"), "--workers", "1"]
    assert data_command(["binarize", str(text), *given, "--output", str(directory / "data")]) == 0
    mixture = ["--mixture", "embedded/next_part", "--limit", "40", "--held-out-limit", "5"]
    assert prompts_command(["build", *mixture, *given, "--output", str(directory / "prompted")]) == 0
    (directory / "tasks.yaml").write_text("tasks: [{dataset: embedded/next_part}]")
    return directory


def ablate(inputs: Path, output: Path, **changes: object) -> int:
    given: dict[str, object] = {name: inputs / name for name in ("data", "prompted", "tokenizer")}
    given |= {"tasks": "embedded", "updates": 1, "variants": "metro", "output": output, **changes}
    return main(["run", *(f"--{name.replace('_', '-')}={value}" for name, value in given.items())])


BAD_PLANS = {
    "no directory": ({"data": "nowhere"}, "nowhere/dict.txt: no such file; make its directory with metro-t0-data"),
    "no mixture": ({"prompted": "nowhere"}, "mixture.json: no such file; make its directory with metro-t0-prompts"),
    "unknown variant": ({"variants": "metroo"}, "unknown variant 'metroo'; did you mean metro"),
    "unknown task file": ({"tasks": "nowhere.yaml"}, "nowhere.yaml: no such file"),
    "task without templates": ({"tasks": "tasks.yaml"}, "nodata"),
    "task without data": ({"tasks": "t0", "data_dir": "nowhere"}, "nowhere"),
    "option of the variant": (
        {"variants": "wrong"},
        "variant wrong, pretraining: unrecognized arguments: --mask-ration",
    ),
    "rate": ({"learning_rate": "nan"}, "--learning-rate: nan must be a finite number"),
    "seeds": ({"seeds": "0"}, "--seeds: 0 must be at least 1"),
    "both budgets": ({"hours": "1"}, "give either --updates or --hours"),
}


@pytest.mark.parametrize("case", BAD_PLANS)
def test_what_can_be_known_is_said_before_the_first_update(
    case: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fairseq")
    monkeypatch.chdir(tmp_path)
    Path("tasks.yaml").write_text("tasks: [{dataset: nodata/at_all}]")
    Path("variants.yaml").write_text("wrong: {title: x, options: {task: metro_pretraining, mask-ration: 0.1}}")
    changes, message = BAD_PLANS[case]
    assert ablate(inputs, tmp_path / "out", variants_file="variants.yaml", **changes) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, None),
        ({"rtd": "decoder", "auxiliary-layers": 0}, "without an auxiliary no token is replaced"),
        ({"clip-norm": "many"}, "invalid float value: 'many'"),
        ({"no-such-option": 1}, "unrecognized arguments: --no-such-option 1"),
    ],
)
def test_options_of_training_are_tried_without_training(
    options: dict[str, object], message: str | None, inputs: Path
) -> None:
    pytest.importorskip("fairseq")
    from ablation.plan import Plan
    from ablation.steps import Job, pretrain_command
    from ablation.variants import Variant
    from fairseq_plugins.arguments import problem_of

    plan = Plan(data=inputs / "data", tokenizer=inputs / "tokenizer", updates=1, pretraining_only=True, preset="demo")
    job = Job(plan, Variant("x", "x", {"task": "metro_pretraining", **options}), 1, inputs / "out")
    problem = problem_of(pretrain_command(job, "cpu", 1)[3:])
    assert problem == message if message is None else message in str(problem)


def test_another_dictionary_is_refused_before_training(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(inputs / "prompted", tmp_path / "prompted")
    with open(tmp_path / "prompted" / "dict.txt", "a") as stream:
        stream.write("more 1\n")
    assert ablate(inputs, tmp_path / "out", prompted=tmp_path / "prompted") == 2
    assert "prompted/dict.txt is not" in capsys.readouterr().err
