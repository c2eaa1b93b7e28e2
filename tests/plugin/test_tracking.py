"""fairseq's tensorboard switch, offline: training and validation arrive under their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_tensorboard(train: Callable[..., list[dict[str, Any]]], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(f"--tensorboard-logdir {tmp_path} --save-dir {tmp_path / 'run'} --max-update 3 --no-save")
    found = EventAccumulator(str(tmp_path / "train_inner")).Reload()
    tags = found.Tags()["scalars"]
    assert {"mlm_loss", "rtd_loss", "clm_loss", "rtd_recall"} <= set(tags)
    assert [event.step for event in found.Scalars("mlm_loss")] == [1, 2, 3]
