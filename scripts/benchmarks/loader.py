"""Tokens/s of pretraining's data loader alone, per core: blocks from the memory map, masking, collation.

    OMP_NUM_THREADS=1 python -m scripts.benchmarks.loader
    OMP_NUM_THREADS=1 python -m scripts.benchmarks.loader --data DATA --tokens-per-sample 512 --batch-size 32
    python -m scripts.benchmarks.loader --save batches.pt --options pad_blocks=true     # for gpu.py --batches
    python -m scripts.benchmarks.loader --data DATA --shapes --options sample_break_mode=none fixed_mask_count=true

Compare with the tokens/s of a step (scripts/benchmarks/pretrain.py): with --num-workers N the loader must make up one
N-th of it per core. Processor time of this process, best of several epochs' beginnings. Without --data, documents of
random words and log-normal length.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from metro_t0.command import Parser
from metro_t0.data.token_files import TokenFileWriter

WORDS, PAD = 32_000, 1


def make_data(directory: Path) -> None:
    """8 million tokens in the form of metro-t0-data binarize."""
    (directory / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(WORDS)))
    random = np.random.default_rng(0)
    with TokenFileWriter(directory / "train") as writer:
        for size in random.lognormal(np.log(400), 1.0, 12_000).astype(int):
            for part in np.array_split(random.integers(4, WORDS, size), 1 + size // 70):
                writer.add([*part, 2])
            writer.add([2])


def measure(config: Any, task_class: Any, batch_size: int, batches: int, rounds: int) -> dict[str, float]:
    """Tokens per processor second: of fairseq's whole iterator, and of reading and collating by themselves."""
    task = task_class.setup_task(config)
    task.load_dataset("train", combine=True)
    dataset = task.datasets["train"]
    epochs = task.get_batch_iterator(dataset, max_sentences=batch_size, max_positions=task.max_positions(), seed=1)
    best: dict[str, float] = {}

    def keep(name: str, tokens: int, start: float) -> None:
        best[name] = max(best.get(name, 0.0), tokens / (time.process_time() - start))

    for _ in range(rounds):
        iterator = epochs.next_epoch_itr(shuffle=True)
        next(iterator)  # the epoch's own start
        start = time.process_time()
        keep("whole iterator", sum(next(iterator)["ntokens"] for _ in range(batches)), start)
        chosen = [list(batch) for batch in epochs.frozen_batches[-batches:]]
        start = time.process_time()
        samples = [[dataset[index] for index in batch] for batch in chosen]
        tokens = sum(len(sample["tokens"]) for batch in samples for sample in batch)
        keep("reading blocks", tokens, start)
        start = time.process_time()
        for batch in samples:
            dataset.collater(batch)
        keep("masking and collating", tokens, start)
    return best


def epoch_of(config: Any, task_class: Any, batch_size: int) -> Iterator[dict[str, Any]]:
    """The batches of an epoch as they go to the model, with the size of the vocabulary."""
    task = task_class.setup_task(config)
    task.load_dataset("train", combine=True)
    epochs = task.get_batch_iterator(
        task.datasets["train"], max_sentences=batch_size, max_positions=task.max_positions(), seed=1
    )
    for sample in epochs.next_epoch_itr(shuffle=True):
        yield {**sample["net_input"], "vocab_size": len(task.source_dictionary)}


def print_shapes(batches: Iterator[dict[str, Any]], pad_id: int) -> None:
    """How many shapes a GPU would have to compile for, and how much of what it computes is text."""
    shapes: Counter[tuple[int, ...]] = Counter()
    real = places = 0
    for fields in batches:
        tokens = fields["source_tokens"]
        shapes[(*tokens.shape, len(fields["clm_positions"]), fields.get("most_clm_in_row", 0))] += 1
        real, places = real + int((tokens != pad_id).sum()), places + tokens.numel()
    often, times = shapes.most_common(1)[0]
    print(f"{shapes.total()} batches of {len(shapes)} shapes; {real / places:.1%} of the places hold text")
    print(f"the most frequent, {times} times (rows, columns, predicted positions, most of them in a row): {often}")


def main() -> int:
    """Measure and print one line per part."""
    parser = Parser(description=__doc__)
    parser.add_argument("--data", type=Path, help="directory with dict.txt and train.bin/.idx")
    parser.add_argument("--task", choices=["metro_pretraining", "t5_pretraining"], default="metro_pretraining")
    parser.add_argument("--tokens-per-sample", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batches", type=int, default=60, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--options", nargs="*", default=[], metavar="FIELD=VALUE", help="further fields of the task")
    parser.add_argument("--save", type=Path, help="write the batches here instead of measuring")
    parser.add_argument("--shapes", action="store_true", help="count the shapes of an epoch instead of measuring")
    options = parser.parse_args()
    from fairseq_plugins.tasks import pretraining

    kind = "Metro" if options.task == "metro_pretraining" else "T5"
    task_class = getattr(pretraining, f"{kind}PretrainingTask")
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or Path(temporary)
        if options.data is None:
            make_data(data)
        config = getattr(pretraining, f"{kind}PretrainingConfig")(data=str(data))
        config.tokens_per_sample, config.seed = options.tokens_per_sample, 1
        for field, _, value in (text.partition("=") for text in options.options):
            setattr(config, field, yaml.safe_load(value))
        if options.save or options.shapes:
            epoch = epoch_of(config, task_class, options.batch_size)
            if options.save:
                made = list(islice(epoch, options.batches))
                torch.save(made, options.save)
                epoch = iter(made)
            print_shapes(epoch, pad_id=PAD)
            return 0
        rates = measure(config, task_class, options.batch_size, options.batches, options.rounds)
    print(f"{options.task}, {options.batch_size} x up to {options.tokens_per_sample} tokens")
    for name, rate in rates.items():
        print(f"{name:24} {rate:12,.0f} tokens/s per core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
