"""binarize --part I/N on several machines, then joined: the bytes of one run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from metro_t0.claims import lock
from metro_t0.data import sources
from metro_t0.data.cli import main

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    f"sentence number {i} of a text about {word} and other things" for i in range(4000) for word in ("cats", "rain")
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("\n\n".join("\n".join(LINES[i : i + 8]) for i in range(0, len(LINES), 8)) + "\n")
    return path


@pytest.fixture(scope="module")
def vocabulary(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary")
    assert main(["tokenizer", str(corpus), "--vocab-size", "120", "--output", str(path), "--workers", "1"]) == 0
    return path


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "UNIT_BYTES", 1 << 15)


def binarize(corpus: Path, vocabulary: Path, output: Path, *more: str) -> int:
    fixed = ["--tokenizer", str(vocabulary), "--output", str(output), "--workers", "1", "--shards", "2"]
    return main(["binarize", str(corpus), *fixed, *more])


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def test_joined_parts_are_one_run(corpus: Path, vocabulary: Path, tmp_path: Path) -> None:
    assert binarize(corpus, vocabulary, tmp_path / "one") == 0
    parts = tmp_path / "parts"
    for number in (3, 1):  # in any order; the second is lost, and joining does its work
        assert binarize(corpus, vocabulary, parts, "--part", f"{number}/3") == 0
    units = {int(path.stem.rpartition("-")[2]) for path in (parts / ".binarize").glob("unit-*.npy")}
    assert len(units) > 4
    assert all(unit % 3 != 1 for unit in units)
    assert binarize(corpus, vocabulary, parts) == 0
    assert files(parts) == files(tmp_path / "one")
    assert binarize(corpus, vocabulary, parts, "--part", "2/3") == 0  # finished: nothing to do
    assert files(parts) == files(tmp_path / "one")


def test_what_is_refused(corpus: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("0/3", "4/3", "x", "1"):
        assert binarize(corpus, vocabulary, tmp_path / "wrong", "--part", wrong) == 2
    assert not (tmp_path / "wrong").exists()
    assert binarize(corpus, vocabulary, tmp_path / "wrong", "--part", "1/2", "--overwrite") == 2
    output = tmp_path / "busy"
    assert binarize(corpus, vocabulary, output, "--part", "1/2") == 0
    assert binarize(corpus, vocabulary, output, "--part", "2/2", "--valid-fraction", "0.5") == 2
    assert "belongs to other settings" in capsys.readouterr().err
    with lock(output / ".binarize" / "part-2-of-2"):  # another machine is encoding it
        assert binarize(corpus, vocabulary, output) == 2
        assert "already" in capsys.readouterr().err
    assert binarize(corpus, vocabulary, output) == 0


def test_slurm_array_is_one_line() -> None:
    script = str(ROOT / "scripts" / "cluster" / "binarize.sh")
    slurm = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "32", "SLURM_CPUS_PER_TASK": "16"}
    for more, end in ((slurm, "--workers 16 --part 7/32"), ({}, "--workers 1")):
        environment = {"PATH": "/usr/bin:/bin", "DRY_RUN": "1", **more}
        done = subprocess.run(
            [script, "a.txt", "--output", "D"], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == f"metro-t0-data binarize a.txt --output D {end}"
