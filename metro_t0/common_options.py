"""The options that several commands have: one name, one meaning and one default for each."""

from __future__ import annotations

import os
from functools import partial
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
    about = f"at most N {of}, a sample that --seed chooses (default: all)"
    return option(None, about, at_least=1, at_most=MOST_EXAMPLES)


def only_option(of: str) -> Any:
    """`--only NAME,NAME`."""
    return option((), f"only these {of}, separated by commas", names=True, metavar="NAME,NAME")


DATA_HELP = "local data sets as NAME[/SUBSET]/SPLIT.{jsonl,jsonl.gz,parquet}, searched before the hub"
TEMPLATES_HELP = "template files as NAME[/SUBSET]/templates.yaml, searched before promptsource's"
MODEL_HELP = "directory or hub id of a Hugging Face sequence-to-sequence model"
VOCABULARY_HELP = "directory of the vocabulary (dict.txt with tokenizer.json or sp.model)"
MOST_WORKERS = max(64, 4 * (os.cpu_count() or 1))
"""More processes than this only fight for the cores and the memory."""

output_option = partial(option, help="directory to write", metavar="DIR")
data_dir_option = partial(option, None, DATA_HELP, metavar="DIR")
templates_option = partial(option, None, TEMPLATES_HELP, metavar="DIR", flag="--templates")
dataset_option = partial(option, help="data set", metavar="NAME[/SUBSET]")
tokens_option = partial(option, at_least=2, at_most=MOST_TOKENS)
workers_option = partial(option, None, "processes (default: all cores)", at_least=1, at_most=MOST_WORKERS)
device_option = partial(option, None, "cpu, cuda, cuda:1 or mps (default: the best present)", metavar="DEVICE")
model_option = partial(option, help=MODEL_HELP, metavar="MODEL")
prompted_option = partial(option, help="prompted mixture: a directory of metro-t0-prompts build", metavar="DIR")
tokenizer_option = partial(option, help=VOCABULARY_HELP, metavar="DIR")
