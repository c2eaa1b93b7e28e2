"""Text and passages from the stand-in of the hub: one commit for all parts of a job, and files fetched once."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
from hub_processes import started
from hub_server import Hub, Repository, Server

from metro_t0.data.token_files import TokenFile
from metro_t0.tokenization import Tokenizer
from metro_t0.tokenization.settings import BpeSettings
from metro_t0.tokenization.training import train_bpe

ID = "allenai/c4"
CARD = b"---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/c4-train.*.json\n---\n"


def files(word: str) -> dict[str, bytes]:
    """Four files as the card of allenai/c4 names them, and one of another configuration."""
    rows = {number: {"text": f"{word} {number}", "timestamp": "t", "url": "u"} for number in range(4)}
    data = {f"en/c4-train.{n:05d}-of-00004.json": json.dumps(row).encode() + b"\n" for n, row in rows.items()}
    return {"README.md": CARD, **data, "realnewslike/c4-train.00000-of-00001.json": b'{"text": "other"}\n'}


def test_parts_read_one_commit_of_the_hub_and_joining_fetches_nothing(tmp_path: Path) -> None:
    train_bpe(dict.fromkeys(["red", "blue", *"0123"], 50), BpeSettings(vocab_size=20), tmp_path / "vocab")
    hub = Hub({ID: Repository({"main": files("red")})})
    first = hub.repositories[ID].commit("main")
    options = ["--tokenizer", tmp_path / "vocab", "--valid-fraction", "0", "--workers", "2"]

    def binarize(output: str, *more: str) -> list[str]:
        """The data files that were fetched."""
        before = len(hub.asked)
        arguments = ["binarize", f"hf:{ID}/en", *options, "--output", tmp_path / output, *more]
        process = started(server.url, tmp_path / "home", *arguments, program=["-m", "metro_t0.data.cli"])
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        fetched = {line.rpartition("/")[2][9:14] for line in hub.asked[before:] if line.startswith("GET /datasets/")}
        return sorted(fetched & {f"{number:05d}" for number in range(4)})

    with Server(hub) as server:
        assert set(binarize("parts", "--part", "1/2")) >= {"00000", "00002"}
        hub.repositories[ID] = Repository({"main": files("blue"), "before": files("red")})
        assert hub.repositories[ID].commit("main") != first
        binarize("parts", "--part", "2/2")
        fetched = binarize("parts")
    assert fetched in ([], ["00000"])  # `datasets` looks into the first file for the names of the columns
    info = json.loads((tmp_path / "parts/info.json").read_text())
    assert info["hub_revisions"] == {f"hf:{ID}/en": first}
    tokenizer = Tokenizer.load(tmp_path / "vocab")
    text = " ".join(tokenizer.decode(item.tolist()) for item in TokenFile(tmp_path / "parts/train"))
    assert [text.count(word) for word in ("red", "blue")] == [4, 0]


PASSAGES = """
import json, sys
from pathlib import Path
from eval.passages import collection_of
found = collection_of("hf:BeIR/msmarco/corpus:corpus", Path(sys.argv[1]))
rows = [(each.id, each.text) for each in found]
print(json.dumps({"rows": rows, "at": found.at({1})[1].id, "settings": found.settings()}))
"""


def msmarco(text: str) -> dict[str, bytes]:
    """BeIR/msmarco: configurations `corpus` and `queries`, each with a split of its own name."""
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {name}\n    path: {name}/*.parquet\n"
        for name in ("corpus", "queries")
    )
    corpus = {"_id": ["0", "1"], "title": ["", ""], "text": [f"{text} one", f"{text} two"]}
    tables = {"corpus": corpus, "queries": {"_id": ["9"], "text": ["a query"]}}
    files = {"README.md": f"---\nconfigs:\n{configs}---\n".encode()}
    for name, columns in tables.items():
        stream = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), stream)
        files[f"{name}/{name}-00000-of-00001.parquet"] = stream.getvalue()
    return files


def test_passages_of_ms_marco_stay_those_of_the_index(tmp_path: Path) -> None:
    hub = Hub({"BeIR/msmarco": Repository({"main": msmarco("old")})})

    def passages() -> dict[str, Any]:
        program = ["-c", PASSAGES]
        output, errors = started(server.url, tmp_path / "home", tmp_path / "index.json", program=program).communicate()
        assert output, errors
        answer: dict[str, Any] = json.loads(output)
        return answer

    with Server(hub) as server:
        first = passages()
        hub.repositories["BeIR/msmarco"] = Repository({"main": msmarco("new"), "before": msmarco("old")})
        (tmp_path / "index.json").write_text(json.dumps(first["settings"]))
        second = passages()
    assert first["rows"] == [["0", "old one"], ["1", "old two"]]
    assert first["at"] == "1"
    assert second == first
