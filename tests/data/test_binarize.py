"""metro-t0-data end to end: formats, fairseq's own preprocessing, workers, resume, bad input."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from binarize_runs import kill_when, tree

from metro_t0.data import binarize as binarize_module
from metro_t0.data import sources
from metro_t0.data.cli import main
from metro_t0.data.python_docs import documents
from metro_t0.data.token_files import TokenFile
from metro_t0.tokenization import Tokenizer

UNIT_BYTES = 1 << 16


@pytest.fixture(scope="module")
def corpus() -> list[list[str]]:
    return list(documents("builtin:python-docs?max_mb=0.5"))


@pytest.fixture(scope="module")
def text_file(corpus: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text("".join("\n".join(document) + "\n\n" for document in corpus), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def vocabulary(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary")
    status = main(["tokenizer", str(text_file), "--vocab-size", "800", "--output", str(path), "--workers", "1"])
    assert status == 0
    return path


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "UNIT_BYTES", UNIT_BYTES)


def binarize(inputs: object, vocabulary: Path, output: Path, *more: str, workers: int = 1) -> int:
    given = [str(each) for each in inputs] if isinstance(inputs, list) else [str(inputs)]
    arguments = ["binarize", *given, "--tokenizer", str(vocabulary), "--output", str(output)]
    return main([*arguments, "--workers", str(workers), *more])


def items(prefix: Path) -> list[list[int]]:
    return [item.tolist() for item in TokenFile(prefix)]


def expected_items(corpus: list[list[str]], tokenizer: Tokenizer) -> list[list[int]]:
    return [ids for document in corpus for ids in [*([*tokenizer.encode(line), 2] for line in document), [2]]]


def test_equal_to_fairseq_preprocess(
    text_file: Path, corpus: list[list[str]], vocabulary: Path, tmp_path: Path
) -> None:
    preprocess = pytest.importorskip("fairseq_cli.preprocess")
    tokenizer = Tokenizer.load(vocabulary)
    tokens = tokenizer.vocabulary.tokens()
    pieces = (" ".join(tokens[i] for i in tokenizer.encode(line)) for line in text_file.read_text().split("\n")[:-1])
    (tmp_path / "pieces").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    given = ["--only-source", "--dataset-impl", "mmap", "--srcdict", str(vocabulary / "dict.txt")]
    given += ["--trainpref", str(tmp_path / "pieces"), "--destdir", str(tmp_path / "theirs")]
    preprocess.main(preprocess.options.get_preprocessing_parser().parse_args(given))
    assert binarize(text_file, vocabulary, tmp_path / "ours", "--valid-fraction", "0") == 0
    for name in ("train.bin", "train.idx", "dict.txt"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_fairseq_cuts_it_into_blocks_within_documents(text_file: Path, vocabulary: Path, tmp_path: Path) -> None:
    fairseq_data = pytest.importorskip("fairseq.data")
    assert binarize(text_file, vocabulary, tmp_path / "data", "--valid-fraction", "0.1") == 0
    dictionary = fairseq_data.Dictionary.load(str(tmp_path / "data" / "dict.txt"))
    dataset = fairseq_data.data_utils.load_indexed_dataset(str(tmp_path / "data" / "valid"), dictionary)
    blocks = fairseq_data.TokenBlockDataset(
        dataset, dataset.sizes, 100_000, pad=1, eos=2, break_mode="complete_doc", document_sep_len=1
    )
    info = json.loads((tmp_path / "data" / "info.json").read_text())
    assert len(blocks) == info["sets"]["valid"]["documents"]


@pytest.mark.parametrize("kind", ["txt.gz", "txt.zst", "jsonl", "jsonl.zst", "parquet", "parquet.gz", "hf"])
def test_all_formats_give_the_same_tokens(
    kind: str, corpus: list[list[str]], text_file: Path, vocabulary: Path, tmp_path: Path
) -> None:
    texts = ["\n".join(document) for document in corpus]
    rows = "".join(json.dumps({"content": text, "id": index}) + "\n" for index, text in enumerate(texts)).encode()
    path: object = tmp_path / f"corpus.{kind}"
    if kind == "hf":
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "train.jsonl").write_bytes(rows)
        path = f"hf:{tmp_path / 'set'}:train"
    else:
        assert isinstance(path, Path)
        if kind.startswith("parquet"):
            pyarrow.parquet.write_table(pyarrow.table({"content": texts}), path, row_group_size=50)
            content = path.read_bytes()
        else:
            content = rows if kind.startswith("jsonl") else text_file.read_bytes()
        packed = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress}.get(kind.split(".")[-1], bytes)
        path.write_bytes(packed(content))
    assert binarize(path, vocabulary, tmp_path / "data", "--field", "content", "--valid-fraction", "0") == 0
    assert items(tmp_path / "data" / "train") == expected_items(corpus, Tokenizer.load(vocabulary))


def test_split_is_whole_documents_and_complete(
    text_file: Path, corpus: list[list[str]], vocabulary: Path, tmp_path: Path
) -> None:
    assert binarize(text_file, vocabulary, tmp_path / "data", "--valid-fraction", "0.2", "--shards", "3") == 0
    tokenizer = Tokenizer.load(vocabulary)

    def documents_of(prefix: Path) -> list[list[list[int]]]:
        found: list[list[list[int]]] = [[]]
        for item in items(prefix):
            if item == [2]:
                found.append([])
            else:
                found[-1].append(item)
        assert found.pop() == []
        return found

    sets = [documents_of(tmp_path / "data" / f"shard{i}" / "train") for i in range(3)]
    sets.append(documents_of(tmp_path / "data" / "shard0" / "valid"))
    assert all(len(each) > len(corpus) / 10 for each in sets)
    expected = [[[*tokenizer.encode(line), 2] for line in document] for document in corpus]
    assert sorted(document for each in sets for document in each) == sorted(expected)
    for shard in ("shard1", "shard2"):
        for name in ("valid.bin", "valid.idx", "dict.txt", "tokenizer.json"):
            assert (tmp_path / "data" / shard / name).read_bytes() == (tmp_path / "data/shard0" / name).read_bytes()


def test_own_validation_inputs(text_file: Path, corpus: list[list[str]], vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / "valid.txt").write_text("Held out.\n\nAnother one.\n")
    assert binarize(text_file, vocabulary, tmp_path / "data", "--valid", str(tmp_path / "valid.txt")) == 0
    tokenizer = Tokenizer.load(vocabulary)
    assert items(tmp_path / "data" / "valid") == expected_items([["Held out."], ["Another one."]], tokenizer)
    assert items(tmp_path / "data" / "train") == expected_items(corpus, tokenizer)


def test_result_does_not_depend_on_workers_and_is_not_made_twice(
    text_file: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = ["--valid-fraction", "0.2"]
    assert binarize(text_file, vocabulary, tmp_path / "one", *share) == 0
    assert binarize(text_file, vocabulary, tmp_path / "two", *share, workers=2) == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    before = (tmp_path / "one" / "train.bin").stat().st_mtime_ns
    assert binarize(text_file, vocabulary, tmp_path / "one", *share) == 0
    assert (tmp_path / "one" / "train.bin").stat().st_mtime_ns == before
    (tmp_path / "one" / "valid.bin").unlink()  # a data set that has lost a file is not finished
    assert binarize(text_file, vocabulary, tmp_path / "one", *share) == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    before = (tmp_path / "one" / "train.bin").stat().st_mtime_ns
    assert binarize(text_file, vocabulary, tmp_path / "one", *share, "--shards", "2") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert binarize(text_file, vocabulary, tmp_path / "one", "--valid-fraction", "0.3", "--overwrite") == 0
    assert (tmp_path / "one" / "train.bin").stat().st_mtime_ns != before


@pytest.mark.skipif(sys.platform != "linux", reason="other processes inherit the changed function by fork")
def test_a_worker_that_is_killed_loses_no_finished_unit(
    text_file: Path,
    vocabulary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    share = ["--valid-fraction", "0.2"]
    encode, units = binarize_module.encode_unit, []
    with monkeypatch.context() as patch:
        patch.setattr(binarize_module, "encode_unit", lambda *given: units.append(given) or encode(*given))
        assert binarize(text_file, vocabulary, tmp_path / "whole", *share) == 0
        last = units[-1][0]
        patch.setattr(
            binarize_module,
            "encode_unit",
            lambda *given: os.kill(os.getpid(), signal.SIGKILL) if given[0] == last else encode(*given),
        )
        assert binarize(text_file, vocabulary, tmp_path / "cut", *share, workers=2) == 2
        error = capsys.readouterr().err
        assert "a worker process was killed (out of memory?); run the command again, with fewer --workers" in error
        assert "Traceback" not in error
        assert list((tmp_path / "cut" / ".binarize").glob("unit-*.npy"))
        patch.setattr(binarize_module, "encode_unit", encode)
        assert binarize(text_file, vocabulary, tmp_path / "cut", *share) == 0
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_killed_run_goes_on_with_its_finished_units(
    text_file: Path, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binarize_module, "UNIT_BYTES", UNIT_BYTES)  # where it is written down
    share = ["--valid-fraction", "0.2"]
    arguments = ["binarize", str(text_file), "--tokenizer", str(vocabulary), "--output", str(tmp_path / "cut"), *share]
    work = tmp_path / "cut" / ".binarize"
    kill_when(lambda: len(list(work.glob("unit-*.npy"))) >= 2, [*arguments, "--workers", "1"], UNIT_BYTES)
    finished = len(list(work.glob("unit-*.npy")))
    assert finished >= 2
    assert not (tmp_path / "cut" / "train.bin").exists()

    encoded = []
    encode = binarize_module.encode_unit
    monkeypatch.setattr(binarize_module, "encode_unit", lambda *given: encoded.append(given) or encode(*given))
    assert binarize(text_file, vocabulary, tmp_path / "whole", *share) == 0
    units = len(encoded)
    encoded.clear()
    assert binarize(text_file, vocabulary, tmp_path / "cut", *share) == 0
    assert len(encoded) == units - finished
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_bad_lines_are_skipped_counted_and_named(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes(b"First line.\nbroken \xff line\nSecond line.\n\nNew document.\n\xfe\n")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "From JSON."}\n{"text": 3}\nno json\n[1]\n')
    inputs = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    assert binarize(inputs, vocabulary, tmp_path / "data", "--valid-fraction", "0") == 0
    expected = [["First line.", "Second line."], ["New document."], ["From JSON."]]
    assert items(tmp_path / "data" / "train") == expected_items(expected, Tokenizer.load(vocabulary))
    info = json.loads((tmp_path / "data" / "info.json").read_text())
    assert info["bad_lines"] == {"not UTF-8": 2, "field missing or not a string": 2, "not JSON": 1}
    printed = capsys.readouterr().out
    assert "skipped 2 lines: not UTF-8" in printed
    assert f"{tmp_path / 'a.txt'}:2: not UTF-8" in printed.replace("\n", "")


def test_info_tells_what_is_there(text_file: Path, corpus: list[list[str]], vocabulary: Path, tmp_path: Path) -> None:
    assert binarize(text_file, vocabulary, tmp_path / "data", "--valid-fraction", "0") == 0
    info = json.loads((tmp_path / "data" / "info.json").read_text())
    train, counts = items(tmp_path / "data" / "train"), info["sets"]["train"]
    assert counts["documents"] == len(corpus)
    assert counts["items"] == len(train)
    assert counts["tokens"] == sum(map(len, train))
    assert counts["unknown"] == sum(item.count(3) for item in train)
    assert counts["unknown_rate"] < 0.001
    assert set(info["sha256"]) == {"dict.txt", "tokenizer.json", "train.bin", "train.idx"}


def test_inspect_prints_text(
    text_file: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.txt").write_text("One line (only).\n\nThe second.\n")
    assert binarize(tmp_path / "small.txt", vocabulary, tmp_path / "data", "--valid-fraction", "0") == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "data"), "--documents", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["One line ( only ).", ""]


BAD_INPUTS = {
    "missing": (["nowhere.txt"], "nowhere.txt: no such file"),
    "empty glob": (["nothing-*.txt"], "no such file"),
    "empty": (["empty.txt"], "empty file"),
    "blank": (["blank.txt"], "holds no text"),
    "binary": (["binary.txt"], "not UTF-8"),
    "suffix": (["notes.pdf"], "unknown format '.pdf'"),
    "directory": (["."], "not a file"),
    "broken gz": (["broken.txt.gz"], "ends too early"),
    "broken zst": (["broken.txt.zst"], "cannot be decompressed"),
    "broken parquet": (["broken.parquet"], "not a parquet file"),
    "column": (["rows.parquet"], "no column 'text'; --field is one of body"),
    "builtin": (["builtin:python-dox"], "did you mean python-docs"),
    "one document": (["one.txt"], "held out"),
    "few for shards": (["one.txt", "--valid-fraction", "0", "--shards", "4"], "too few for 4 training shards"),
    "fraction": (["one.txt", "--valid-fraction", "1.5"], "must be below 1"),
    "tokenizer": (["one.txt", "--tokenizer", "nowhere"], "dict.txt: no such file"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_gives_one_line_and_no_output(
    case: str, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("blank.txt").write_text(" \n\n \n")
    Path("binary.txt").write_bytes(b"\xff\x00\n\xff")
    Path("notes.pdf").write_text("x")
    Path("one.txt").write_text("A single document.\n")
    Path("broken.txt.gz").write_bytes(gzip.compress(b"hello " * 100)[:30])
    Path("broken.txt.zst").write_bytes(b"not zstd at all")
    Path("broken.parquet").write_bytes(b"PAR1 no")
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), "rows.parquet")
    arguments, message = BAD_INPUTS[case]
    assert main(["binarize", "--tokenizer", str(vocabulary), "--output", "out", "--workers", "1", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("binarize: ")]
    assert len(lines) == 1
    assert lines[0].startswith("metro-t0-data binarize: error: ")
    assert message in lines[0]
    assert not Path("out").exists()


def test_vocabulary_larger_than_the_text_gives(
    tmp_path: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tokenizer", str(text_file), "--vocab-size", "900000", "--workers", "1"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert "larger than the text can give" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_long_documents_and_windows_line_ends(
    vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_DOCUMENT_BYTES", 1 << 17)
    line = "The same words again and again. " * 20
    (tmp_path / "long.txt").write_bytes(b"\r\n".join([line.encode()] * 600) + b"\r\n\r\nEnd.\r\n")
    assert binarize(tmp_path / "long.txt", vocabulary, tmp_path / "data", "--valid-fraction", "0") == 0
    tokenizer = Tokenizer.load(vocabulary)
    found = [item for item in items(tmp_path / "data" / "train") if item != [2]]
    assert found == [[*tokenizer.encode(line), 2]] * 600 + [[*tokenizer.encode("End."), 2]]


def test_a_row_of_json_is_never_cut(vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_DOCUMENT_BYTES", 1 << 17)
    texts = ["First.", "the same words again and again " * (1 << 14), "Last."]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert binarize(tmp_path / "rows.jsonl", vocabulary, tmp_path / "data", "--valid-fraction", "0") == 0
    assert items(tmp_path / "data" / "train") == expected_items([[text] for text in texts], Tokenizer.load(vocabulary))


def test_overwriting_leaves_nothing_of_the_data_set_before(vocabulary: Path, tmp_path: Path) -> None:
    """Neither a validation set nor shards that a run would then train on; what is not of a data set stays."""
    (tmp_path / "text.txt").write_text("".join(f"Document {number}.\n\n" for number in range(60)))
    output = tmp_path / "data"

    def names_after(*settings: str) -> set[str]:
        assert binarize(tmp_path / "text.txt", vocabulary, output, *settings, "--overwrite") == 0
        assert main(["verify", str(output)]) == 0
        return set(tree(output))

    one = {"dict.txt", "tokenizer.json", "train.bin", "train.idx"}
    shards = {f"shard{number}/{name}" for number in range(3) for name in one}
    output.mkdir()
    (output / "notes.md").touch()
    kept = {"info.json", "notes.md"}
    assert names_after("--valid-fraction", "0.2") == kept | one | {"valid.bin", "valid.idx"}
    info = json.loads((output / "info.json").read_text())
    info["sha256"] |= {"notes.md": "", "../text.txt": ""}  # as of an earlier version, and of a stranger
    (output / "info.json").write_text(json.dumps(info))
    assert names_after("--valid-fraction", "0", "--shards", "3") == kept | shards
    assert names_after("--valid-fraction", "0") == kept | one
    assert not (output / "shard0").exists()
    assert (tmp_path / "text.txt").is_file()


def test_a_vocabulary_says_which_lines_it_did_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9 au lait\n" * 4 + b"plain text\n" * 9)
    arguments = ["tokenizer", str(tmp_path / "latin1.txt"), "--vocab-size", "14", "--workers", "1"]
    assert main([*arguments, "--output", str(tmp_path / "vocabulary")]) == 0
    printed = capsys.readouterr().out
    assert "skipped 4 lines: not UTF-8" in printed
    assert f"{tmp_path / 'latin1.txt'}:1: not UTF-8" in printed


def start(inputs: Path, vocabulary: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    program = "import sys; from metro_t0.data.cli import main; sys.exit(main(sys.argv[1:]))"
    given = ["--tokenizer", str(vocabulary), "--output", str(output), "--workers", "2", *more]
    return subprocess.Popen(
        [sys.executable, "-c", program, "binarize", str(inputs), *given],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def test_two_runs_into_one_directory_do_not_mix(corpus: list[list[str]], vocabulary: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.txt"
    large.write_text("".join("\n".join(document) + "\n\n" for document in corpus) * 40, encoding="utf-8")
    first = start(large, vocabulary, tmp_path / "out", "--valid-fraction", "0.1")
    while not list(tmp_path.glob("out/.binarize/unit-*.npy")):
        assert first.poll() is None
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)  # it may be faster than the second starts
    second = start(large, vocabulary, tmp_path / "out", "--valid-fraction", "0.2", "--overwrite")
    _, error = second.communicate()
    first.send_signal(signal.SIGCONT)
    assert (second.returncode, "in use by process" in error) == (2, True), error
    first.communicate()
    assert first.returncode == 0
    assert binarize(large, vocabulary, tmp_path / "alone", "--valid-fraction", "0.1") == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")


def test_a_unit_of_other_settings_is_not_merged(text_file: Path, vocabulary: Path, tmp_path: Path) -> None:
    from metro_t0.data.units import EncodedUnit, load_unit, save_unit
    from metro_t0.errors import UserError

    save_unit(EncodedUnit({}), tmp_path / "unit-00000000.npy", "these")
    with pytest.raises(UserError, match="made with other settings"):
        load_unit(tmp_path / "unit-00000000.npy", "those")
