"""A small token directory and a way to call fairseq-train inside the test process."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from token_directory import write_token_directory

REPOSITORY = Path(__file__).resolve().parents[2]
COMMON = (
    "--user-dir fairseq_plugins --criterion metro --arch metro_t5_demo --d-model 32 --ffn-dim 64 --num-heads 2 "
    "--head-dim 16 --encoder-layers 2 --decoder-layers 2 --auxiliary-layers 1 --tokens-per-sample 32 "
    "--optimizer fused_adamw --lr 0.001 --lr-scheduler fixed --cpu --num-workers 0 --batch-size 4 "
    "--required-batch-size-multiple 1 --seed 1 --log-interval 1 --log-format json --disable-validation "
    "--no-epoch-checkpoints"
)
"""Options of every run: a very small model."""


@pytest.fixture(scope="session")
def common_options() -> str:
    """For tests that start a process of their own."""
    return COMMON


@pytest.fixture(scope="session")
def token_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that `fairseq-train DIR` accepts; blocks of 32 tokens, one per document."""
    return write_token_directory(tmp_path_factory.mktemp("tokens"))


Train = Callable[..., list[dict[str, Any]]]


class _Records(logging.Handler):
    """Collects the JSON records of fairseq's progress log."""

    def __init__(self, log: str) -> None:
        super().__init__(logging.INFO)
        self.log = log
        self.found: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == self.log:
            self.found.append(json.loads(record.getMessage()))


@pytest.fixture
def train(token_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """`train("--save-dir X ...", data=..., task=...)` runs fairseq-train and gives its training log records.

    With log="valid" it validates, too, and gives those records.
    """
    monkeypatch.chdir(REPOSITORY)
    logger = logging.getLogger("fairseq.logging.progress_bar")

    def run(
        options: str, data: Path | str = token_directory, task: str = "metro_pretraining", log: str = "train_inner"
    ) -> list[dict[str, Any]]:
        from fairseq_cli.train import cli_main

        # Given first, so that the options of a test override them (argparse keeps the last).
        common = f"{data} --task {task} {COMMON}"
        if log == "valid":
            common = common.replace("--disable-validation", "")
        monkeypatch.setattr(sys, "argv", ["fairseq-train", *common.split(), *options.split()])
        records = _Records(log)
        logger.addHandler(records)
        logger.setLevel(logging.INFO)
        try:
            cli_main()
        finally:
            logger.removeHandler(records)
        return records.found

    return run
