"""How commands end: full disks, closed pipes, interrupts, refused files, odd terminals, start-up time."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metro_t0 import progress
from metro_t0.command import run
from metro_t0.errors import UserError, nearest, one_line, printable
from metro_t0.files import atomic_path, read_json, read_yaml, write_text
from metro_t0.tables import markdown_table, print_table

MODULES = ("metro_t0.data.cli", "finetune.cli", "eval.cli", "metro_t0.convert", "metro_t0.synthetic.cli",
           "metro_t0.analysis.cli", "ablation.cli", "metro_t0.launch")  # fmt: skip


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: no space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a/b"), "a/b: no such file"),
        (FileExistsError(errno.EEXIST, "File exists", "a/b"), "a/b: is a file where a directory is needed"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files"),
        (OSError("said by a library\nin two lines"), "said by a library in two lines"),
        (MemoryError(), "out of memory"),
        (UserError("red \x1b[31m is not printed"), "red \\x1b[31m is not printed"),
    ],
)
def test_errors_of_the_system_are_one_line(error: BaseException, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise error

    assert run("metro-t0-x", body) == 2
    assert capsys.readouterr().err == f"metro-t0-x: error: {line}\n"


def test_defects_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run("metro-t0-x", lambda: 1 // 0)


def python(code: str, **settings: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )  # type: ignore[call-overload]


def test_a_closed_pipe_is_silent() -> None:
    code = (
        "import sys; from metro_t0.command import run\n"
        "sys.exit(run('x', lambda: [print('y' * 99) for _ in range(9999)] and 0))"
    )
    process = python(code)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_at_standard_output_is_one_line() -> None:
    code = "from metro_t0.command import run; import sys; sys.exit(run('x', lambda: print('y')))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr in {f"x: error: {name}no space left on device\n" for name in ("", "standard output: ")}


def test_an_interrupt_while_a_command_imports_is_said() -> None:
    code = (
        "import sys, time; from metro_t0.command import run\n"
        "def body():\n print('importing', flush=True); time.sleep(30)\n"
        "sys.exit(run('x', body))"
    )
    process = python(code)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "x: interrupted\n")


def test_a_terminal_of_another_encoding_is_no_reason_to_stop() -> None:
    code = "from metro_t0.command import run; import sys; sys.exit(run('x', lambda: print('caf\\u00e9 \\udc80')))"
    process = python(code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "caf\\xe9 \\udc80\n", "")


@pytest.mark.parametrize("module", MODULES)
def test_help_loads_nothing_slow(module: str) -> None:
    """Neither torch nor transformers, numpy, rich: what a person waits for before the help."""
    code = (
        f"import sys; from {module} import main\nstatus = main(['--help'])\n"
        "slow = {'torch', 'transformers', 'numpy', 'rich', 'tokenizers', 'pyarrow', 'matplotlib', 'yaml', 'jinja2'}\n"
        "print(sorted(slow & sys.modules.keys()), file=sys.stderr); sys.exit(status)"
    )
    out, err = python(code).communicate()
    assert err == "[]\n"
    assert "example" in out


@pytest.mark.parametrize(
    ("line", "module", "suggested"),
    [
        ("metro-t0-data bin", "metro_t0.data.cli", "binarize"),
        ("metro-t0-train --print", "metro_t0.launch", "--print-config-dir"),
        ("metro-t0-train finetuning/ba", "metro_t0.launch", "finetuning/base"),
    ],
)
def test_completion(line: str, module: str, suggested: str) -> None:
    """What argcomplete asks a command for when the user presses tab after the line."""
    pytest.importorskip("argcomplete")
    environment = {**os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "IFS": "\n"}
    code = f"import os, sys; sys.argv = ['{line.split()[0]}']; from {module} import main; main([])"
    read, write = os.pipe()
    process = subprocess.Popen(
        ["bash", "-c", f'exec 8>&{write} 9>/dev/null; exec "$0" -c "$1"', sys.executable, code],
        env=environment, pass_fds=(write,), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    process.wait()
    with os.fdopen(read) as stream:
        assert suggested in stream.read()


def test_files_have_the_users_permissions_and_names_as_long_as_the_system_allows(tmp_path: Path) -> None:
    code = (
        f"import os; os.umask(0o027); from metro_t0.files import write_text; write_text({str(tmp_path / 'a')!r}, 'x')"
    )
    assert python(code).wait() == 0
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    longest = tmp_path / ("n" * 250)
    write_text(longest, "x")
    assert longest.read_text() == "x"
    with pytest.raises(OSError, match="too long"):
        write_text(tmp_path / ("n" * 300), "x")
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="is a directory; name a file"):
        write_text(tmp_path / "d", "x")


@pytest.mark.parametrize("name", ["n" * 255, "\u6587" * 85], ids=["Latin", "Chinese"])
def test_the_longest_name_can_be_written(name: str, tmp_path: Path) -> None:
    write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_error_of_writing_names_the_file_that_was_to_be(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"out\.bin") as raised, atomic_path(tmp_path / "out.bin"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "out.bin")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ("{", "not a JSON file"),
        ("null", "must be a mapping, is nothing"),
        ('{"a": [1]}', "a: must be a number, is a list"),
        ('{"a": true}', "a: must be a number, is true"),
        ('{"a": NaN}', "a: must be a number, is NaN"),
    ],
)
def test_json_of_the_wrong_shape(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        read_json(path, dict[str, float])
    assert str(path) in str(raised.value)


def test_yaml_of_the_wrong_shape(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for text in ("[" * 10_000, "a: !!python/object:os.x {}", "{", "? [a]\n: 1", "a: 2001-99-99", "\x00"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"x\.yaml"):
            read_yaml(path, dict[str, int])


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    assert printable("a\x1b[2Jb\u202ec\td\n") == "a\\x1b[2Jb\\u202ec\td\n"
    assert one_line("a\n b\x07") == "a b\\x07"
    assert printable("日本 é") == "日本 é"


def test_one_sentence_for_unknown_names() -> None:
    assert nearest("rtte", ["rte", "copa"]) == "; did you mean rte?"
    assert nearest("xyz", ["rte", "copa"]) == "; choose one of rte, copa"
    assert nearest("xyz", map(str, range(100))) == ""


def test_the_name_column_is_never_cut(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a_task_with_a_very_long_name_" * 4
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("task", "n"), [(name, "1"), ("\x1b[31mred", "2")], title="t")
    out = capsys.readouterr().out
    assert name in out
    assert "\x1b" not in out
    assert "\\x1b[31mred" in out


def test_markdown_tables_escape_bars() -> None:
    assert markdown_table(("a", "b"), [("x|y", "1")]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n"


def test_progress_names_what_it_counts_and_quiet_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOG_LINES", 0.01)
    for _ in progress.progress(range(3), "count words", unit="documents"):
        time.sleep(0.02)
    with progress.working("merge pieces"):
        time.sleep(0.05)
    err = capsys.readouterr().err
    assert re.search(r"count words: \d/3 documents \(", err)
    assert "count words: 3/3 documents done in" in err
    assert err.count("merge pieces") >= 2
    progress.be_quiet(True)
    try:
        list(progress.progress(range(3), "count words"))
        with progress.working("merge pieces"):
            pass
    finally:
        progress.be_quiet(False)
    assert capsys.readouterr().err == ""
