"""The options that several commands have: one name, one meaning and one default for each."""

from __future__ import annotations

import os
from dataclasses import MISSING
from typing import Any

from metro_t0.options import option

SEED = 1
LARGEST_SEED = 2**32 - 1
MOST_TOKENS = 1_000_000
"""Of one sequence or batch: more is a slip of the keyboard."""
MOST_EXAMPLES = 10**12


def seed_option(of: str) -> Any:
    """`--seed N`."""
    return option(SEED, f"of {of}", at_least=0, at_most=LARGEST_SEED)


def limit_option(of: str) -> Any:
    """`--limit N`: in every command a sample that the seed chooses."""
    return option(
        None, f"at most N {of}, a sample that --seed chooses (default: all)", at_least=1, at_most=MOST_EXAMPLES
    )


def only_option(of: str) -> Any:
    """`--only NAME,NAME`."""
    return option((), f"only these {of}, separated by commas", names=True, metavar="NAME,NAME")


def output_option(what: str = "directory to write", metavar: str = "DIR") -> Any:
    """`--output PATH`."""
    return option(help=what, metavar=metavar)


def data_dir_option() -> Any:
    """`--data-dir DIR`."""
    form = "NAME[/SUBSET]/SPLIT.{jsonl,jsonl.gz,parquet}"
    return option(None, f"local data sets as {form}, searched before the hub", metavar="DIR")


def templates_option() -> Any:
    """`--templates DIR`."""
    return option(
        None,
        "template files as NAME[/SUBSET]/templates.yaml, searched before promptsource's",
        metavar="DIR",
        flag="--templates",
    )


def dataset_option(default: Any = MISSING, help: str = "data set") -> Any:
    """`--dataset NAME[/SUBSET]`."""
    return option(default, help, metavar="NAME[/SUBSET]")


def tokens_option(default: int, help: str, at_least: int = 2) -> Any:
    """A number of tokens, as of `--max-source-tokens N`."""
    return option(default, help, at_least=at_least, at_most=MOST_TOKENS)


def workers_option() -> Any:
    """`--workers N`."""
    return option(None, "processes (default: all cores)", at_least=1, at_most=most_workers())


def most_workers() -> int:
    """More processes than this only fight for the cores and the memory."""
    return max(64, 4 * (os.cpu_count() or 1))


def device_option() -> Any:
    """`--device cpu`."""
    return option(None, "cpu, cuda, cuda:1 or mps (default: the best present)", metavar="DEVICE")


def model_option() -> Any:
    """`--model DIR`."""
    return option(help="directory or hub id of a Hugging Face sequence-to-sequence model", metavar="MODEL")


def prompted_option() -> Any:
    """`--prompted DIR`."""
    return option(help="prompted mixture: a directory of metro-t0-prompts build", metavar="DIR")


def tokenizer_option(what: str = "directory of the vocabulary (dict.txt, tokenizer.json)") -> Any:
    """`--tokenizer DIR`."""
    return option(help=what, metavar="DIR")
