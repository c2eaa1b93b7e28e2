"""`metro-t0-prompts build`, end to end on small data."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_mixture import TEMPLATES, color_rows, write_dataset

from finetune.cli import main
from finetune.planning import held_out_split
from finetune.settings import BuildSettings
from metro_t0.data.token_files import TokenFile
from metro_t0.prompts.datasets import DatasetName
from metro_t0.prompts.templates import load_templates
from metro_t0.tokenization import Tokenizer


def arguments(tmp_path: Path, vocabulary: Path, output: str = "out", **changes: object) -> list[str]:
    options: dict[str, object] = {
        "mixture": tmp_path / "both.yaml",
        "tokenizer": vocabulary,
        "output": tmp_path / output,
        "data-dir": tmp_path / "data",
        "templates": tmp_path / "templates",
        "workers": 1,
        **changes,
    }
    return ["build", *(text for key, value in options.items() for text in (f"--{key}", str(value)))]


def contents(directory: Path) -> dict[str, str]:
    """Hash of every file of a build."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def read_mixture(directory: Path) -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in json.loads((directory / "mixture.json").read_text())["tasks"]}


@pytest.mark.parametrize(
    ("splits", "held_out"),
    [(("train", "test", "validation"), "validation"), (("train", "test"), "test"), (("train",), None)],
)
def test_validation_comes_before_test_as_held_out_split(
    splits: tuple[str, ...], held_out: str | None, tmp_path: Path
) -> None:
    for split in splits:
        write_dataset(tmp_path, "colors", **{split: color_rows(2)})
    settings = cast(BuildSettings, SimpleNamespace(data_dir=tmp_path))
    assert held_out_split(DatasetName("colors", None), settings) == held_out


def test_files_hold_the_rendered_examples(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    assert main(arguments(tmp_path, vocabulary)) == 0
    out = tmp_path / "out"
    tasks = read_mixture(out)
    assert list(tasks) == ["colors_only_red", "colors_which", "shapes_only_red", "shapes_which"]
    assert tasks["colors_only_red"]["examples"] == 1300 // 4
    assert tasks["colors_which"]["held_out_examples"] == 40
    assert (tasks["shapes_which"]["held_out_split"], tasks["shapes_only_red"]["held_out_split"]) == ("test", None)
    tokenizer = Tokenizer.load(out)
    assert (out / "dict.txt").read_bytes() == (vocabulary / "dict.txt").read_bytes()
    template = load_templates("colors", None, tmp_path / "templates")["which"]
    for split, count in (("train", 1300), ("valid", 40)):
        sources, targets = (TokenFile(out / split / f"colors_which.{side}") for side in ("source", "target"))
        assert len(sources) == len(targets) == count
        for index, row in enumerate(color_rows(count)):
            rendered = template.render(row, (1, "colors", "which", index))
            assert rendered is not None
            assert sources[index].tolist() == [*tokenizer.encode(rendered.source), 2]
            assert targets[index].tolist() == [*tokenizer.encode(rendered.target), 2]


def test_rows_with_hidden_labels_are_left_out_and_counted(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    rows = color_rows(8)
    for row in rows[:3]:
        row["label"] = -1
    write_dataset(data_dir, "colors", train=rows, validation=[{**row, "label": -1} for row in rows])
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 0
    tasks = {task["name"]: task for task in json.loads((tmp_path / "out/datasets/colors.json").read_text())["tasks"]}
    assert tasks["colors_which"]["counts"] == {"hidden label": 3, "rendered": 5, "rows": 8}
    assert tasks["colors_only_red"]["counts"]["hidden label"] == 3
    assert tasks["colors_which"]["held_out"]["reason"] == "no row has a target: 8 of 8 labels are hidden"
    assert read_mixture(tmp_path / "out")["colors_which"]["held_out_examples"] == 0


def test_the_number_of_workers_does_not_matter(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    for output, workers in (("one", 1), ("three", 3)):
        assert main(arguments(tmp_path, vocabulary, output, workers=workers, limit=700)) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert read_mixture(tmp_path / "one")["colors_which"]["examples"] == 700


def test_long_texts_are_cut_before_their_end_token(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    assert main(arguments(tmp_path, vocabulary, **{"max-source-tokens": 20, "max-target-tokens": 3})) == 0
    source, target = (TokenFile(tmp_path / f"out/train/colors_which.{side}") for side in ("source", "target"))
    assert source.sizes.max() == 19  # and <s>, which training puts first
    assert target.sizes.max() <= 3
    assert all(item[-1] == 2 and 2 not in item[:-1] for item in (*source, *target))
    counts = json.loads((tmp_path / "out/datasets/colors.json").read_text())["tasks"][1]["counts"]
    whole = load_templates("colors", None, tmp_path / "templates")["which"]
    tokenizer = Tokenizer.load(vocabulary)
    lengths = [
        len(tokenizer.encode(whole.render(row, (1, "colors", "which", i)).source))  # type: ignore[union-attr]
        for i, row in enumerate(color_rows(1300))
    ]
    assert counts["source cut"] == int((np.array(lengths) > 18).sum())


def test_a_failing_data_set_does_not_stop_the_others(
    tmp_path: Path, data_dir: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_dir / "colors" / "train.jsonl").unlink()
    assert main(arguments(tmp_path, vocabulary)) == 3
    assert list(read_mixture(tmp_path / "out")) == ["shapes_only_red", "shapes_which"]
    assert "failed: colors: " in capsys.readouterr().out
    write_dataset(data_dir, "colors", train=color_rows(5))
    assert main(arguments(tmp_path, vocabulary)) == 0
    assert len(read_mixture(tmp_path / "out")) == 4


BAD_TEMPLATES = """
  b1: !Template {name: escapes, jinja: "{{ thing.__class__.__mro__ }} ||| x"}
  b2: !Template {name: syntax, jinja: "{% if %} ||| x"}
  b3: !Template {name: column, jinja: "{{ no_such_column }} ||| x"}
  b4: !Template {name: nothing, jinja: "{{ thing }} ||| {{ '' }}"}
"""


def test_failing_templates_are_named_and_the_rest_is_built(
    tmp_path: Path, data_dir: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "templates/colors/templates.yaml").write_text(TEMPLATES + BAD_TEMPLATES)
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 3
    assert list(read_mixture(tmp_path / "out")) == ["colors_only_red", "colors_which"]
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("failed:")]
    assert [line.split(":")[1].strip() for line in failed] == ["colors_column", "colors_escapes", "colors_syntax"]
    assert "none of 1300 rows could be rendered: template 'column' of colors: no column no_such_column" in failed[0]
    assert "reaches outside the sandbox (access to attribute '__class__' of a str)" in failed[1]
    assert "does not parse" in failed[2]
    assert not list((tmp_path / "out/train").glob("*escapes*"))


def test_rows_that_cannot_be_rendered_are_counted(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    rows = [{"thing": "a", "label": 1}, {"label": 2}, {"thing": "b", "label": "no"}, {"thing": "c", "label": 0}]
    write_dataset(data_dir, "colors", train=rows)
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 0
    record = json.loads((tmp_path / "out/datasets/colors.json").read_text())
    which = next(task for task in record["tasks"] if task["template"] == "which")
    assert which["counts"]["rows"] == 4
    assert which["counts"]["missing column"] == 1
    assert which["counts"]["rendered"] + which["counts"].get("no target", 0) == 3
    assert "row 1 of train" in which["reason"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": "t1"}, "unknown mixture 't1'"),
        ({"only": "color"}, "no such data set in mixture both; did you mean colors"),
        ({"tokenizer": "nowhere"}, "nowhere"),
        ({"data-dir": "nowhere"}, "no such directory"),
        ({"limit": 0}, "--limit: 0 must be at least 1"),
        ({"max-source-tokens": 2}, "--max-source-tokens: 2 must be at least 3"),
    ],
)
def test_bad_input_is_one_line(
    changes: dict[str, object],
    message: str,
    tmp_path: Path,
    data_dir: Path,
    vocabulary: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments(tmp_path, vocabulary, **changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith("metro-t0-prompts build: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_other_settings_need_another_directory(
    tmp_path: Path, data_dir: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, vocabulary, only="shapes")) == 0
    assert main(arguments(tmp_path, vocabulary, only="shapes", seed=2)) == 2
    assert "seed 1 -> 2" in capsys.readouterr().err


def test_a_refused_build_blocks_no_directory(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    (tmp_path / "none.yaml").write_text("train: [missing]\n")
    assert main(arguments(tmp_path, vocabulary, mixture=tmp_path / "none.yaml")) == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()  # as a killed build leaves it that had finished nothing
    (tmp_path / "out/build.json").write_text('{"seed": 7}')
    assert main(arguments(tmp_path, vocabulary, only="shapes")) == 0
    assert json.loads((tmp_path / "out/build.json").read_text())["seed"] == 1


def test_two_builds_do_not_share_a_directory(
    tmp_path: Path, data_dir: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(data_dir, "colors", train=color_rows(20_000))
    first = subprocess.Popen(
        [sys.executable, "-m", "finetune.cli", *arguments(tmp_path, vocabulary, only="colors")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(tmp_path.glob("out/train/.colors*.tmp")):
        assert first.poll() is None
        time.sleep(0.01)
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 2
    assert f"in use by process {first.pid}" in capsys.readouterr().err
    first.communicate()
    assert first.returncode == 0
    assert main(arguments(tmp_path, vocabulary, "alone", only="colors")) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_changed_template_is_built_again(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    assert main(arguments(tmp_path, vocabulary, only="shapes")) == 0
    before = contents(tmp_path / "out")
    path = tmp_path / "templates/shapes/templates.yaml"
    path.write_text(path.read_text().replace("What is", "Name"))
    assert main(arguments(tmp_path, vocabulary, only="shapes")) == 0
    after = contents(tmp_path / "out")
    assert before["train/shapes_only_red.source.bin"] != after["train/shapes_only_red.source.bin"]
    assert before["train/shapes_only_red.target.bin"] == after["train/shapes_only_red.target.bin"]


def test_what_was_changed_and_changed_back_is_built_again(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 0
    before = contents(tmp_path / "out")
    path = tmp_path / "templates/colors/templates.yaml"
    broken = "  k3: !Template {name: broken, jinja: '{{ missing }} ||| x', answer_choices: null, metadata: null}\n"
    path.write_text(TEMPLATES.replace("What is", "Which color has") + broken)
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 3
    path.write_text(TEMPLATES)
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 0
    assert contents(tmp_path / "out") == before


def test_changed_rows_are_built_again(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 0
    before = contents(tmp_path / "out")
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 0
    assert contents(tmp_path / "out") == before
    write_dataset(data_dir, "colors", train=color_rows(7))
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 0
    assert read_mixture(tmp_path / "out")["colors_which"]["examples"] == 7


def test_held_out_examples_go_with_their_split(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 0
    (data_dir / "colors/validation.jsonl").unlink()
    assert main(arguments(tmp_path, vocabulary, only="colors")) == 0
    assert not list((tmp_path / "out/valid").iterdir())


def test_another_vocabulary_is_not_replaced(
    tmp_path: Path, data_dir: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/dict.txt").write_text("a 1\n")
    assert main(arguments(tmp_path, vocabulary)) == 2
    assert "out/dict.txt: is of another vocabulary and would be replaced" in capsys.readouterr().err
    assert (tmp_path / "out/dict.txt").read_text() == "a 1\n"


def test_a_killed_build_continues_to_the_same_result(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    write_dataset(data_dir, "colors", train=color_rows(20_000))
    (tmp_path / "both.yaml").write_text("train: [shapes, colors]\n")
    killed = arguments(tmp_path, vocabulary, "killed", workers=2)
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune.cli", *killed],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=Path(__file__).parents[2],
    )
    out = tmp_path / "killed"
    deadline = time.monotonic() + 60
    # The first data set is done and the second has begun: kill the command and its workers at once.
    while not (out / "datasets/shapes.json").exists() or not list(out.glob("train/.colors*.tmp")):
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "mixture.json").exists()
    assert not list(out.glob("train/colors*"))
    done = (out / "train/shapes_which.source.bin").stat().st_mtime_ns
    assert main(killed) == 0
    assert (out / "train/shapes_which.source.bin").stat().st_mtime_ns == done
    assert main(arguments(tmp_path, vocabulary, "whole")) == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_p3_is_built_from_ready_rendered_text(tmp_path: Path, data_dir: Path, vocabulary: Path) -> None:
    for task in ("colors_which", "colors_only_red"):
        folder = data_dir / "bigscience/P3" / task
        folder.mkdir(parents=True)
        texts = [(f" {task} {i} ", " red ||| blue") for i in range(9)]
        rows = [{"answer_choices": ["red"], "inputs_pretokenized": x, "targets_pretokenized": y} for x, y in texts]
        pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
        pq.write_table(pa.Table.from_pylist(rows[:4]), folder / "validation.parquet")
    assert main(arguments(tmp_path, vocabulary, only="colors", source="p3")) == 0
    tokenizer = Tokenizer.load(vocabulary)
    target = TokenFile(tmp_path / "out/train/colors_which.target")
    assert [item.tolist() for item in target] == [[*tokenizer.encode("red ||| blue"), 2]] * 9
    assert read_mixture(tmp_path / "out")["colors_which"]["held_out_examples"] == 4


def test_show_and_list(tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--templates", str(tmp_path / "templates")]
    assert main(["show", "--dataset", "colors", "--rows", "2", "--data-dir", str(data_dir), *own]) == 0
    shown = capsys.readouterr().out
    assert "What is thing 4 very very very very ?" in shown
    assert "red | green | blue | yellow" in shown
    assert main(["list", "--dataset", "colors", *own]) == 0
    assert "colors_only_red" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert "464" in capsys.readouterr().out
    assert main(["list", "--mixture", "t0"]) == 0
    assert "fancyzhx/ag_news" in capsys.readouterr().out
