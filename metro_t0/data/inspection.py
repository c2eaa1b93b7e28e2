"""Token files printed as text, and what was written as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metro_t0.data.token_files import TokenFile
from metro_t0.errors import printable
from metro_t0.tables import print_table
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


def print_info(output: Path, info: dict[str, Any]) -> None:
    """Print what info.json says: a row per set, then the lines that were skipped and why."""
    columns = ("documents", "items", "tokens")
    rows = [
        (name, *(f"{counts[key]:,}" for key in columns), f"{counts['unknown_rate']:.4%}")
        for name, counts in info["sets"].items()
    ]
    print_table(("set", *columns, "unknown"), rows, title=str(output))
    print_bad_lines(info["bad_lines"], info["bad_line_examples"])


def print_bad_lines(counts: Mapping[str, int], examples: Sequence[str]) -> None:
    """Print how many lines were skipped and why, and where the first ones are."""
    for reason, count in counts.items():
        print(f"skipped {count} lines: {printable(reason)}")
    for example in examples:
        print(f"  {printable(example)}")
