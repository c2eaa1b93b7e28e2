"""Rows by name: local files, the table of hub sources, and what is said when something is not there."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metro_t0.errors import UserError
from metro_t0.prompts import hub
from metro_t0.prompts.datasets import DatasetName, available_splits, load_rows, local_datasets
from metro_t0.prompts.hub import hub_source, hub_sources, rename_rows
from metro_t0.prompts.templates import load_templates

ROWS = [{"text": f"row {i} ünï", "label": i % 2, "parts": {"a": [i, i + 1]}} for i in range(7)]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "glue" / "mrpc"
    folder.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "train.jsonl").write_text(lines)
    with gzip.open(folder / "validation.jsonl.gz", "wt") as stream:
        stream.write(lines)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "test.parquet")
    return tmp_path


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_all_formats_give_the_same_rows(local: Path, split: str) -> None:
    rows = load_rows("glue", "mrpc", split, local)
    assert len(rows) == len(ROWS)
    assert list(rows) == ROWS
    assert rows[2:5] == ROWS[2:5]
    assert rows[::-2] == ROWS[::-2]
    assert rows[-1] == ROWS[-1]
    with pytest.raises(IndexError):
        rows[len(ROWS)]


def test_names_and_splits_of_a_directory(local: Path) -> None:
    assert local_datasets(local) == [DatasetName("glue", "mrpc")]
    assert available_splits("glue", "mrpc", local) == ["test", "train", "validation"]


def test_bad_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_bytes(b'{"a": 1}\n\n[1]\n{"a": \n\xff\xfe\n{"a": 2}')
    rows = load_rows("d", None, "train", tmp_path)
    assert list(rows) == [{"a": 1}, {"a": 2}]
    assert rows.num_bad == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("glue", "mrpcc", "train"), r"no data set glue/mrpcc .*nearest: glue/mrpc"),
        (("glue", "mrpc", "trian"), r"no split 'trian' of glue/mrpc; nearest: train"),
        (("glue", "mrpc", "dev_r1"), r"no split 'dev_r1' of glue/mrpc; it has: test, train, validation"),
    ],
)
def test_unknown_names_locally(local: Path, call: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_rows(*call, local)


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    for name, content in [
        ("a/train.jsonl", b"no json\n"),
        ("b/train.parquet", b"PAR1"),
        ("c/train.jsonl.gz", b"\x1f\x8b"),
    ]:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="train") as caught:
            load_rows(name[0], None, "train", tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such directory"):
        load_rows("a", None, "train", tmp_path / "nowhere")


def test_every_data_set_of_t0_has_a_source(spec_dir: Path) -> None:
    with (spec_dir / "t0_datasets.csv").open() as stream:
        names = {DatasetName(row["HF_name"], row["subset"] or None) for row in csv.DictReader(stream)}
    assert names <= hub_sources().keys()


def fake_hub(directory: Path) -> Callable[..., Any]:
    """`datasets.load_dataset` over small local parquet files laid out as ID/CONFIG/SPLIT.parquet."""
    real = datasets.load_dataset

    def load(id: str, config: str | None, split: str, revision: str | None) -> Any:
        files = {p.stem: str(p) for p in (directory / id / (config or "default")).glob("*.parquet")}
        return real("parquet", data_files=files, split=split, cache_dir=str(directory / "cache"))

    return load


def test_hub_rows_come_under_their_historical_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "CogComp/trec/default"
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist([{"text": "Who wrote it ?", "coarse_label": 3, "fine_label": 28}])
    pq.write_table(table, folder / "train.parquet")
    monkeypatch.setattr(datasets, "load_dataset", fake_hub(tmp_path))
    rows = load_rows("trec", None, "train")
    assert list(rows) == [{"text": "Who wrote it ?", "label_coarse": 3, "label_fine": 28}]
    rendered = load_templates("trec")["what_category_best_describe"].render(rows[0])
    assert rendered is not None
    assert rendered.target == "Person"
    with pytest.raises(UserError, match=r"data set trec \(hub id CogComp/trec\): Unknown split"):
        load_rows("trec", None, "validation")


def test_hyphens_in_columns_become_underscores() -> None:
    rows = rename_rows(pa.table({"label-coarse": [1], "b": [2]}), {"c": "b"})
    assert list(rows) == [{"label_coarse": 1, "c": 2}]


def test_an_unreachable_hub_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the hub\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        UserError, match=r"rotten_tomatoes.*cannot be loaded \(ConnectionError.*--data-dir DIR"
    ) as caught:
        hub.hub_rows(DatasetName("rotten_tomatoes"), "train")
    assert "\n" not in str(caught.value)


def test_unknown_hub_names() -> None:
    with pytest.raises(UserError, match=r"unknown data set rotten_tomato .*nearest: rotten_tomatoes"):
        hub_source(DatasetName("rotten_tomato"))
    assert hub_source(DatasetName("someone/something", "x")) == hub.HubSource("someone/something", "x")
    assert hub_source(DatasetName("someone", "something")) == hub.HubSource("someone/something")
    with pytest.raises(UserError, match="Story Cloze is given out only after"):
        hub_source(DatasetName("story_cloze", "2016"))
