"""A small tokenizer, small data sets and templates: builds of them take a second."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from small_mixture import TEMPLATES, color_rows, write_dataset

from metro_t0.tokenization.settings import BpeSettings
from metro_t0.tokenization.training import train_bpe


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vocabulary")
    words = "say tell the color of thing what is very red green blue yellow yes no text word row"
    train_bpe(Counter(dict.fromkeys(words, 50)), BpeSettings(vocab_size=40, lowercase=True), directory)
    return directory


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Data sets `colors` (1,300 rows: three slices) and `shapes`, whose template directory is `templates`."""
    directory = tmp_path / "data"
    write_dataset(directory, "colors", train=color_rows(1300), validation=color_rows(40))
    write_dataset(directory, "shapes", train=color_rows(30), test=color_rows(10))
    for name in ("colors", "shapes"):
        folder = tmp_path / "templates" / name
        folder.mkdir(parents=True)
        (folder / "templates.yaml").write_text(TEMPLATES.replace("dataset: colors", f"dataset: {name}"))
    (tmp_path / "both.yaml").write_text("train: [colors, shapes]\n")
    return directory
