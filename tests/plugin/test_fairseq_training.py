"""The plugin under the real fairseq-train: resume, accumulation, several processes, precisions, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from metro_t0.modeling import MetroT5, PretrainingBatch, PretrainingOutput

Train = Callable[..., list[dict[str, Any]]]
REPOSITORY = Path(__file__).resolve().parents[2]
NO_DROPOUT = "--dropout 0 --attention-dropout 0"


def tensors(directory: Path, name: str = "checkpoint_last.pt") -> dict[str, torch.Tensor]:
    """The model in a checkpoint that this test has just written itself."""
    return torch.load(directory / name, weights_only=False)["model"]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].float() - b[name].float()).abs().max().item() for name in a)


def test_a_run_learns_and_logs_everything_people_watch(train: Train, tmp_path: Path) -> None:
    records = train(f"--save-dir {tmp_path / 'run'} --max-update 40 --lr 0.003 {NO_DROPOUT}")
    assert [int(record["num_updates"]) for record in records] == list(range(1, 41))
    assert float(records[-1]["mlm_loss"]) < float(records[0]["mlm_loss"])
    assert float(records[-1]["rtd_loss"]) < float(records[0]["rtd_loss"])
    for name in (
        "mlm_loss", "rtd_loss", "clm_loss", "mlm_accuracy", "replacement_rate", "rtd_recall", "rtd_specificity",
        "clm_accuracy_masked", "clm_accuracy_replaced",
    ):  # fmt: skip
        assert name in records[-1], name


def test_resuming_gives_the_same_run_to_the_bit(train: Train, tmp_path: Path) -> None:
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    uninterrupted = train(f"--save-dir {whole} --max-update 9")
    train(f"--save-dir {halted} --max-update 4")  # in the middle of an epoch of 6 updates
    state = torch.load(halted / "checkpoint_last.pt", weights_only=False)
    state["extra_state"]["previous_training_time"] = 5000.0
    torch.save(state, halted / "checkpoint_last.pt")
    resumed = train(f"--save-dir {halted} --max-update 9")
    assert float(resumed[0]["wall"]) >= 5000
    assert [r["loss"] for r in resumed] == [r["loss"] for r in uninterrupted[4:]]
    assert largest_difference(tensors(whole), tensors(halted)) == 0.0


def test_killed_training_resumes_from_the_last_checkpoint_to_the_bit(
    train: Train, token_directory: Path, common_options: str, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = "--max-update 40 --save-interval-updates 10"
    uninterrupted = train(f"--save-dir {whole} {options}")
    endless = f"{token_directory} --task metro_pretraining {common_options} --max-update 100000"
    command = f"-m fairseq_cli.train {endless} --save-interval-updates 10 --save-dir {killed}"
    process = subprocess.Popen(
        [sys.executable, *command.split()], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoint_*_20.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for later in killed.glob("checkpoint_*_[3-9]*.pt"):  # the kill may come late on a busy machine
        later.unlink()
    restore = next(killed.glob("checkpoint_*_20.pt"))
    resumed = train(f"--save-dir {killed} --restore-file {restore} {options}")
    assert [r["loss"] for r in resumed] == [r["loss"] for r in uninterrupted[20:]]
    assert largest_difference(tensors(whole), tensors(killed)) == 0.0


def test_accumulating_two_batches_equals_one_batch_of_both(train: Train, tmp_path: Path) -> None:
    sgd = f"--optimizer sgd --lr 0.01 --max-update 1 {NO_DROPOUT}"
    train(f"--save-dir {tmp_path / 'one'} --batch-size 24 {sgd}")
    train(f"--save-dir {tmp_path / 'two'} --batch-size 12 --update-freq 2 {sgd}")
    assert largest_difference(tensors(tmp_path / "one"), tensors(tmp_path / "two")) < 1e-6


@pytest.mark.parametrize(
    ("backend", "batches"),
    # With three batches, of which the second process gets one only, it does not lack that in its last step.
    [("pytorch_ddp", "--batch-size 12"), ("legacy_ddp", "--batch-size 8 --update-freq 2")],
)
def test_two_processes_equal_one_with_the_whole_batch(
    backend: str, batches: str, train: Train, token_directory: Path, common_options: str, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    sgd = f"--optimizer sgd --lr 0.01 --max-update 1 {NO_DROPOUT}"
    (valid,) = train(f"--save-dir {one} --batch-size 24 {sgd}", log="valid")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (
        f"-m torch.distributed.run --nproc_per_node 2 --master_port {port} -m fairseq_cli.train {token_directory} "
        f"--task metro_pretraining {common_options.replace('--disable-validation', '')} {batches} "
        f"--batch-size-valid 5 --save-dir {two} {sgd} "
        f"--distributed-world-size 2 --distributed-backend gloo --ddp-backend {backend}"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, *command.split()], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert largest_difference(tensors(one), tensors(two)) < 1e-6
    # Not a mean over batches: the detector's ranking over all of the held-out text.
    (log,) = [json.loads(line[line.find("{") :]) for line in run.stdout.splitlines() if '"valid_rtd_auc"' in line]
    for name in ("valid_rtd_auc", "valid_rtd_average_precision", "valid_replaced_share", "valid_clm_loss"):
        assert float(log[name]) == pytest.approx(float(valid[name]), abs=2e-4)
    assert not any("detections" in name for name in log)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[PretrainingBatch]:
    """What the model is given in every forward pass."""
    seen: list[PretrainingBatch] = []
    forward = MetroT5.forward

    def record(self: MetroT5, batch: PretrainingBatch) -> PretrainingOutput:
        seen.append(batch)
        return forward(self, batch)

    monkeypatch.setattr(MetroT5, "forward", record)
    return seen


def test_full_blocks_with_a_fixed_mask_count_make_batches_of_one_shape(
    train: Train, batches: list[PretrainingBatch], tmp_path: Path
) -> None:
    train(f"--save-dir {tmp_path / 'run'} --max-update 4 --no-save --sample-break-mode none --fixed-mask-count")
    shapes = {(tuple(b.source_tokens.shape), tuple(b.masked_positions.shape), b.has_padding) for b in batches}
    assert shapes == {((4, 32), (4 * 5,), False)}  # 15% of 32 is 5


def test_padded_blocks_all_have_the_sample_length(
    train: Train, batches: list[PretrainingBatch], tmp_path: Path
) -> None:
    train(f"--save-dir {tmp_path / 'run'} --max-update 4 --no-save --pad-blocks")
    assert {b.source_tokens.shape for b in batches} == {torch.Size((4, 32))}
    assert all(b.has_padding for b in batches)  # no document here fills a block


def test_batches_are_padded_to_a_multiple(
    train: Train, batches: list[PretrainingBatch], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = f"--save-dir {tmp_path / 'run'} --max-update 6 --no-save --batch-size 2"
    train(f"{options} --pad-multiple 8")
    assert {b.source_tokens.shape[1] for b in batches} == {24, 32}
    assert any(bool((b.source_tokens != 1).any(0)[-1]) for b in batches)
    with pytest.raises(SystemExit, match="2"):
        train(f"{options} --pad-multiple 12")
    assert "does not divide --tokens-per-sample 32" in capfd.readouterr().err


@pytest.mark.parametrize("precision", ["", "--bf16", "--amp"])
def test_uniform_numbers_keep_their_precision(
    precision: str, train: Train, batches: list[PretrainingBatch], tmp_path: Path
) -> None:
    train(f"--save-dir {tmp_path / 'run'} --max-update 2 --no-save {precision}")
    uniforms = torch.cat([b.sample_uniforms for b in batches])
    assert len(uniforms.unique()) == len(uniforms)
    assert ((uniforms * 2**10) % 1 != 0).double().mean() > 0.9  # bfloat16 has 8 bits


@pytest.mark.parametrize(
    "variant",
    [
        "--decoding-target all_tokens", "--decoding-target masked_only", "--clm-head copy", "--rtd decoder",
        "--rtd decoder --clm-head projection", "--mask-pattern span", "--weighted-clm", "--rtd-head linear",
        "--keep-ratio 0.1 --random-ratio 0.1", "--auxiliary-sharing tokens", "--bf16", "--amp",
        "--activation-checkpointing", "--sample-break-mode none", "--sample-break-mode complete --within-documents",
        "--optimizer adam --adam-betas (0.9,0.98)",
    ],
)  # fmt: skip
def test_every_option_trains(variant: str, train: Train, tmp_path: Path) -> None:
    records = train(f"--save-dir {tmp_path / 'run'} --max-update 2 --no-save {variant}")
    assert len(records) == 2
    assert all(float(record["clm_loss"]) > 0 for record in records)


@pytest.mark.parametrize("target", ["spans", "all_tokens"])
def test_the_t5_baseline_trains_on_the_same_model(target: str, train: Train, tmp_path: Path) -> None:
    options = f"--save-dir {tmp_path / 'run'} --max-update 30 --lr 0.003 --decoding-target {target} {NO_DROPOUT}"
    records = train(options, task="t5_pretraining")
    assert float(records[-1]["clm_loss"]) < float(records[0]["clm_loss"])
    assert not any("auxiliary" in name or "rtd" in name for name in tensors(tmp_path / "run"))


def test_vanilla_t5_trains_with_the_same_plugin(train: Train, tmp_path: Path) -> None:
    records = train(f"--arch t5_tiny --no-save --save-dir {tmp_path} --max-update 2", task="t5_pretraining")
    assert len(records) == 2


def test_sharded_data_take_turns(train: Train, token_directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(token_directory, other)
    both = f"{token_directory}:{other}"
    records = train(f"--save-dir {tmp_path / 'run'} --no-save --max-update 12", data=both)
    assert len(records) == 12


def test_validation_keeps_its_masks(train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from fairseq_plugins.tasks.pretraining import BlockDataset

    blocks = [torch.arange(4, 20)] * 3
    sizes = torch.tensor([16] * 3).numpy()
    blocks = type("Blocks", (list,), {"sizes": sizes})(blocks)
    seen = []

    def note(tokens: Any, examples: Any, stream: Any) -> Any:
        seen.append(stream)
        return PretrainingBatch(*[torch.zeros(0)] * 4)

    for epoch in (0, 1):
        data = BlockDataset(blocks, note, 1, seed=7, epoch=epoch)  # type: ignore[arg-type]
        data.set_epoch(5)
        data.collater([data[0]])
    assert [stream.epoch for stream in seen] == [0, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--mask-ratio 1.5", "--mask-ratio is 1.5; it must be at most 0.999"),
        ("--mask-ratio 0", "--mask-ratio is 0.0"),
        ("--tokens-per-sample 700", "sequences of 700 tokens do not fit --max-positions 512"),
        ("--auxiliary-layers 0 --rtd none", "needs an auxiliary"),
        ("--decoding-target masked_only --clm-head copy", "masked_only does not go with --clm-head=copy"),
        ("--decoding-target masked_only --within-documents", "masked_only does not go with --within-documents"),
        ("--rtd none --weighted-clm", "--weighted-clm needs the RTD head"),
        ("--sentence-avg", "--sentence-avg: the losses are means over positions"),
        ("--write-checkpoints-asynchronously", "fairseq then writes no checkpoint_last.pt"),
        ("--memory-efficient-bf16", "do not keep: use --optimizer adam"),
        ("--attention-backend flex --attention-dropout 0.1", "--attention-backend is flex, which has no dropout"),
        ("--attention-backend flex", "flex, which trains on CUDA only"),
    ],
)
def test_bad_options_give_one_line_and_status_2(
    options: str, message: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        train(f"--no-save --save-dir {tmp_path} --max-update 1 {options}")
    assert exit_.value.code == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("metro-t0: error:")]
    assert len(error) == 1
    assert message in error[0]


def test_unknown_architecture_exits_with_status_2(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        train("--arch metro_t5_huge")
    assert exit_.value.code == 2
    assert "invalid choice: 'metro_t5_huge'" in capfd.readouterr().err


def test_missing_data_says_how_to_make_it(train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        train("--max-update 1", data=tmp_path / "nowhere")
    assert exit_.value.code == 2
    assert "make the directory with metro-t0-data binarize" in capfd.readouterr().err


def test_another_dictionary_than_the_checkpoints_is_refused(
    train: Train, token_directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(f"--save-dir {tmp_path / 'run'} --max-update 1")
    other = tmp_path / "other"
    shutil.copytree(token_directory, other)
    lines = (other / "dict.txt").read_text().splitlines()
    (other / "dict.txt").write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(SystemExit) as exit_:
        train(f"--save-dir {tmp_path / 'run'} --max-update 2", data=other)
    assert exit_.value.code == 2
    assert "dict.txt is not the one the checkpoint was trained with" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--max-tokens", "--max-tokens-valid"])
def test_batches_too_small_for_an_example_are_refused(
    option: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """fairseq trains without the long examples, and validation ends in a traceback."""
    with pytest.raises(SystemExit) as exit_:
        train(f"--save-dir {tmp_path} --max-update 1 {option} 20", log="valid")
    assert exit_.value.code == 2
    assert "a batch has at most 20 tokens, but examples have up to 31" in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "beginning", "garbage", "flipped bit"])
def test_a_damaged_checkpoint_names_the_way_on(
    damage: str, train: Train, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(f"--save-dir {run} --max-update 4 --save-interval-updates 2")
    last = run / "checkpoint_last.pt"
    intact = last.read_bytes()
    middle = len(intact) // 2
    flipped = intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :]
    beginning = intact[:50_000]  # where torch's reader fails with an OSError
    damaged = {
        "truncated": intact[:middle],
        "beginning": beginning,
        "garbage": b"\x00garbage" * 1000,
        "flipped bit": flipped,
    }
    last.write_bytes(damaged[damage])
    with pytest.raises(SystemExit) as exit_:
        train(f"--save-dir {run} --max-update 6")
    assert exit_.value.code == 2
    error = capfd.readouterr().err
    assert "truncated or corrupt checkpoint; continue from the one before with --restore-file" in error
    remedy = error.split("--restore-file ")[1].split()[0]
    assert len(train(f"--save-dir {run} --max-update 6 --restore-file {remedy}")) == 2
