"""Speed of the synthetic generators on one core, against the published targets and a plain Python generator.

Tokens are source plus target, prefix included, arrays in memory; CPU time of this process. The peer draws every
example on its own, as generators of this kind are usually written: Python's `random` for the tokens and the task's
own function for the target. Both sides are measured in turns in the same run.

    OMP_NUM_THREADS=1 python scripts/benchmarks/synthetic.py
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from metro_t0.modeling import MetroT5, preset
from metro_t0.synthetic import functions
from metro_t0.synthetic.iterable import SyntheticIterableDataset
from metro_t0.synthetic.stream import StreamSettings
from metro_t0.synthetic.tasks import TASKS
from metro_t0.synthetic.vocabulary import compact_vocabulary

# Millions of tokens (Nonsense Summary: words) per second on one core.
TARGETS = {
    **dict.fromkeys(("identity", "first_token", "last_token", "reverse", "duplicate", "length"), 200.0),
    **dict.fromkeys(("replace", "count", "deduplicate", "search", "delete"), 50.0),
    **dict.fromkeys(("set", "union", "intersect", "set1_minus_set2", "set2_minus_set1"), 30.0),
    "sort": 20.0,
    **dict.fromkeys(("lime_induct", "lime_deduct", "lime_abduct"), 15.0),
    **dict.fromkeys(("dyck", "dyck_uniform"), 20.0),
    "nonsense_summary": 3.0,
}
PUBLISHED = {
    "set": 3.1, "sort": 3.7, "union": 4.1, "identity": 6.8, "delete": 5.0, "search": 3.5, "count": 3.4, "replace": 5.3,
    "longest_word": 2.4, "intersect": 3.6, "deduplicate": 4.3, "set1_minus_set2": 3.7, "lime_induct": 1.3,
    "lime_deduct": 1.3, "lime_abduct": 1.3, "nonsense_summary": 0.064, "dyck": 0.75,
}  # fmt: skip


def rate(make: Callable[[int], int]) -> float:
    """Millions of tokens per second of CPU time of one call."""
    start = time.process_time_ns()
    tokens = make(0)
    return tokens / (time.process_time_ns() - start) * 1e3


def peer(name: str, generator: random.Random, count: int = 200) -> int:
    """Examples one by one; gives the tokens made. Only for tasks of one sequence of independent tokens, and union."""
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
            function = TASKS[name].function
            assert function is not None
            output = function(x)
            target = output if isinstance(output, list) else [output]
        tokens += length + 2 + len(target)
    return tokens


PEERS = ("identity", "reverse", "duplicate", "first_token", "last_token", "length", "union")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="blocks of every task")
    options = parser.parse_args()
    vocabulary = compact_vocabulary(31_998, TASKS)
    streams = {name: StreamSettings(name).mixture(vocabulary) for name in TASKS}
    found: dict[str, list[float]] = {name: [] for name in TASKS}
    peers: dict[str, list[float]] = {name: [] for name in PEERS}
    generator = random.Random(0)
    for name, stream in streams.items():
        stream.block("train", 0)  # makes the validation set, caches tables
        for number in range(1, options.rounds + 1):
            found[name].append(rate(lambda _, s=stream, n=number: s.block("train", n).token_count))  # type: ignore[misc]
            if name in peers:
                peers[name].append(rate(lambda _, t=name: peer(t, generator)))  # type: ignore[misc]
    table = Table("task", "median M/s", "best M/s", "target", "reached", "published generator", "plain Python here")
    for name, rates in found.items():
        median, best, target = float(np.median(rates)), max(rates), TARGETS.get(name)
        reached = "" if target is None else "yes" if median >= target else "best only" if best >= target else "no"
        plain = f"{np.median(peers[name]):.1f}" if name in peers else ""
        published = str(PUBLISHED.get(name, ""))
        table.add_row(name, f"{median:.0f}", f"{best:.0f}", str(target or ""), reached, published, plain)
    Console(width=120).print(table)
    step_share(vocabulary.size)


def step_share(vocab_size: int) -> None:
    """Time to make a batch of 16 against a training step of T5-small on it."""
    mixture = StreamSettings("set").mixture(compact_vocabulary(31_998, TASKS))
    batches = iter(SyntheticIterableDataset(mixture, batch_size=16))
    model = MetroT5(preset("t5_small", vocab_size=vocab_size), pad_id=1)
    making, training = [], []
    next(batches)
    for _ in range(4):
        start = time.process_time_ns()
        batch = next(batches)
        making.append(time.process_time_ns() - start)
        start = time.process_time_ns()
        labels = batch["labels"]
        decoded, _ = model.main(batch["input_ids"], labels.clamp(min=0), batch["attention_mask"].bool())
        loss = torch.nn.functional.cross_entropy(
            model.main.logits(decoded).flatten(0, 1), labels.flatten(), ignore_index=-100
        )
        loss.backward()
        training.append(time.process_time_ns() - start)
    share = sum(making) / sum(training)
    print(f"T5-small, 16 examples of set, CPU: making a batch costs {share:.2%} of forward and backward")


if __name__ == "__main__":
    main()
