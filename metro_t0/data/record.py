"""What info.json says of a data directory, held against its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metro_t0.errors import UserError
from metro_t0.files import read_json, sha256_of

INFO_NAME = "info.json"
DICT_NAME = "dict.txt"


def check_dictionary(directory: Path, dict_path: Path) -> None:
    """Raise `UserError` where the token files of `directory` were made with another dict.txt than `dict_path`.

    What info.json says of its dict.txt decides, and where there is none (fairseq-preprocess), the dict.txt beside the
    token files, if there is one.
    """
    found = sha256_of(dict_path)
    recorded = recorded_checksums(directory).get(DICT_NAME)
    if recorded is not None and recorded != found:
        raise UserError(
            f"{dict_path}: is not the vocabulary that {directory} was made with (its info.json says so); restore that "
            "dict.txt, or binarize again"
        )
    beside = directory / DICT_NAME
    if recorded is None and beside.is_file() and sha256_of(beside) != found:
        raise UserError(f"{beside}: differs from {dict_path}; all parts of the data need one vocabulary")


def recorded_checksums(directory: Path) -> dict[str, str]:
    """SHA-256 by name of each file of a data directory, or of one shard of it; none where no info.json says it."""
    path, prefix = directory / INFO_NAME, ""
    if not path.is_file():
        path, prefix = directory.resolve().parent / INFO_NAME, f"{directory.resolve().name}/"
    if not path.is_file():
        return {}
    info: Any = read_json(path)
    checksums = info.get("sha256", {}) if isinstance(info, dict) else {}
    return {name.removeprefix(prefix): checksum for name, checksum in checksums.items() if name.startswith(prefix)}


def damaged_files(directory: Path) -> Iterator[tuple[str, str | None]]:
    """(name, what is wrong with it or None) of every file that info.json lists; reads all of them.

    Raises `UserError` where there is no info.json.
    """
    checksums = recorded_checksums(directory)
    if not checksums:
        raise UserError(f"{directory}: has no {INFO_NAME} with checksums; metro-t0-data binarize writes one")
    for name, checksum in checksums.items():
        path = directory / name
        if not path.is_file():
            yield name, "is missing"
        else:
            yield name, None if sha256_of(path) == checksum else "is not the file that was written"
