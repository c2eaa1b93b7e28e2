"""Token files, dict.txt, tokenizer.json and info.json that do not belong together are refused before training."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from token_directory import write_token_directory

from metro_t0.data import token_files
from metro_t0.data.cli import main as data_main
from metro_t0.data.token_files import TokenFile, TokenFileWriter, bin_path
from metro_t0.tokenization import Tokenizer

Train = Callable[..., list[dict[str, Any]]]
REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = "".join(
    f"The dog number {n} sees a cat of color {n % 7}.\nIt is {'very ' * (n % 3)}small.\n\n" for n in range(60)
)


@pytest.fixture(scope="module")
def binarized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards with a vocabulary of their own, as metro-t0-data makes them."""
    root = tmp_path_factory.mktemp("binarized")
    (root / "text.txt").write_text(TEXT)
    text = [str(root / "text.txt"), "--workers", "1"]
    assert data_main(["tokenizer", *text, "--vocab-size", "60", "--output", str(root / "vocab")]) == 0
    given = ["binarize", *text, "--tokenizer", str(root / "vocab"), "--valid-fraction", "0.2", "--output"]
    assert data_main([*given, str(root / "one")]) == 0
    assert data_main([*given, str(root / "two"), "--shards", "2"]) == 0
    return root


def refused(train: Train, data: Path | str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    with pytest.raises(SystemExit) as ended:
        train(f"--save-dir {tmp_path / 'run'} --max-update 1", data=data)
    assert ended.value.code == 2
    return next(line for line in capfd.readouterr().err.splitlines() if "error:" in line)


def test_intact_data_trains(train: Train, binarized: Path, tmp_path: Path) -> None:
    train(f"--save-dir {tmp_path / 'run'} --max-update 1", data=binarized / "one")
    shards = f"{binarized / 'two' / 'shard0'}:{binarized / 'two' / 'shard1'}"
    train(f"--save-dir {tmp_path / 'shards'} --max-update 1", data=shards)
    for name in ("one", "two"):
        assert data_main(["verify", str(binarized / name)]) == 0


def cut_dictionary(directory: Path) -> None:
    lines = (directory / "dict.txt").read_text().splitlines(keepends=True)
    (directory / "dict.txt").write_text("".join(lines[:-20]))


def raise_ids(directory: Path) -> None:
    items = [item + np.uint16(3000) for item in TokenFile(directory / "train")]
    with TokenFileWriter(directory / "train", np.uint16) as writer:
        for item in items:
            writer.add(item)


@pytest.mark.parametrize(
    ("damage", "with_info", "message"),
    [
        (cut_dictionary, True, "dict.txt: is not the vocabulary that"),
        (cut_dictionary, False, "train.bin: holds the id"),
        (raise_ids, True, "train.bin: holds the id 30"),
    ],
)
def test_data_of_another_dictionary_is_refused(
    damage: Callable[[Path], None],
    with_info: bool,
    message: str,
    train: Train,
    binarized: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(binarized / "one", tmp_path / "data")
    if not with_info:
        (tmp_path / "data" / "info.json").unlink()
    damage(tmp_path / "data")
    assert message in refused(train, tmp_path / "data", capfd, tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_id_that_the_first_look_misses_stops_training_in_one_line(
    workers: int,
    train: Train,
    token_directory: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_files, "SAMPLES", 2)
    monkeypatch.setattr(token_files, "SAMPLE_TOKENS", 4)
    shutil.copytree(token_directory, tmp_path / "data")
    items = [item.copy() for item in TokenFile(tmp_path / "data" / "train")]
    items[len(items) // 2 & ~1][3] = 3071
    with TokenFileWriter(tmp_path / "data" / "train", np.uint16) as writer:
        for item in items:
            writer.add(item)
    with pytest.raises(SystemExit) as ended:
        train(f"--save-dir {tmp_path / 'run'} --max-update 9 --num-workers {workers}", data=tmp_path / "data")
    assert ended.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "3071" in line]
    assert line.startswith(f"metro-t0: error: {tmp_path / 'data' / 'train.bin'}: holds the id 3071, but ")


@pytest.mark.parametrize("second", ["of another vocabulary", "missing"])
def test_shards_are_looked_at_before_the_first_epoch(
    second: str, train: Train, binarized: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second is trained on an epoch later, which may be a day."""
    other = tmp_path / "other"
    if second != "missing":
        write_token_directory(other, words=40)
    with pytest.raises(SystemExit):
        train(f"--save-dir {tmp_path / 'run'} --max-update 1", data=f"{binarized / 'one'}:{other}")
    assert f"{other}/train.bin/.idx: no such" in (errors := capfd.readouterr().err) or "differs from" in errors


def test_verify_reads_the_checksums(binarized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    shutil.copytree(binarized / "two", data)
    content = bytearray(bin_path(data / "shard1" / "train").read_bytes())
    content[len(content) // 2] ^= 1
    bin_path(data / "shard1" / "train").write_bytes(content)
    (data / "shard0" / "valid.idx").unlink()
    assert data_main(["verify", str(data)]) == 1
    printed = capsys.readouterr().out
    assert "shard1/train.bin is not the file that was written" in printed
    assert "shard0/valid.idx is missing" in printed
    assert data_main(["verify", str(data / "shard0")]) == 1
    assert data_main(["verify", str(tmp_path)]) == 2


def test_a_tokenizer_with_more_pieces_than_the_dictionary_is_refused(binarized: Path, tmp_path: Path) -> None:
    from metro_t0.errors import UserError

    shutil.copytree(binarized / "vocab", tmp_path / "vocab")
    cut_dictionary(tmp_path / "vocab")
    with pytest.raises(UserError, match=r"tokenizer.json: has 60 pieces, dict.txt 40"):
        Tokenizer.load(tmp_path / "vocab")


FEW_FILES = """
import resource, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from fairseq_plugins.tasks.prompt_finetuning import PromptFinetuningConfig, PromptFinetuningTask
start = time.perf_counter()
task = PromptFinetuningTask.setup_task(PromptFinetuningConfig(data=sys.argv[1], tokens_per_sample=8, seed=1))
for split in ("train", "valid"):
    task.load_dataset(split)
print(time.perf_counter() - start)
batches = task.get_batch_iterator(task.dataset("train"), max_sentences=500, num_workers=2).next_epoch_itr()
print(sum(len(batch["id"]) for batch in batches))
"""


def test_two_thousand_tasks_need_no_more_files_than_one(tmp_path: Path) -> None:
    """Under `ulimit -n 256`, loading and reading train and valid of a mixture of 2,000 tasks."""
    write_token_directory(tmp_path, 1)
    entries = []
    for split in ("train", "valid"):
        for side in ("source", "target"):
            (tmp_path / split).mkdir(exist_ok=True)
            with TokenFileWriter(tmp_path / split / f"first.{side}", np.uint16) as writer:
                writer.add([5, 6, 2])
            for number in range(2000):
                for suffix in (".bin", ".idx"):
                    file = tmp_path / split / f"first.{side}{suffix}"
                    (tmp_path / split / f"task{number}.{side}{suffix}").hardlink_to(file)
    for number in range(2000):
        entries.append({"name": f"task{number}", "dataset": "d", "subset": None, "examples": 1, "cap": None})
    (tmp_path / "mixture.json").write_text(json.dumps({"mixture": "many", "tasks": entries}))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    run = subprocess.run(
        [sys.executable, "-c", FEW_FILES, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    seconds, examples = run.stdout.split()
    assert int(examples) == 2000
    assert float(seconds) < 60
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit
    print(f"2,000 tasks with train and valid load in {float(seconds):.2f} s")


def test_two_runs_do_not_write_one_save_dir(
    train: Train, token_directory: Path, common_options: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_dir = tmp_path / "run"
    endless = f"{token_directory} --task metro_pretraining {common_options} --max-update 100000 --save-dir {save_dir}"
    other = subprocess.Popen(
        [sys.executable, "-m", "fairseq_cli.train", *endless.split(), "--save-interval-updates", "1"],
        cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not list(save_dir.glob("checkpoint_*.pt")):
            assert other.poll() is None
            time.sleep(0.02)
        with pytest.raises(SystemExit) as ended:
            train(f"--save-dir {save_dir} --max-update 1")
        assert ended.value.code == 2
        assert f"{save_dir}: in use by process {other.pid}" in capfd.readouterr().err
    finally:
        other.kill()
        other.wait()
    for _ in range(2):
        train(f"--save-dir {save_dir} --max-update 1")  # it is free again, and this process may go on itself
