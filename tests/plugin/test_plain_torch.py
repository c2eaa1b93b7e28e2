"""examples/plain_torch.py: the losses of the plugin without fairseq, on several processes, sharded, and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metro_t0.data.token_files import TokenFileWriter

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "plain_torch.py"
FIELDS = {"d_model": 32, "ffn_dim": 64, "num_heads": 2, "head_dim": 16, "encoder_layers": 2, "decoder_layers": 2,
          "auxiliary_layers": 1, "dropout": 0.0, "attention_dropout": 0.0}  # fmt: skip
UPDATES = 20
Train = Callable[..., list[dict[str, Any]]]
LOSSES = ("mlm_loss", "rtd_loss", "clm_loss")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of several lines, some longer than a block; an odd number of batches of 4."""
    directory = tmp_path_factory.mktemp("tokens")
    (directory / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(96)))
    random = np.random.default_rng(1)
    with TokenFileWriter(directory / "train", dtype=np.uint16) as writer:
        for _ in range(11):
            for _ in range(int(random.integers(1, 4))):
                writer.add([*random.integers(4, 100, int(random.integers(1, 70))).tolist(), 2])
            writer.add([2])
    return directory


@pytest.fixture(scope="module")
def example(data: Path) -> Callable[..., list[dict[str, float]]]:
    """Runs the example; gives its log, one record per update."""

    def run(processes: int, *options: str) -> list[dict[str, float]]:
        launch = [sys.executable]
        if processes > 1:
            launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        fixed = [
            str(EXAMPLE), str(data), "--preset", "demo", "--tokens-per-sample", "32", "--batch-size", "4",
            "--warmup", "5", "--updates", str(UPDATES), "--lr", "0.001", "--clip-norm", "2.0", "--log-every", "1",
            "--model", "gated_ffn=false", *(f"{name}={value}" for name, value in FIELDS.items()),
        ]  # fmt: skip
        done = subprocess.run([*launch, *fixed, *options], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    return run


@pytest.fixture
def of_the_plugin(data: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The same losses under fairseq, unrounded: two accumulated batches are what two processes have."""
    from fairseq_plugins.criterions.metro import MetroCriterion

    seen: list[dict[str, float]] = []

    def record(logging_outputs: list[dict[str, Any]]) -> None:
        def total(key: str) -> float:
            return float(sum(log[key] for log in logging_outputs if key in log))

        names = [loss.removesuffix("_loss") for loss in LOSSES]
        seen.append({f"{name}_loss": total(f"{name}_total") / total(f"{name}_count") for name in names})

    monkeypatch.setattr(MetroCriterion, "reduce_metrics", staticmethod(record))
    model = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in FIELDS.items())
    train(
        f"{model} --update-freq 2 --max-update {UPDATES} --lr-scheduler polynomial_decay --warmup-updates 5 "
        f"--total-num-update {UPDATES} --clip-norm 2.0 --adam-betas (0.9,0.98) --adam-eps 1e-6 --weight-decay 0.01 "
        f"--no-save --save-dir {tmp_path / 'plugin'}",
        data=data,
    )
    return seen


def test_losses_are_those_of_the_plugin(
    example: Callable[..., list[dict[str, float]]], of_the_plugin: list[dict[str, float]], tmp_path: Path
) -> None:
    assert len(of_the_plugin) == UPDATES
    expected = np.array([[step[name] for name in LOSSES] for step in of_the_plugin])
    assert expected[-1, 1] < expected[0, 1] - 0.01  # weights change: equal losses say something

    replicated = example(2, "--save", str(tmp_path / "ddp"))
    sharded = example(2, "--shard", "--save", str(tmp_path / "fsdp"), "--stop-at", "9")
    # Resumed from the shares of two processes by one, with accumulation in place of the other process.
    resumed = example(1, "--shard", "--accumulate", "2", "--save", str(tmp_path / "fsdp"))
    for name, log in (("DDP", replicated), ("FSDP, resumed", [*sharded, *resumed])):
        assert [record["update"] for record in log] == list(range(1, UPDATES + 1)), name
        found = np.array([[record[loss] for loss in LOSSES] for record in log])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=name)


def test_it_stays_short_and_free_of_fairseq() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert "import fairseq" not in text
    assert "from fairseq" not in text
