"""A directory belongs to the settings that it was made with, and to one running command at a time.

The lock is a POSIX record lock on DIRECTORY/.lock. The system releases it when the process ends, however it ends, so a
killed run never blocks the next one; a `.lock` that such a run leaves behind means nothing. On NFS it works where the
server offers locks (NFSv4, or v3 with lockd); a mount with `nolock` or `local_lock=posix` sees its own machine only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metro_t0.errors import UserError
from metro_t0.files import read_json, sha256_of, write_json

LOCK_NAME = ".lock"
REMEDY = "choose another --output"
OR_OVERWRITE = "name another directory or add --overwrite"
LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # what `atomic_path` makes
LEFTOVER_DEPTHS = (".*.tmp", "*/.*.tmp", "*/*/.*.tmp")

_held: set[Path] = set()  # a process never conflicts with its own record locks
_held_guard = threading.Lock()


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Let no other command write `directory` (which is made, and removed if it stays empty) while the context lasts.

    Temporary files of killed runs are removed. Raises `UserError` that names the process which holds it.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: is a file; name a directory")
    existed = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be made ({(error.strerror or str(error)).lower()})") from None
    place = directory.resolve()
    with _held_guard:
        if place in _held:
            raise UserError(f"{directory}: this process is writing it already")
        _held.add(place)
    try:
        handle = _acquire(directory)
        try:
            remove_leftovers(directory)
            yield
        finally:
            (directory / LOCK_NAME).unlink(missing_ok=True)
            os.close(handle)
    finally:
        with _held_guard:
            _held.discard(place)
        if not existed:
            with suppress(OSError):  # something is in it
                directory.rmdir()


def _acquire(directory: Path) -> int:
    path = directory / LOCK_NAME
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({(error.strerror or str(error)).lower()})") from None
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = os.stat(path)
        except FileNotFoundError:  # its last holder removed it between the two calls
            os.close(handle)
            continue
        except OSError as error:
            holder = os.pread(handle, 1000, 0).decode("utf-8", "replace")
            os.close(handle)
            if isinstance(error, (BlockingIOError, PermissionError)):
                busy = f"in use by {holder}" if holder else "in use by another command"
                raise UserError(f"{directory}: {busy}; wait for it to end, or name another directory") from None
            print(
                f"warning: {directory}: its file system has no locks ({error.strerror}); see to it that no other "
                "command writes there",
                file=sys.stderr,
            )
            return os.open(path, os.O_RDWR)
        if os.path.samestat(os.fstat(handle), now):
            break
        os.close(handle)  # another command has put a new file in its place
    os.truncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()} ({Path(sys.argv[0]).name})".encode(), 0)
    return handle


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files that killed runs left in a directory which this process holds."""
    for depth in LEFTOVER_DEPTHS:
        for path in directory.glob(depth):
            if LEFTOVER.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def check_dictionary(directory: Path, sha256: str, remedy: str = REMEDY) -> None:
    """Raises `UserError` where a dict.txt of another vocabulary is there, which models and data may need."""
    path = directory / "dict.txt"
    if path.is_file() and sha256_of(path) != sha256:
        raise UserError(f"{path}: is of another vocabulary and would be replaced; {remedy}")


@contextmanager
def claimed(
    directory: Path,
    settings: Mapping[str, Any],
    file: str,
    worth: Sequence[str],
    remedy: str = REMEDY,
    replace: bool = False,
    ignore: Collection[str] = (),
) -> Iterator[None]:
    """Hold `directory` for one running command and for these settings, which DIRECTORY/file keeps as JSON.

    worth: globs of what a later run goes on with. A directory without any of it belongs to nobody: a run that was
    refused, or stopped before it made something, leaves none of its files there and blocks no other settings.
    replace: take the directory over, without what it holds of other settings; `remedy` ends the message otherwise.
    ignore: settings that may differ.
    Raises `UserError` that names every setting in which the directory's owner differs.
    """
    with lock(directory):
        path = directory / file
        before = {each.name for each in directory.iterdir()} - {LOCK_NAME, Path(file).parts[0]}
        owned = path.is_file() and _has_any(directory, worth)
        if owned and replace and differences(read_json(path, dict[str, Any]), settings):
            for old in [old for each in worth for old in directory.glob(each)]:
                old.unlink()
            owned = False
        if owned:
            check_owner(directory, read_json(path, dict[str, Any]), settings, remedy, ignore)
        else:
            write_json(path, dict(settings))
        try:
            yield
        except BaseException:
            if not _has_any(directory, worth):
                _remove_all_but(directory, before)
            raise


def check_owner(
    directory: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    remedy: str = REMEDY,
    ignore: Collection[str] = (),
) -> None:
    """Raise `UserError` with all settings in which the directory's owner differs."""
    changed = differences(*({k: v for k, v in each.items() if k not in ignore} for each in (before, now)))
    if changed:
        raise UserError(f"{directory}: belongs to other settings ({'; '.join(changed)}); {remedy}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`name BEFORE -> NOW` of every setting that differs, as JSON would keep it."""
    plain = json.loads(json.dumps(dict(now)))
    return [
        f"{name} {before.get(name)!r:.80} -> {plain.get(name)!r:.80}"
        for name in sorted({*before, *plain})
        if before.get(name) != plain.get(name)
    ]


def _has_any(directory: Path, globs: Sequence[str]) -> bool:
    return any(True for each in globs for _ in directory.glob(each))


def _remove_all_but(directory: Path, names: set[str]) -> None:
    for path in directory.iterdir():
        if path.name in names or path.name == LOCK_NAME:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
