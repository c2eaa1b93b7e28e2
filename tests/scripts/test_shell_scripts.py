"""The scripts of cluster/ as a shell runs them: from another folder, with numbers that do not fit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CLUSTER = Path(__file__).resolve().parents[2] / "scripts" / "cluster"


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """A PATH with a metro-t0-train."""
    (tmp_path / "metro-t0-train").touch(mode=0o755)
    return f"{tmp_path}:/usr/bin:/bin"


def torchrun(
    path: str, *arguments: str, script: str = "cluster/torchrun.sh", **environment: str
) -> tuple[int, str, str]:
    done = subprocess.run(
        [script, *arguments], env={"PATH": path, "DRY_RUN": "1", **environment}, cwd=CLUSTER.parent,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_torchrun_keeps_the_global_batch_from_any_folder(installed: str) -> None:
    status, shown, _ = torchrun(installed, "metro_t5_base", "my data", "x=y", GPUS_PER_NODE="128")
    assert status == 0
    assert "metro-t0-train metro_t5_base task.data=my data dataset.batch_size=16 optimization.update_freq=[1]" in shown
    assert shown.endswith("distributed_training.distributed_world_size=128 x=y\n")
    status, _, usage = torchrun(installed, "metro_t5_base")
    assert (status, usage.splitlines()[0][:20]) == (2, "Pretrain on the GPUs")


@pytest.mark.parametrize("number", ["3", "4096"])
def test_torchrun_refuses_what_does_not_divide_the_batch_in_one_line(installed: str, number: str) -> None:
    status, _, error = torchrun(installed, "metro_t5_base", "data", GPUS_PER_NODE=number)
    assert status == 2
    assert error.count("\n") == 1
    assert "set BATCH, or GLOBAL_BATCH (2048)" in error


def test_a_part_that_failed_is_submitted_again_alone() -> None:
    slurm = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1", "PARTS": "32"}
    status, shown, _ = torchrun("/usr/bin:/bin", "a.txt", script="cluster/binarize.sh", **slurm)
    assert (status, shown) == (0, "metro-t0-data binarize a.txt --workers 1 --part 7/32\n")
