"""Rows by name: local files, the table of hub sources, and what is said when something is not there."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metro_t0.data.sources import Input
from metro_t0.errors import UserError
from metro_t0.prompts.datasets import DatasetName, available_splits, is_local, load_rows, local_datasets
from metro_t0.prompts.hub import hub_sources
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


def test_columns_of_several_types_hold_values_not_their_json(tmp_path: Path) -> None:
    """As `datasets` gives them (its feature Json), in a record of a list, too; and as text of a corpus."""
    json_type = datasets.Json()
    features = {"text": json_type, "parts": datasets.List({"a": json_type})}
    rows = [{"text": "rain", "parts": [{"a": {"b": 1}}, {"a": None}]}, {"text": [1], "parts": None}]
    path = tmp_path / "mine/train.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_list(rows, datasets.Features(features)).to_parquet(path)
    loaded = load_rows("mine", None, "train", tmp_path)
    assert list(loaded) == loaded[:] == [loaded[0], loaded[1]] == rows
    (unit,) = Input(str(path), "text").units()
    assert unit.content == ["rain", ""]


def test_a_directory_is_searched_before_the_hub(local: Path) -> None:
    """What it has is taken from it; for the rest the message names both places."""
    assert is_local(DatasetName("glue", "mrpc"), local)
    assert not is_local(DatasetName("imdb"), local)
    assert is_local(DatasetName("embedded", "next_part"), None)
    with pytest.raises(UserError, match=r"no data set imdb \(looked for .*; nor on the hub: .*--data-dir DIR"):
        load_rows("imdb", None, "train", local)
    with pytest.raises(UserError, match=r"no data set imdb .*; nor on the hub: "):
        available_splits("imdb", None, local)


def test_names_and_splits_of_a_directory(local: Path) -> None:
    assert local_datasets(local) == [DatasetName("glue", "mrpc")]
    assert available_splits("glue", "mrpc", local) == ["test", "train", "validation"]
    (local / "glue/mrpc/train.jsonl.zst").touch()
    with pytest.raises(UserError, match=r"train\.jsonl.* and train\.jsonl\.zst are one split"):
        available_splits("glue", "mrpc", local)


def test_bad_lines_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.jsonl").write_bytes(b'{"a": 1}\n\n[1]\n{"a": \n\xff\xfe\n{"a": 2}')
    rows = load_rows("d", None, "train", tmp_path)
    assert list(rows) == [{"a": 1}, {"a": 2}]
    assert rows.num_bad == 3  # type: ignore[attr-defined]
    assert "train.jsonl: 3 lines are no JSON objects and are left out" in caplog.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("glue", "mrpcc", "train"), r"no data set glue/mrpcc .*did you mean glue/mrpc"),
        (("glue", "mrpc", "trian"), r"no split 'trian' of glue/mrpc; did you mean train"),
        (("glue", "mrpc", "dev_r1"), r"no split 'dev_r1' of glue/mrpc; choose one of test, train, validation"),
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


T0_TABLE = Path(__file__).parents[2] / "finetune/mixtures/t0_datasets.csv"


def test_every_data_set_of_t0_has_a_source_of_its_size() -> None:
    with T0_TABLE.open() as stream:
        for row in csv.DictReader(stream):
            source = hub_sources()[DatasetName(row["HF_name"], row["subset"] or None)]
            if row["train_size"] and not source.manual:
                train = [counts for split, counts in source.rows.items() if split.startswith("train")]
                assert int(row["train_size"]) == sum(max(counts) for counts in train), row["HF_name"]


def test_every_data_set_has_a_license_and_the_columns_of_its_templates() -> None:
    for name, source in hub_sources().items():
        assert source.license, name
        if ("NC" in source.license or "non-commercial" in source.license) and not source.manual:
            assert source.noncommercial, name
        if not source.manual and name.name != "mmlu":
            templates = load_templates(name.name, name.subset).values()
            assert frozenset().union(*(template.required_columns for template in templates)) <= source.columns.keys()
