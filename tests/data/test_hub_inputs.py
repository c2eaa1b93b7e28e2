"""Data sets of several files (`hf:`): read in shares, and not read again."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from binarize_runs import kill_when, tree

from metro_t0.data import binarize, hub, sources
from metro_t0.data.cli import main
from metro_t0.tokenization.settings import BpeSettings
from metro_t0.tokenization.training import train_bpe

FILES = 5
UNIT_BYTES = 1 << 12


def write_file(directory: Path, number: int) -> None:
    """A file of C4's name and form; the last is longer than the others."""
    rows = [
        {"text": f"file {number} row {row} about rain\nand a second line of it", "url": "u"}
        for row in range(400 if number == FILES - 1 else 150)
    ]
    rows[3]["text"] = "a zero \0 byte"  # is left out and named
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (directory / f"train-{number:05d}-of-{FILES:05d}.json.gz").write_bytes(gzip.compress(content))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "set"
    path.mkdir()
    for number in range(FILES):
        write_file(path, number)
    return path


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary")
    words = dict.fromkeys(["file", "row", "about", "rain", "second", "line", *"0123456789"], 50)
    train_bpe(words, BpeSettings(vocab_size=60), path)
    return path


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sources, binarize):  # where it is used, and where it is written down
        monkeypatch.setattr(module, "UNIT_BYTES", UNIT_BYTES)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the files that this process has read a row of."""
    seen: list[int] = []
    column = hub.column

    def counted(*given: Any) -> Iterator[Any]:
        for text in column(*given):
            if " row 0 " in text:
                seen.append(int(text.split()[1]))
            yield text

    monkeypatch.setattr(hub, "column", counted)
    return seen


def test_a_local_data_set_that_changed_is_not_taken_for_finished(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local, output = tmp_path / "set", tmp_path / "out"
    local.mkdir()
    write_file(local, 0)
    assert main(arguments(local, vocabulary, output)) == 0
    assert main(arguments(local, vocabulary, output)) == 0  # finished, nothing is done
    write_file(local, 1)
    capsys.readouterr()
    assert main(arguments(local, vocabulary, output)) == 2
    assert "belongs to other settings (local_inputs" in capsys.readouterr().err
    assert main([*arguments(local, vocabulary, output), "--overwrite"]) == 0
    documents = json.loads((output / "info.json").read_text())["sets"].values()
    assert sum(each["documents"] for each in documents) == 2 * 149


def test_sound_beside_the_text_is_not_decoded(tmp_path: Path) -> None:
    columns = {"text": datasets.Value("string"), "sound": datasets.Audio()}
    schema = datasets.Features(columns).arrow_schema
    rows = [{"text": "rain", "sound": {"bytes": b"no sound", "path": None}}]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "train.parquet")
    (unit,) = sources.Input(f"hf:{tmp_path}", "text").units()
    assert unit.content == ["rain"]


def test_text_of_a_column_of_several_types_has_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "rain"}\n{"text": ["no", "text"]}\n{"text": {"no": 1}}\n')
    (unit,) = sources.Input(f"hf:{tmp_path}", "text").units()
    assert unit.content == ["rain", "", ""]


def arguments(directory: Path, vocabulary: Path, output: Path, *more: object) -> list[str]:
    fixed = ["--tokenizer", vocabulary, "--output", output, "--valid-fraction", "0.1"]
    return list(map(str, ["binarize", f"hf:{directory}", *fixed, *more]))


@pytest.fixture(scope="module")
def whole(directory: Path, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes."""
    output = tmp_path_factory.mktemp("whole") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "UNIT_BYTES", UNIT_BYTES)
        patch.setattr(binarize, "UNIT_BYTES", UNIT_BYTES)
        assert main(arguments(directory, vocabulary, output, "--workers", 1)) == 0
    return tree(output)


@pytest.mark.parametrize("processes", [2, FILES + 1])  # the files are read by them, or by the first of them
def test_processes_write_the_same(
    directory: Path, vocabulary: Path, tmp_path: Path, whole: dict[str, bytes], processes: int
) -> None:
    assert main(arguments(directory, vocabulary, tmp_path / "data", "--workers", processes)) == 0
    assert tree(tmp_path / "data") == whole
    info = json.loads(whole["info.json"])
    assert info["bad_lines"] == {"NUL bytes": FILES}
    assert info["bad_line_examples"][1] == f"hf:{directory} file 2:4: NUL bytes"


def test_parts_read_their_own_files_and_joining_reads_none(
    directory: Path, vocabulary: Path, tmp_path: Path, whole: dict[str, bytes], read: list[int]
) -> None:
    for part, files in (("2/2", [1, 3]), ("1/2", [0, 2, 4])):
        more = ["--workers", 1, "--part", part]
        assert main(arguments(directory, vocabulary, tmp_path / "data", *more)) == 0
        assert read == files
        read.clear()
    assert main(arguments(directory, vocabulary, tmp_path / "data", "--workers", 1)) == 0
    assert read == []
    assert tree(tmp_path / "data") == whole


def test_more_parts_than_files_share_what_is_in_them(
    directory: Path, vocabulary: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    counts = []
    for part in range(1, 8):
        assert main(arguments(directory, vocabulary, tmp_path / "data", "--workers", 1, "--part", f"{part}/7")) == 0
        counts.append(len(list(tmp_path.glob("data/.binarize/unit-*.npy"))))
    assert sorted(set(counts)) == counts, "every part has done something"
    assert main(arguments(directory, vocabulary, tmp_path / "data", "--workers", 1)) == 0
    assert tree(tmp_path / "data") == whole


def test_a_source_that_fails_loses_nothing(
    directory: Path,
    vocabulary: Path,
    tmp_path: Path,
    read: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    local = tmp_path / "set"
    local.mkdir()
    for number in range(FILES):
        write_file(local, number)
    damaged = local / f"train-00003-of-{FILES:05d}.json.gz"
    damaged.write_bytes(damaged.read_bytes()[:-300])
    assert main(arguments(local, vocabulary, tmp_path / "data", "--workers", 1)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"hf:{local}: cannot be read" in error
    assert read[:3] == [0, 1, 2]
    read.clear()
    write_file(local, 3)
    assert main(arguments(local, vocabulary, tmp_path / "data", "--workers", 1)) == 0
    assert read == [3, 4]
    assert main(arguments(local, vocabulary, tmp_path / "again", "--workers", 1)) == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "again")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_after_kill_finished_files_are_not_read_again(
    directory: Path, vocabulary: Path, tmp_path: Path, whole: dict[str, bytes], read: list[int]
) -> None:
    work = tmp_path / "data" / ".binarize"
    run = arguments(directory, vocabulary, tmp_path / "data", "--workers", 2)
    kill_when(lambda: any(work.glob("section-*.json")), run, UNIT_BYTES)
    finished = {int(path.stem.rpartition("-")[2]) for path in work.glob("section-*.json")}
    assert finished
    assert main(arguments(directory, vocabulary, tmp_path / "data", "--workers", 1)) == 0
    assert read == [number for number in range(FILES) if number not in finished]
    assert tree(tmp_path / "data") == whole
