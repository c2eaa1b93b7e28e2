"""docs/extending.md, followed to the letter: its blocks are applied to a copy of the packages, its commands run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metro_t0.data.token_files import TokenFileWriter

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("metro_t0", "fairseq_plugins", "finetune", "eval", "ablation")
SECTION = re.compile(r"^## (.+): (\d) files?", re.MULTILINE)
BLOCK = re.compile(
    r'^```(?:python|yaml)\n# (?:NEW (\S+)|BEFORE "([^\n]+)" IN (\S+))\n(.*?)^```$', re.MULTILINE | re.DOTALL
)
TRAINING = (
    "--user-dir fairseq_plugins --criterion metro --arch metro_t5_demo --d-model 32 --ffn-dim 64 --num-heads 2 "
    "--head-dim 16 --encoder-layers 1 --decoder-layers 1 --auxiliary-layers 1 --tokens-per-sample 32 --lr 0.001 "
    "--lr-scheduler fixed --cpu --num-workers 0 --batch-size 64 --required-batch-size-multiple 1 --max-update 2 "
    "--log-interval 1 --log-format json --disable-validation --task metro_pretraining"
)


def sections() -> dict[str, tuple[int, list[tuple[str, ...]]]]:
    """Title -> promised number of files, blocks (new file, line, file, content)."""
    parts = SECTION.split((ROOT / "docs" / "extending.md").read_text())
    return {
        title: (int(count), BLOCK.findall(text))
        for title, count, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    }


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with everything that the page adds."""
    place = tmp_path_factory.mktemp("extended")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
    for _, blocks in sections().values():
        for new, line, file, content in blocks:
            if new:
                assert not (place / new).exists()
                (place / new).write_text(content)
                continue
            before, found, after = (place / file).read_text().partition(line)
            assert found, f"docs/extending.md: no line with {line} in {file}"
            start = before.rfind("\n") + 1
            (place / file).write_text(f"{before[:start]}{content}{before[start:]}{found}{after}")
    return place


def run(place: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(place), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_every_recipe_takes_as_many_files_as_it_says() -> None:
    found = sections()
    assert len(found) == 5
    for title, (count, blocks) in found.items():
        assert len({new or file for new, _, file, _ in blocks}) == count, title
    assert [count for count, _ in found.values()] == [1, 3, 1, 2, 1]


def test_a_variant(extended: Path) -> None:
    assert "half_rtd" in run(extended, "-m", "ablation.cli", "list", "--variants-file", "mine.yaml")


def test_an_auxiliary_loss_and_an_optimizer(extended: Path) -> None:
    data = extended / "data-bin"
    data.mkdir()
    (data / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(96)))
    random = np.random.default_rng(0)
    with TokenFileWriter(data / "train", dtype=np.uint16) as writer:
        for _ in range(128):
            writer.add([*random.integers(4, 100, 25).tolist(), 2])
            writer.add([2])
    options = "--optimizer lion --weight-decay 0.1 --sampled-detection --sampled-weight 2 --save-dir run"
    output = run(extended, "-m", "fairseq_cli.train", str(data), *TRAINING.split(), *options.split())
    records = [json.loads(line[line.index("{") :]) for line in output.splitlines() if '"sampled_loss"' in line]
    assert len(records) == 2
    assert all({"sampled_loss", "sampled_recall", "rtd_loss"} <= record.keys() for record in records)
    parts = {name: float(records[0][f"{name}_loss"]) for name in ("mlm", "rtd", "clm", "sampled")}
    expected = parts["mlm"] + parts["clm"] + 50 * parts["rtd"] + 2 * parts["sampled"]
    assert float(records[0]["loss"]) == pytest.approx(expected, rel=0.15)  # the ratio of masked to real positions
    checked = """
from pathlib import Path
from metro_t0.analysis.training_log import PANELS
from metro_t0.hf.checkpoints import read_checkpoint
from metro_t0.hf.configuration import MetroT5Config
assert "sampled_loss" in PANELS and "sampled_recall" in PANELS
checkpoint = read_checkpoint(Path("run/checkpoint_last.pt"))
assert checkpoint.config.sampled_detection and not checkpoint.config.without_pretraining().sampled_detection
assert any(name.startswith("sampled_head.") for name in checkpoint.pretraining_tensors())
assert "sampled_detection" not in MetroT5Config.from_model_config(checkpoint.config).to_dict()
"""
    run(extended, "-c", checked)


def test_an_evaluation_task_set(extended: Path) -> None:
    code = "from eval.tasks import task_set_of; print(*(task.name for task in task_set_of('short').tasks))"
    assert run(extended, "-c", code).split() == ["super_glue/rte", "copa"]


def test_a_synthetic_task(extended: Path) -> None:
    drawn = ["swap_ends", "--vocabulary", "compact:100", "--train", "2000", "--valid", "100", "--format", "tsv"]
    run(extended, "-m", "metro_t0.synthetic.cli", "generate", *drawn, "--output", "swapped")
    verified = run(extended, "-m", "metro_t0.synthetic.cli", "verify", "swapped")
    assert "2000 examples of swap_ends, all right" in verified
