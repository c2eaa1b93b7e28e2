"""Which checkpoint of a run is the newest, by their names."""

from __future__ import annotations

import os
from pathlib import Path

from metro_t0.checkpoint_files import sorted_checkpoints


def test_the_newest_checkpoint_comes_first(tmp_path: Path) -> None:
    """The end of an epoch is after all within it, and the digits of a loss are no number of updates."""
    newest_first = ["_3_700", "2", "_2_500", "1", "_1_200", "_last", ".best_loss_2.34510"]
    for age, name in enumerate(newest_first):
        path = tmp_path / f"checkpoint{name}.pt"
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert [path.stem.removeprefix("checkpoint") for path in sorted_checkpoints(tmp_path)] == newest_first
