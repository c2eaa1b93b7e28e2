"""Batches depend on (seed, epoch, example) alone: not on loader processes, restarts or the epoch they began in."""

from __future__ import annotations

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
