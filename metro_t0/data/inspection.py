"""Token files printed as text."""

from __future__ import annotations

from pathlib import Path

from metro_t0.data.token_files import TokenFile
from metro_t0.tokenization import Tokenizer


def print_documents(directory: Path, name: str, count: int) -> None:
    """Print the first `count` documents of a set, a line per item and an empty line between documents."""
    tokenizer = Tokenizer.load(directory)
    file = TokenFile(directory / name)
    print(f"# {directory / name}: {len(file):,} items, {int(file.sizes.sum(dtype='int64')):,} tokens")
    for item in file:
        if len(item) > 1:
            print(tokenizer.decode(item.tolist()))
            continue
        print()
        count -= 1
        if not count:
            return
