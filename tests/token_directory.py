"""A small directory of token files, without a tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metro_t0.data.token_files import TokenFileWriter

NUM_WORDS, NUM_DOCUMENTS = 96, 24


def write_token_directory(directory: Path, documents: int = NUM_DOCUMENTS, words: int = NUM_WORDS) -> Path:
    """dict.txt, train and valid of random words: one line per document, an empty line after each."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(words)))
    random = np.random.default_rng(0)
    for split in ("train", "valid"):
        with TokenFileWriter(directory / split, dtype=np.uint16) as writer:
            for _ in range(documents):
                line = random.integers(4, 4 + words, random.integers(16, 30))
                writer.add([*line.tolist(), 2])
                writer.add([2])
    return directory
