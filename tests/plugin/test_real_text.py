"""The commands a user types, in order, on real books and documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from metro_t0.analysis.training_log import trivial_baselines
from metro_t0.data.cli import main as metro_t0_data

Train = Callable[..., list[dict[str, Any]]]


def test_real_text_trains_towards_the_unigram_plateau(real_data: Path, train: Train, tmp_path: Path) -> None:
    text = str(real_data / "corpus" / "valid-00.txt.zst")
    vocabulary, data = str(tmp_path / "vocab"), str(tmp_path / "data")
    assert metro_t0_data(["tokenizer", text, "--vocab-size", "1000", "--lowercase", "--output", vocabulary]) == 0
    assert (
        metro_t0_data(["binarize", text, "--tokenizer", vocabulary, "--valid-fraction", "0.1", "--output", data]) == 0
    )
    records = train(
        f"--save-dir {tmp_path / 'run'} --no-save --max-update 60 --lr 0.005 --batch-size 16 --tokens-per-sample 64",
        data=data,
    )
    entropy = trivial_baselines(Path(data) / "dict.txt")["mlm_loss"]
    start, end = ([float(record[f"{name}_loss"]) for name in ("mlm", "clm")] for record in (records[0], records[-1]))
    assert all(loss > entropy + 0.5 for loss in start)
    # Sixty updates learn the frequencies of the words, not yet their contexts.
    assert all(loss < entropy + 0.5 for loss in end)
    assert float(records[-1]["rtd_loss"]) < 0.5
