"""Settings and results as files, never half-written under their final name. What reads text: `metro_t0.text_files`."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metro_t0.errors import UserError
from metro_t0.shapes import expect, json_value

UMASK = os.umask(0)
os.umask(UMASK)
LONGEST_PREFIX = 100
"""Bytes of a temporary name, so that it is no longer than a file system allows where the final one is not."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any exception.

    The rename is atomic because both names are in one directory. The directory is made if needed. An `OSError` that
    names no file, as that of a full disk, gets the name of this one.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.is_dir():
        raise UserError(f"{final}: is a directory; name a file")
    prefix = os.fsencode(final.name)[:LONGEST_PREFIX].decode("utf-8", "ignore")
    handle, name = tempfile.mkstemp(prefix=f".{prefix}.", suffix=".tmp", dir=final.parent)
    os.close(handle)
    os.chmod(name, 0o666 & ~UMASK)  # mkstemp makes files private; outputs are shared like any other file
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, final)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(final)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 under `path`, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | os.PathLike[str], shape: Any = Any) -> Any:
    """Read one JSON file. Raises `UserError` where it cannot be read, is not JSON or not of the shape (`expect`)."""
    return expect(json_value(_content(path), str(path)), shape, str(path))


def read_yaml(path: str | os.PathLike[str], shape: Any = Any, loader: Any = None) -> Any:
    """Read one YAML file of plain data. Raises `UserError` where it cannot be read, is not YAML or not of the shape.

    loader: a subclass of yaml.SafeLoader that knows more tags.
    """
    import yaml  # most commands read none

    try:
        content = yaml.load(_content(path), loader or yaml.SafeLoader)
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        raise UserError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    return expect(content, shape, str(path))


def _content(path: str | os.PathLike[str]) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {describe(error)}") from None
    except ValueError:
        raise UserError(f"{os.fspath(path)!r}: no name of a file") from None
    return decoded(content, path)


def decoded(content: bytes, path: str | os.PathLike[str]) -> str:
    """The text of a file's bytes, without a byte order mark. Raises `UserError` where they are not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def describe(error: OSError) -> str:
    """What the system has against a file, in words; without its name."""
    if error.errno == errno.ENOENT:
        return "no such file"
    if error.errno == errno.EEXIST:
        return "is a file where a directory is needed"
    reason = error.strerror or str(error) or type(error).__name__
    return reason[:1].lower() + reason[1:]


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in constant memory."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
