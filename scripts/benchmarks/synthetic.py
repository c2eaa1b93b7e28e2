"""Speed of the synthetic generators on one core, beside the published figures and a generator in plain Python.

Tokens are source plus target, prefix included, arrays in memory; processor time of this process, with the check of
every training example against the validation set. The peer draws every example on its own, as generators of this kind
are usually written: Python's `random` for the tokens and the task's own function for the target. Both sides are
measured in turns in the same run. With --vocabulary, text (Nonsense Summary) is that of a tokenizer, a word being
several tokens. The run fails where generating costs 1% of a training step or more.

    OMP_NUM_THREADS=1 python -m scripts.benchmarks.synthetic
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch

from metro_t0.modeling import MetroT5, preset
from metro_t0.synthetic import functions
from metro_t0.synthetic.iterable import SyntheticIterableDataset
from metro_t0.synthetic.settings import BLOCK, StreamSettings
from metro_t0.synthetic.tasks import SYNTHETIC_TASKS, FunctionTask
from metro_t0.synthetic.vocabulary import compact_vocabulary, load_vocabulary
from metro_t0.tables import print_table

TARGET = 5.0  # millions of tokens per second on one core
PUBLISHED = {
    "set": 3.1, "sort": 3.7, "union": 4.1, "identity": 6.8, "delete": 5.0, "search": 3.5, "count": 3.4, "replace": 5.3,
    "longest_word": 2.4, "intersect": 3.6, "deduplicate": 4.3, "set1_minus_set2": 3.7, "lime_induct": 1.3,
    "lime_deduct": 1.3, "lime_abduct": 1.3, "nonsense_summary": 0.064, "dyck": 0.75,
}  # fmt: skip


def rate(make: Callable[[], int]) -> float:
    """Millions of tokens per second of CPU time of one call."""
    start = time.process_time_ns()
    tokens = make()
    return tokens / (time.process_time_ns() - start) * 1e3


def peer(name: str, generator: random.Random, count: int = 200) -> int:
    """Examples one by one; returns the tokens made. Only for tasks of one sequence of independent tokens, and union."""
    tokens = 0
    for _ in range(count):
        length = generator.randint(10, 220)
        x = [generator.randint(2, 31_999) for _ in range(length)]
        if name == "union":
            cut = generator.randint(0, length)
            pool = generator.sample(range(2, 32_000), max(length // 2, 1))
            x = [generator.choice(pool) for _ in range(length)]
            target = functions.union(x[:cut], x[cut:])
        else:
            task = SYNTHETIC_TASKS[name]
            assert isinstance(task, FunctionTask)
            output = task.function(x)
            target = output if isinstance(output, list) else [output]
        tokens += length + 2 + len(target)
    return tokens


RUN = 4  # blocks measured in one go, as a stream is read
LARGEST_SHARE = 0.01
TRAINED = 2  # batches of 16
PEERS = ("identity", "reverse", "duplicate", "first_token", "last_token", "length", "union")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="blocks of every task")
    parser.add_argument("--vocabulary", default="compact:31998", help="t5:DIRECTORY or a tokenizer's directory")
    parser.add_argument("--tasks", nargs="+", default=[*SYNTHETIC_TASKS], help="measure these alone")
    options = parser.parse_args()
    vocabulary = load_vocabulary(options.vocabulary, SYNTHETIC_TASKS)
    generator = random.Random(0)
    header = ("task", "median M/s", "best M/s", "reached", "published generator", "plain Python here")
    rows = []
    for name in options.tasks:
        stream = StreamSettings(name).mixture(vocabulary).streams[0]
        stream.block("train", 0)  # makes the validation set, caches tables
        found, plain = [], []
        for number in range(1, options.rounds + 1):
            run = range(number * RUN, (number + 1) * RUN)
            found.append(rate(lambda: sum(stream.block("train", n).token_count for n in run)))  # noqa: B023
            if name in PEERS:
                plain.append(rate(lambda: peer(name, generator)))  # noqa: B023
        median, best = float(np.median(found)), max(found)
        reached = "yes" if median >= TARGET else "best only" if best >= TARGET else "no"
        python = f"{np.median(plain):.1f}" if plain else ""
        rows.append([name, f"{median:.1f}", f"{best:.1f}", reached, str(PUBLISHED.get(name, "")), python])
    print_table(header, rows)
    share = step_share(compact_vocabulary(31_998, SYNTHETIC_TASKS).size)
    if share >= LARGEST_SHARE:
        raise SystemExit(f"generating costs {share:.2%} of a training step; it must stay below {LARGEST_SHARE:.0%}")


def making(size: int) -> tuple[float, list[dict[str, torch.Tensor]]]:
    """CPU nanoseconds to make one batch of set (drawn, padded, as tensors), the mean over four blocks; the batches."""
    mixture = StreamSettings("set").mixture(compact_vocabulary(31_998, SYNTHETIC_TASKS))
    batches = iter(SyntheticIterableDataset(mixture, batch_size=size))
    next(batches)  # the validation set is made
    start = time.process_time_ns()
    made = [next(batches) for _ in range(4 * BLOCK // size)]
    return (time.process_time_ns() - start) / len(made), made


def step_share(vocab_size: int) -> float:
    """CPU time to make a batch of 16 over that of T5-small's forward and backward pass on it.

    On a GPU the step is shorter and the batch is made by workers beside it: the time for the recipe's 128 sequences
    is printed too, to be held against a step there.
    """
    made_in, made = making(16)
    model = MetroT5(preset("t5_small", vocab_size=vocab_size), pad_id=1)
    start = time.process_time_ns()
    for batch in made[:TRAINED]:
        labels = batch["labels"]
        decoded, _ = model.main(batch["input_ids"], labels.clamp(min=0), batch["attention_mask"].bool())
        logits = model.main.logits(decoded)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100).backward()
    share = made_in * TRAINED / (time.process_time_ns() - start)
    print(f"T5-small, 16 examples of set, CPU: making a batch costs {share:.3%} of forward and backward")
    print(f"128 examples of set, drawn, padded, as tensors: {making(128)[0] / 1e6:.2f} ms")
    return share


if __name__ == "__main__":
    main()
