"""A directory belongs to its settings and to one running command; interrupted and killed commands leave no trace."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from metro_t0.claims import LOCK_NAME, claimed, differences, lock
from metro_t0.errors import UserError

HOLD = "import sys, time; from pathlib import Path; from metro_t0.claims import lock\n"
HOLD += "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@contextmanager
def another_holds(directory: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_two_commands_do_not_write_one_directory(tmp_path: Path) -> None:
    with another_holds(tmp_path / "out") as other:
        with (
            pytest.raises(UserError, match=f"out: in use by process {other.pid} on .*; wait for it"),
            lock(tmp_path / "out"),
        ):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        (tmp_path / "out" / ".result.json.abcd1234.tmp").touch()  # as a killed run leaves it
        (tmp_path / "out" / ".notes.tmp").touch()
        with lock(tmp_path / "out"):
            pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".notes.tmp"]


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with lock(tmp_path / "out"):
        (tmp_path / "out" / "file").touch()
    assert "out: its file system has no locks (No locks available)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/out: cannot be made"), lock(tmp_path / "file" / "out"):
        pass


def test_one_process_does_not_write_a_directory_twice_either(tmp_path: Path) -> None:
    with lock(tmp_path / "a" / "b"), pytest.raises(UserError, match="already"), lock(tmp_path / "a" / ".." / "a" / "b"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"), lock(tmp_path / "file"):
        pass


def claim(directory: Path, replace: bool = False, **settings: Any) -> Any:
    return claimed(directory, settings, "settings.json", ["*.result"], replace=replace)


def test_a_directory_with_results_belongs_to_its_settings(tmp_path: Path) -> None:
    with claim(tmp_path / "out", model="a", seeds=(1, 2)):
        (tmp_path / "out" / "1.result").touch()
    with claim(tmp_path / "out", model="a", seeds=(1, 2)):
        pass
    message = r"out: belongs to other settings \(model 'a' -> 'b'; seeds \[1, 2\] -> \[1\]\); choose another --output"
    with pytest.raises(UserError, match=message), claim(tmp_path / "out", model="b", seeds=(1,)):
        pass
    with claim(tmp_path / "out", replace=True, model="b"):
        assert not (tmp_path / "out" / "1.result").exists()
    assert json.loads((tmp_path / "out" / "settings.json").read_text()) == {"model": "b"}


def stopped_run(out: Path, ending: type[BaseException], made: str) -> None:
    with claim(out, model="a"):
        (out / made).touch()
        raise ending


@pytest.mark.parametrize("ending", [UserError, KeyboardInterrupt])
def test_a_run_that_made_nothing_leaves_nothing(tmp_path: Path, ending: type[BaseException]) -> None:
    for existed in (False, True):
        out = tmp_path / str(existed)
        if existed:
            out.mkdir()
            (out / "notes.txt").touch()
        with pytest.raises(ending):
            stopped_run(out, ending, "half.txt")
        assert [path.name for path in out.iterdir()] == ["notes.txt"] if existed else not out.exists()
    with pytest.raises(ending):
        stopped_run(tmp_path / "kept", ending, "1.result")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["1.result", "settings.json"]


def test_a_killed_run_that_made_nothing_blocks_nobody(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"model": "a"}')
    (tmp_path / LOCK_NAME).write_text("process 1")
    with claim(tmp_path, model="b"):
        (tmp_path / "1.result").touch()
    assert json.loads((tmp_path / "settings.json").read_text()) == {"model": "b"}


def test_differences_are_those_of_the_file() -> None:
    assert differences({"a": [1], "b": None}, {"a": (1,)}) == []
    assert differences({"a": 1}, {"b": 2}) == ["a 1 -> None", "b None -> 2"]


BODY = """
import sys, time
from pathlib import Path
from metro_t0.command import run
from metro_t0.files import atomic_path
from metro_t0.parallel import workers

def nap(number):
    time.sleep(0.2)
    return number

def body():
    with atomic_path(sys.argv[1]) as temporary, workers(2, fork=sys.argv[2] == "fork") as pool:
        for number in pool.in_order(nap, range(10_000)):
            if number == 2:
                print("working", *pool._executor._processes, flush=True)

if __name__ == "__main__":
    sys.exit(run("program", body))
"""


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("number", "to_all", "status", "message"),
    [
        (signal.SIGINT, True, 130, "program: interrupted\n"),  # as Ctrl-C in a terminal
        (signal.SIGTERM, False, 143, "program: terminated\n"),
        (signal.SIGKILL, False, -9, ""),
    ],
)
def test_workers_end_with_their_command(
    start: str, number: signal.Signals, to_all: bool, status: int, message: str, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(BODY)
    process = subprocess.Popen(
        [sys.executable, "program.py", str(tmp_path / "out" / "file"), start], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    found = process.stdout.readline().split()
    assert found[0] == "working"
    children = list(map(int, found[1:]))
    assert all(map(alive, children))
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    if number != signal.SIGKILL:
        assert error == message
    assert wait_until(lambda: not any(map(alive, children)))
    leftovers = list((tmp_path / "out").iterdir())
    assert len(leftovers) == (1 if number == signal.SIGKILL else 0)
