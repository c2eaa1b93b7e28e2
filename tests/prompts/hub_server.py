"""A stand-in for the Hugging Face hub on the loopback address: it answers what `datasets` asks, and counts it.

Repositories are filled from `hub_cards.yaml`, which was written from the cards, so that what the package believes of
the hub is tested and not assumed. Splits are short: `small` maps a real number of rows to one of at most 99.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import datasets
import pyarrow.parquet as pq
import yaml

CARDS = Path(__file__).parent / "hub_cards.yaml"
CONVERT = "refs/convert/parquet"
Files = dict[str, bytes]


def small(rows: int) -> int:
    """Another number for most other numbers, and enough rows for 50 classes."""
    return 50 + rows % 49


@dataclass
class Repository:
    """The files of each branch, by path."""

    branches: dict[str, Files]
    gated: bool = False
    commits: dict[str, str] = field(default_factory=dict)
    """Branch -> its commit; the others have one by their content."""

    def commit(self, revision: str) -> str | None:
        """The commit of a branch, or of itself; None where there is no such revision."""
        for branch, files in self.branches.items():
            commit = self.commits.get(branch) or hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
            if revision in (branch, commit):
                return commit
        return None

    def files(self, revision: str) -> Files:
        commit = self.commit(revision)
        return next(files for branch, files in self.branches.items() if self.commit(branch) == commit)


@dataclass
class Hub:
    """The repositories, what was asked, and which faults to show."""

    repositories: dict[str, Repository]
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Repository -> how many requests to answer with 429."""
    cuts: Counter[str] = field(default_factory=Counter)
    """Repository -> how many downloads of data to break off in the middle."""


def load_cards() -> dict[str, Any]:
    cards: dict[str, Any] = yaml.safe_load(CARDS.read_text())
    return cards


def repository(card: dict[str, Any], name: str) -> Repository:
    """The tiny repository of one card."""
    layout = card.get("layout", "main")
    data: Files = {}
    for config, content in card["configs"].items():
        features = datasets.Features({key: feature(value) for key, value in content["columns"].items()})
        for split, rows in content["splits"].items():
            table = datasets.Dataset.from_dict(columns_of(content["columns"], small(rows)), features=features)
            if layout == "csv":
                data[f"{split}.csv"] = as_csv(table)
            else:
                file = f"{split}/0000.parquet" if layout == "convert" else f"{split}-00000-of-00001.parquet"
                data[f"{config}/{file}"] = as_parquet(table)
    if layout == "convert":
        script = {"README.md": b"---\nlicense: unknown\n---\n", f"{name}.py": b"raise NotImplementedError\n"}
        branches = {"main": script, CONVERT: data}
    else:
        branches = {"main": {"README.md": readme(card, layout), **data}}
    return Repository(branches, commits={list(branches)[-1]: card["commit"]} if card.get("commit") else {})


def readme(card: dict[str, Any], layout: str) -> bytes:
    """A card with the metadata that `push_to_hub` writes."""
    metadata: dict[str, Any] = {"license": card.get("license", "unknown")}
    if layout == "main":
        infos, configs = [], []
        for config, content in card["configs"].items():
            features = datasets.Features({key: feature(value) for key, value in content["columns"].items()})
            splits = [
                {"name": split, "num_bytes": 1, "num_examples": small(rows)}
                for split, rows in content["splits"].items()
            ]
            infos.append({"config_name": config, "features": features._to_yaml_list(), "splits": splits})
            files = [{"split": split, "path": f"{config}/{split}-*"} for split in content["splits"]]
            configs.append({"config_name": config, "data_files": files})
        metadata |= {"dataset_info": infos, "configs": configs}
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n".encode()


def feature(column: Any) -> Any:
    """A column of a card as a feature of `datasets`."""
    if isinstance(column, str):
        return datasets.Value(column)
    if isinstance(column, list):
        return datasets.List(feature(column[0]))
    if "class" in column:
        return datasets.ClassLabel(names=column["class"])
    return {key: feature(value) for key, value in column.items()}


def columns_of(columns: dict[str, Any], rows: int) -> dict[str, list[Any]]:
    values = {name: [value_of(name, column, row) for row in range(rows)] for name, column in columns.items()}
    if "option2" in columns:  # answers with the number of an option
        values["answer"] = [str(row % 2 + 1) for row in range(rows)]
    return values


def value_of(name: str, column: Any, row: int) -> Any:
    """Classes take turns; every other value says where it stands."""
    if isinstance(column, str):
        if column == "bool":
            return row % 2 == 0
        if column == "string":
            # Templates compute with these: answers are choices, and labels are numbers of choices.
            special = {"label": str(row % 2 + 1), "answerKey": "AB"[row % 2], "answer": f"choice {row % 2}"}
            return special.get(name, f"{name} {row}")
        return row % 5 + 1 if name == "star" else row % 2
    if isinstance(column, list):
        labels = {"label": ["A", "B"], "choices": ["choice 0", "choice 1"], "choice": ["choice 0", "choice 1"]}
        labels |= {"tokens": list("abcdef"), "coreference_clusters": list("0123")}
        return labels.get(name, [value_of(name, column[0], row), value_of(name, column[0], row + 1)])
    if "class" in column:
        return row % len(column["class"])
    return {key: value_of(key, value, row) for key, value in column.items()}


def as_parquet(table: datasets.Dataset) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table.data.table, stream)  # its schema holds the names of classes, as on the hub
    return stream.getvalue()


def as_csv(table: datasets.Dataset) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, table.column_names)
    writer.writeheader()
    writer.writerows(table)
    return stream.getvalue().encode()


class Server:
    """The hub, answering in a thread while the `with` block runs; `url` is its address."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        handler = type("Handler", (_Handler,), {"hub": hub})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.removeprefix("/api").removeprefix("/datasets/").split("/")
        id, rest = "/".join(parts[:2]), parts[2:]
        repository = self.hub.repositories.get(id)
        if self.hub.refusals[id] > 0:
            self.hub.refusals[id] -= 1
            self.send(429, b"", {"RateLimit": '"resolvers";r=0;t=0', "Retry-After": "0"})
        elif repository is None:
            self.send(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif repository.gated:
            self.send(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to {id} is restricted"})
        elif path.startswith("/api/"):
            self.answer_api(id, repository, rest, body)
        else:
            self.answer_file(id, repository, rest)

    def answer_file(self, id: str, repository: Repository, rest: list[str]) -> None:
        revision, path = self.revision_and_path(repository, rest[1:])
        commit = repository.commit(revision)
        if commit is None:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return
        content = repository.files(revision).get(path)
        if content is None:
            error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.send(404, b"{}", {**error, "X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        cut = self.command == "GET" and path.endswith((".parquet", ".csv")) and self.hub.cuts[id] > 0
        if cut:
            self.hub.cuts[id] -= 1
        status, content = self.range_of(content, headers)
        self.send(status, content, headers, sent=len(content) // 2 if cut else None)

    def range_of(self, content: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """The part of a file that was asked for."""
        wanted = self.headers.get("Range")
        if wanted is None:
            return 200, content
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = (int(first), int(last) + 1 if last else len(content)) if first else (-int(last), len(content))
        part = content[start:stop]
        start = start % len(content)
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
        return 206, part

    def answer_api(self, id: str, repository: Repository, rest: list[str], body: str) -> None:
        kind, more = (rest[0], rest[1:]) if rest else ("revision", ["main"])
        revision, path = self.revision_and_path(repository, more)
        commit = repository.commit(revision)
        if commit is None:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return
        files = repository.files(revision)
        if kind == "revision":
            siblings = [{"rfilename": name} for name in files]
            answer: Any = {"id": id, "sha": commit, "siblings": siblings, "private": False, "gated": False, "tags": []}
        elif kind == "tree":
            recursive = "recursive" in self.path and "recursive=False" not in self.path
            entries = list(entries_of(files))
            answer = [e for e in entries if inside(e["path"], path, recursive)]
            if path and not answer:
                self.send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
                return
        elif kind == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            answer = [entry for entry in entries_of(files) if entry["path"] in wanted]
        else:
            self.send(404, b"{}", {})
            return
        self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def revision_and_path(self, repository: Repository, parts: list[str]) -> tuple[str, str]:
        """Branches hold slashes."""
        text = "/".join(parts)
        for branch in repository.branches:
            if text == branch or text.startswith(branch + "/"):
                return branch, text[len(branch) + 1 :]
        revision, _, path = text.partition("/")
        return revision, path

    def send(self, status: int, content: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
        if sent is not None:
            self.wfile.flush()
            time.sleep(0.01)
            self.close_connection = True


def entries_of(files: Files) -> Iterable[dict[str, Any]]:
    """What the hub tells of files and directories."""
    directories = {"/".join(path.split("/")[:depth]) for path in files for depth in range(1, path.count("/") + 1)}
    for directory in sorted(directories):
        yield {"type": "directory", "path": directory, "oid": hashlib.sha1(directory.encode()).hexdigest(), "size": 0}
    for path, content in files.items():
        yield {"type": "file", "path": path, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}


def inside(path: str, directory: str, recursive: bool) -> bool:
    if directory and not path.startswith(directory + "/"):
        return False
    return recursive or "/" not in path[len(directory) + 1 if directory else 0 :]


def standard_hub(ids: Iterable[str] | None = None) -> Hub:
    """The hub of all cards, or of some."""
    cards = load_cards()
    chosen = cards if ids is None else {id: cards[id] for id in ids}
    return Hub({id: repository(card, id.split("/")[1]) for id, card in chosen.items()})


def changed(card: dict[str, Any], change: str) -> dict[str, Any]:
    """The card of a repository that differs from the table. Its commit is another one, too."""
    card = {**copy.deepcopy(card), "commit": None}
    content = next(iter(card["configs"].values()))
    if change == "names":
        content["columns"]["label"] = {"class": ["bad", "good"]}
    elif change == "numbers":
        content["columns"]["label"] = "int64"
    elif change == "columns":
        content["columns"]["sentence"] = content["columns"].pop("text")
    elif change == "rows":
        content["splits"]["validation"] += 1
    elif change == "split":
        del content["splits"]["validation"]
    elif change == "order":
        content["columns"]["label"] = {"class": ["contradiction", "entailment", "neutral"]}
    return card
