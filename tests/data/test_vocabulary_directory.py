"""metro-t0-data tokenizer over a directory that holds a vocabulary already."""

from __future__ import annotations

from pathlib import Path

import pytest

from metro_t0.data.cli import main
from metro_t0.synthetic.cli import main as synthetic


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 20, encoding="utf-8")
    return path


def run(text: Path, *more: str) -> int:
    return main(
        ["tokenizer", str(text), "--vocab-size", "40", "--workers", "1", "--output", str(text.parent / "v"), *more]
    )


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def test_only_overwrite_replaces_another_vocabulary(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(text) == 0
    before = contents(text.parent / "v")
    assert run(text) == 0
    assert contents(text.parent / "v") == before  # finished already
    assert run(text, "--vocab-size", "35") == 2
    assert "belongs to other settings (vocab_size 40 -> 35); name another directory or add --overwrite" in (
        capsys.readouterr().err
    )
    assert run(text, "--vocab-size", "9", "--overwrite") == 2  # too small: the old one stays
    assert contents(text.parent / "v") == before
    assert run(text, "--vocab-size", "35", "--overwrite") == 0
    assert len((text.parent / "v" / "dict.txt").read_text(encoding="utf-8").splitlines()) == 31
    assert run(text, "--vocab-size", "35") == 0


def test_a_vocabulary_of_files_that_changed_is_not_taken_for_finished(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = text.parent / "set"
    directory.mkdir()
    text.rename(directory / "train.txt")
    spec = Path(f"hf:{directory}")
    vocabulary = str(text.parent / "v")
    assert run(spec, "--output", vocabulary) == run(spec, "--output", vocabulary) == 0
    (directory / "train.txt").write_text("other words\n", encoding="utf-8")
    assert run(spec, "--output", vocabulary) == 2
    assert "belongs to other settings (local_inputs" in capsys.readouterr().err


def test_a_vocabulary_from_elsewhere_is_kept(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(text) == 0
    (text.parent / "v" / "vocabulary.json").unlink()
    before = contents(text.parent / "v")
    assert run(text) == 2
    assert "holds a vocabulary of another origin" in capsys.readouterr().err
    assert contents(text.parent / "v") == before


def test_other_commands_replace_no_vocabulary(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(text) == run(text, "--vocab-size", "35", "--output", str(text.parent / "w")) == 0
    before = contents(text.parent / "w")
    binarize = ["binarize", str(text), "--tokenizer", str(text.parent / "v"), "--valid-fraction", "0", "--workers", "1"]
    generate = ["generate", "set", "--vocabulary", "compact:100", "--train", "8", "--valid", "8", "--length-max", "12"]
    for command, options in ((main, binarize), (synthetic, generate)):
        assert command([*options, "--output", str(text.parent / "w")]) == 2
        assert "w/dict.txt: is of another vocabulary and would be replaced; " in capsys.readouterr().err
        assert contents(text.parent / "w") == before
