"""Runs that are started again: with several processes, after a kill, when they are finished, from another model."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data import iterators
from rank_processes import REPOSITORY, start, statuses

from metro_t0.tokenization.training import BpeSettings, train_bpe

Train = Callable[..., list[dict[str, Any]]]
Options = Callable[..., list[str]]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What --task prompt_finetuning reads: a vocabulary and pairs of source and target."""
    directory = tmp_path_factory.mktemp("prompts")
    words = ["what", "is", "the", "color", "of", "thing", "red", "green", "blue", "yellow"]
    train_bpe(Counter(dict.fromkeys(words, 50)), BpeSettings(vocab_size=40, lowercase=True), directory)
    pairs = [{"source": f"what is the color of {words[i % 9]}", "target": words[-1 - i % 4]} for i in range(24)]
    (directory / "train.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return directory


@pytest.fixture
def options(token_directory: Path, prompts: Path, common_options: str) -> Options:
    """Arguments of fairseq-train for a small run of a task."""
    own = {
        "metro_pretraining": [str(token_directory)],
        "t5_pretraining": [str(token_directory)],
        "prompt_finetuning": [str(prompts), "--criterion", "prompt_cross_entropy"],
        "synthetic_pretraining": [
            "--criterion",
            "prompt_cross_entropy",
            "--tasks",
            "set:1,copy:1",
            "--vocabulary",
            "compact:64",
            "--epoch-examples",
            "24",
            "--length-min",
            "2",
            "--length-max",
            "6",
        ],
    }

    def arguments(directory: Path, more: str = "", task: str = "metro_pretraining") -> list[str]:
        data, *rest = own[task] if task != "synthetic_pretraining" else ["", *own[task]]
        given = [*common_options.split(), *rest, *more.split(), "--save-dir", str(directory)]
        return [*([data] if data else []), "--task", task, *given]

    return arguments


def run(number: int, arguments: list[str], log: Path | None = None) -> None:
    assert statuses(start(number, arguments, log)) == [0] * number


def state(directory: Path, name: str = "checkpoint_last.pt") -> dict[str, Any]:
    return torch.load(directory / name, weights_only=True)


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["optimizer_history"][-1]["num_updates"] == b["optimizer_history"][-1]["num_updates"]
    for name, tensor in a["model"].items():
        assert torch.equal(tensor, b["model"][name]), name


@pytest.mark.parametrize("task", ["metro_pretraining", "t5_pretraining", "synthetic_pretraining", "prompt_finetuning"])
def test_two_processes_resume_to_the_bit(task: str, options: Options, tmp_path: Path) -> None:
    run(2, options(tmp_path / "whole", "--max-update 5", task))
    run(2, options(tmp_path / "halted", "--max-update 2", task))
    run(2, options(tmp_path / "halted", "--max-update 5", task))
    assert_same(state(tmp_path / "whole"), state(tmp_path / "halted"))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(
    before: int, after: int, options: Options, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    run(before, options(directory, "--max-update 3"))
    middle = state(directory)
    run(after, options(directory, "--max-update 4 --lr 1e-12 --reset-lr-scheduler"))
    end = state(directory)
    assert end["optimizer_history"][-1]["num_updates"] == 4
    for name, tensor in middle["model"].items():  # it went on from these weights
        assert torch.allclose(tensor.float(), end["model"][name].float(), atol=1e-6), name


@pytest.mark.parametrize(("skips", "each", "updates"), [(False, 4, [4, 3]), (True, 4, [4]), (True, 8, [7])])
def test_an_epoch_ends_once_wherever_it_was_resumed(skips: bool, each: int, updates: list[int]) -> None:
    """At batch 5 of 12, which is no multiple of the 4 batches of an update: fairseq would train 4 and begin again."""
    import fairseq_plugins  # noqa: F401

    rows = torch.utils.data.TensorDataset(torch.arange(12))
    batches = iterators.EpochBatchIterator(rows, list, [[number] for number in range(12)])
    batches.load_state_dict({"version": 2, "epoch": 1, "iterations_in_epoch": 5, "shuffle": False})
    groups = list(iterators.GroupedIterator(batches.next_epoch_itr(), each, skip_remainder_batch=skips))
    assert list(map(len, groups)) == updates
    assert batches.end_of_epoch()
    assert batches.next_epoch_idx == 2


def test_two_processes_train_from_a_checkpoint_of_another_run(options: Options, tmp_path: Path) -> None:
    run(1, options(tmp_path / "pretrained", "--max-update 3"))
    pretrained = tmp_path / "pretrained" / "checkpoint_last.pt"
    run(2, options(tmp_path / "tuned", f"--max-update 1 --lr 1e-12 --finetune-from-model {pretrained}"))
    tuned = state(tmp_path / "tuned")
    assert tuned["optimizer_history"][-1]["num_updates"] == 1
    for name, tensor in state(tmp_path / "pretrained")["model"].items():
        assert torch.allclose(tensor.float(), tuned["model"][name].float(), atol=1e-6), name


def test_a_killed_rank_and_the_same_command_again(options: Options, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    often = "--save-interval-updates 2"
    run(2, options(whole, f"--max-update 12 {often}"))
    ranks = start(2, options(killed, f"--max-update 100000 {often}"), tmp_path / "log")
    wait_for(killed, "checkpoint_*_4.pt")
    os.kill(ranks[1].pid or 0, signal.SIGKILL)
    assert 0 not in statuses(ranks)
    for later in killed.glob("checkpoint_*"):  # the kill may come late on a busy machine
        if later.name != "checkpoint_last.pt" and int(later.stem.split("_")[-1]) > 4:
            later.unlink()
    shutil.copyfile(next(killed.glob("checkpoint_*_4.pt")), killed / "checkpoint_last.pt")
    run(2, options(killed, f"--max-update 12 {often}"))
    assert_same(state(whole), state(killed))


def wait_for(directory: Path, pattern: str) -> None:
    deadline = time.monotonic() + 240
    while not list(directory.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.02)


def test_torchrun_starts_killed_ranks_again(options: Options, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = f"-m torch.distributed.run --nproc_per_node 2 --max-restarts 1 --master_port {port} -m fairseq_cli.train"
    more = "--max-update 30 --save-interval-updates 2 --distributed-world-size 2 --distributed-backend gloo"
    command = [sys.executable, *launch.split(), *options(directory, more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    with open(tmp_path / "log", "w") as log:
        torchrun = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        wait_for(directory, "checkpoint_*_4.pt")
        children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        assert torchrun.wait(480) == 0, (tmp_path / "log").read_text()[-2000:]
    assert "Loaded checkpoint" in (tmp_path / "log").read_text()
    assert state(directory)["optimizer_history"][-1]["num_updates"] == 30


def contents(directory: Path) -> dict[str, tuple[str, int]]:
    """Name -> digest and time of change of every checkpoint."""
    found = sorted(directory.glob("*.pt"))
    return {path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in found}


@pytest.mark.parametrize("limit", ["--max-update 4", "--max-epoch 1", "--stop-time-hours 1e-9 --max-update 9"])
def test_a_finished_run_stays_as_it_is(
    limit: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = f"--save-dir {tmp_path} {limit}"
    train(given)
    before = contents(tmp_path)
    assert train(given) == []
    assert contents(tmp_path) == before
    assert f"{tmp_path}: finished, nothing is changed" in capfd.readouterr().err


def test_a_run_that_patience_ended_stays_as_it_is(options: Options, tmp_path: Path) -> None:
    more = "--lr 1e-12 --patience 2 --max-update 50 --save-interval-updates 1 --keep-interval-updates 1"
    given = [option for option in options(tmp_path, more) if option != "--disable-validation"]
    run(1, given)
    before = contents(tmp_path)
    assert 2 <= state(tmp_path)["optimizer_history"][-1]["num_updates"] < 50
    run(1, given, tmp_path / "log")
    assert contents(tmp_path) == before
    assert "2 validations without a better one, as --patience says" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("failures", [1, 3])
def test_a_checkpoint_is_whole_or_is_not_written(
    failures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """fairseq writes again after what the failed attempt has left in the file: torch cannot read that."""
    from fairseq import checkpoint_utils

    from fairseq_plugins import checkpoints

    checkpoints.install()
    save, attempts = torch.save, iter(range(1, 9))

    def full_at_first(state: Any, file: Any) -> None:
        if next(attempts) <= failures:
            file.write(b"x" * 1000)
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    monkeypatch.setattr(checkpoints, "PAUSE", 0)
    monkeypatch.setattr(torch, "save", full_at_first)
    path = tmp_path / "checkpoint_last.pt"
    save({"model": 1}, path)
    if failures == 1:
        checkpoint_utils.torch_persistent_save({"model": 2}, str(path))
    else:
        with pytest.raises(SystemExit):
            checkpoint_utils.torch_persistent_save({"model": 2}, str(path))
        error = f"metro-t0: error: {path}.tmp: cannot be written (no space left on device)"
        assert capfd.readouterr().err.startswith(error)
    assert torch.load(path) == {"model": 2 if failures == 1 else 1}
