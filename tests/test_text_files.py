"""Damaged, truncated and foreign files end alike in everything that reads text; odd characters are handled alike."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from eval.mmlu import load_passages
from eval.passages import FileCollection
from metro_t0.data.documents import HAS_NUL, BadLines, documents
from metro_t0.data.pairs import read_pairs
from metro_t0.data.sources import Input
from metro_t0.errors import UserError
from metro_t0.prompts.rows import JsonLines
from metro_t0.text_files import open_bytes, open_text, parse_json, read_lines


def corpus_of(path: Path) -> list[list[str]]:
    bad = BadLines()
    return [document for unit in Input(str(path), "text").units() for document in documents(unit, bad)]


def pair_of(path: Path) -> Any:
    return read_pairs(path)


def passages_of(path: Path) -> Any:
    return list(FileCollection(path))


READERS: dict[str, tuple[Callable[[Path], Any], str, Callable[[str], dict[str, Any]]]] = {
    "corpus .txt": (corpus_of, ".txt", lambda text: {}),
    "corpus .jsonl": (corpus_of, ".jsonl", lambda text: {"text": text}),
    "tasks": (lambda path: list(JsonLines.read(path)), ".jsonl", lambda text: {"text": text}),
    "pairs": (pair_of, ".jsonl", lambda text: {"source": text, "target": "x"}),
    "passages": (passages_of, ".jsonl", lambda text: {"text": text}),
    "retrieved": (load_passages, ".jsonl", lambda text: {"key": text, "passages": [{"text": text}]}),
}


def file_for(reader: str, directory: Path, texts: list[str]) -> Path:
    _, suffix, row = READERS[reader]
    lines = texts if suffix == ".txt" else [json.dumps(row(text), ensure_ascii=False) for text in texts]
    path = directory / f"file{suffix}"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def texts() -> list[str]:
    letters = random.Random(0)
    return [f"{number} " + "".join(letters.choices("abcdefgh ", k=300)) for number in range(600)]


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncated_and_damaged_files_are_refused(reader: str, suffix: str, texts: list[str], tmp_path: Path) -> None:
    plain = file_for(reader, tmp_path, texts)
    read = READERS[reader][0]
    # Two members or frames, as `cat a.zst b.zst` and parallel packers make them.
    content = plain.read_bytes()
    half = content.find(b"\n", len(content) // 2) + 1
    pack = gzip.compress if suffix == ".gz" else zstandard.ZstdCompressor(write_checksum=True).compress
    members = [pack(content[:half]), pack(content[half:])]
    packed = plain.with_name(plain.name + suffix)
    packed.write_bytes(b"".join(members))
    assert read(packed) == read(plain)
    whole = packed.read_bytes()
    for kept in (len(members[0]) // 3, len(members[0]) - 2, len(members[0]) + 9, len(whole) - 3):
        packed.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=f"file.*{suffix}: ends too early"):
            read(packed)
    packed.write_bytes(whole[: len(whole) // 2] + bytes(99) + whole[len(whole) // 2 + 99 :])
    with pytest.raises(UserError, match=f"file.*{suffix}: cannot be decompressed"):
        read(packed)
    packed.write_bytes(plain.read_bytes())
    with pytest.raises(UserError, match=f"file.*{suffix}: cannot be decompressed"):
        read(packed)
    plain.write_bytes(whole)
    with pytest.raises(UserError, match="is packed"):
        read(plain)
    packed.write_bytes(pack(whole))
    with pytest.raises(UserError, match="is packed twice"):
        read(packed)


def test_a_byte_order_mark_is_left_out_and_wide_encodings_are_refused(reader: str, tmp_path: Path) -> None:
    plain = file_for(reader, tmp_path, ["one", "tw\u00f6"])
    read = READERS[reader][0]
    expected = read(plain)
    content = plain.read_text(encoding="utf-8")
    plain.write_text(content, encoding="utf-8-sig")
    assert read(plain) == expected
    for encoding, name in (("utf-16", "UTF-16"), ("utf-32", "UTF-32")):
        plain.write_text(content, encoding=encoding)
        with pytest.raises(UserError, match=f"is {name}, not UTF-8; convert it: iconv -f {name}"):
            read(plain)
    plain.write_text(content, encoding="utf-16-le")  # without a mark
    with contextlib.suppress(UserError):
        assert not read(plain)  # binarize refuses an input without text


@pytest.mark.parametrize("name", ["pairs", "passages", "retrieved"])
def test_files_that_are_meant_whole_name_the_line_that_is_not_text(name: str, tmp_path: Path) -> None:
    for bad, message in ((b'{"text": "\xff"}\n', "not UTF-8"), (b'{"text": "\0"}\n', "NUL")):
        path = file_for(name, tmp_path, ["one"])
        path.write_bytes(path.read_bytes() + bad)
        with pytest.raises(UserError, match=f"file.jsonl:2: .*{message}"):
            READERS[name][0](path)


def test_half_a_surrogate_pair_becomes_the_replacement_character(tmp_path: Path) -> None:
    for name, (read, suffix, row) in READERS.items():
        if suffix == ".jsonl":
            path = tmp_path / "file.jsonl"
            path.write_text(json.dumps(row("a \ud800 b \U0001f600")) + "\n")
            assert "'a \ufffd b \U0001f600'" in repr(read(path)), name
    assert parse_json('{"a": ["\\ud800", {"\\udc00": 1}]}') == {"a": ["\ufffd", {"\ufffd": 1}]}


def parquet_of(path: Path, texts: list[str]) -> Path:
    pyarrow.parquet.write_table(pa.table({"text": texts}), path)
    return path


def all_formats(directory: Path, text: str) -> Iterator[Path]:
    (directory / "a.txt").write_text(text, encoding="utf-8", newline="")
    yield directory / "a.txt"
    (directory / "a.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    yield directory / "a.jsonl"
    yield parquet_of(directory / "a.parquet", [text])


def test_one_rule_ends_a_paragraph_in_every_format(tmp_path: Path) -> None:
    text = "One\vtwo\fthree\x1cfour\x85five\u2028six\u2029seven\rEight.\nNine.\r\nTen."
    for path in all_formats(tmp_path, text):
        (paragraphs,) = corpus_of(path)
        assert [paragraph.rstrip("\r") for paragraph in paragraphs] == [text.split("\n")[0], "Nine.", "Ten."], path


def test_lines_with_nul_bytes_are_left_out_and_counted_in_every_format(tmp_path: Path) -> None:
    for path in all_formats(tmp_path, "with a \0 byte"):
        bad = BadLines()
        found = [document for unit in Input(str(path), "text").units() for document in documents(unit, bad)]
        assert (found, dict(bad.counts)) == ([], {HAS_NUL: 1}), path


def test_a_damaged_parquet_file_is_one_line(tmp_path: Path) -> None:
    path = parquet_of(tmp_path / "a.parquet", [f"text {number}" * 9 for number in range(5000)])
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:9] + bytes(500) + whole[509:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.parquet: (not a parquet file|damaged)"):
            corpus_of(path)


def test_padding_after_a_member_and_empty_members_are_no_fault(tmp_path: Path) -> None:
    for suffix, pack in ((".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress)):
        path = tmp_path / f"a.txt{suffix}"
        path.write_bytes(pack(b"one\n") + pack(b"") + pack(b"two\n") + bytes(1000))
        with open_bytes(path) as stream:
            assert stream.read() == b"one\ntwo\n"
        path.write_bytes(b"")
        with open_text(path) as stream:
            assert stream.read() == b""


def test_lines_have_their_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\r\n\n  \ntwo")
    assert list(read_lines(tmp_path / "a")) == [(f"{tmp_path}/a:1", "one"), (f"{tmp_path}/a:4", "two")]
