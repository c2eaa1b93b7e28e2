"""Batches depend on (seed, epoch, example) alone: not on loader processes, restarts or the epoch they began in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loader_batches import check_workers_and_restarts
from omegaconf import OmegaConf
from token_directory import write_token_directory

Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def two_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`a:b`, one shard per epoch in turn."""
    root = tmp_path_factory.mktemp("shards")
    return ":".join(str(write_token_directory(root / name, documents, 40)) for name, documents in (("a", 9), ("b", 7)))


def make_task(task: str, config: str, **options: Any) -> Callable[[], Any]:
    import fairseq_plugins  # noqa: F401
    from fairseq_plugins.tasks import pretraining, synthetic_pretraining

    module = synthetic_pretraining if task.startswith("Synthetic") else pretraining
    cfg = OmegaConf.structured(getattr(module, config))
    for name, value in {"seed": 1, **options}.items():
        cfg[name] = value
    return lambda: getattr(module, task).setup_task(cfg)


PRETRAINING = {"metro": ("MetroPretrainingTask", "MetroPretrainingConfig"),
               "t5": ("T5PretrainingTask", "T5PretrainingConfig")}  # fmt: skip


@pytest.mark.parametrize("objective", ["metro", "t5"])
@pytest.mark.parametrize("sharded", [False, True], ids=["directory", "shards"])
def test_pretraining(objective: str, sharded: bool, token_directory: Path, two_shards: str) -> None:
    data = two_shards if sharded else str(token_directory)
    # Spans so short that a block has several: a single one always stands at its end.
    make = make_task(*PRETRAINING[objective], data=data, tokens_per_sample=32, mean_span_length=1.0)
    batches = check_workers_and_restarts(make, max_sentences=3 if sharded else 8)
    sources = {tuple(map(tuple, batch["net_input"]["source_tokens"].tolist())) for batch in batches}
    masks = [batch["net_input"].get("masked_tokens", batch["net_input"]["source_tokens"]) for batch in batches]
    distinct = {tuple(map(tuple, mask.tolist())) for mask in masks}
    assert len(distinct) == len(batches), "some epoch has the masks of another"
    if objective == "metro":
        assert len(sources) < len(batches)  # the text itself does come again


def test_synthetic_stream(tmp_path: Path) -> None:
    make = make_task(
        "SyntheticPretrainingTask", "SyntheticPretrainingConfig", tasks="set,identity", vocabulary="compact:50",
        length_max=20, epoch_examples=20, save_dir=str(tmp_path),
    )  # fmt: skip
    batches = check_workers_and_restarts(make, max_sentences=8)
    rows = {tuple(row) for batch in batches for row in batch["net_input"]["src_tokens"].tolist()}
    assert len(rows) > 50, "the endless stream repeats itself"


def test_training_with_workers_is_training_without(train: Train, tmp_path: Path) -> None:
    """Through fairseq-train itself, beyond the first epoch (of 6 updates), stopped and resumed in the second."""
    without = train(f"--save-dir {tmp_path / 'without'} --max-update 15")
    options = f"--save-dir {tmp_path / 'with'} --num-workers 1"
    begun = train(f"{options} --max-update 8")
    assert [r["loss"] for r in begun + train(f"{options} --max-update 15")] == [r["loss"] for r in without]


def test_grouped_shuffling_leaves_no_batch_out(token_directory: Path) -> None:
    """And the order of an epoch is the same wherever a run was resumed, whose epoch fairseq may add to the seed."""
    make = make_task(*PRETRAINING["metro"], data=str(token_directory), tokens_per_sample=32)

    def order(rank: int, seed: int) -> list[int]:
        task = make()
        task.load_dataset("train", epoch=2)
        settings = {"max_sentences": 8, "required_batch_size_multiple": 1, "epoch": 2, "grouped_shuffling": True}
        batches = task.get_batch_iterator(
            task.dataset("train"), **settings, seed=seed, num_shards=2, shard_id=rank
        ).next_epoch_itr()
        return [int(number) for batch in batches if batch for number in batch["id"]]

    assert sorted(order(0, 1) + order(1, 1)) == list(range(24))  # three batches
    assert order(0, 3) == order(0, 1)


@pytest.mark.parametrize("subset", ["train", "corpus"])
def test_masks_of_any_subset_that_is_trained_on_change(
    subset: str, token_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq_plugins import run as runs

    shutil.copytree(token_directory, tmp_path / "data")
    for suffix in (".bin", ".idx"):
        shutil.copyfile(token_directory / f"train{suffix}", tmp_path / "data" / f"corpus{suffix}")
    monkeypatch.setattr(runs, "current", runs.Run(OmegaConf.create({"dataset": {"train_subset": subset}}), False))
    task = make_task(*PRETRAINING["metro"], data=str(tmp_path / "data"), tokens_per_sample=32)()
    for name, epoch in {subset: 2, "valid": 0}.items():
        task.load_dataset(name, epoch=2)
        assert task.dataset(name).stream.epoch == epoch


@pytest.mark.parametrize(("padding", "most"), [({"pad_multiple": 64}, 4), ({"pad_blocks": True}, 2)])
def test_padding_counts_in_batches_by_tokens(padding: dict[str, Any], most: int, token_directory: Path) -> None:
    task = make_task(*PRETRAINING["metro"], data=str(token_directory), tokens_per_sample=128, **padding)()
    task.load_dataset("train")
    blocks = task.dataset("train")
    batches = blocks.batch_by_size(blocks.ordered_indices(), max_tokens=256, required_batch_size_multiple=1)
    assert max(map(len, batches)) == most
