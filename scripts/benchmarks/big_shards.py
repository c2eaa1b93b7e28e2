"""Start-up time and memory of pretraining on large token shards, without the disk that they need.

    python -m scripts.benchmarks.big_shards --tokens 5e9 --directory /tmp/big_shards
    python -m scripts.benchmarks.big_shards --tokens 5e8 --loaders metro-t0 fairseq

Makes one shard of that many uint16 tokens: a real index (documents of log-normal length cut into paragraphs, an empty
line after each, as metro-t0-data binarize writes them) and a .bin that is one hole (a sparse file, zeros to its
readers). 160 GB of tokens are 16 shards of 5e9. Then, in a process of its own per loader, everything that happens
between `load_dataset` and the first batch, as fairseq-train calls it. The directory is removed at the end.

Loaders: `metro-t0` is the pretraining task; `fairseq` is the same task on fairseq's own chain of
`load_indexed_dataset`, `TokenBlockDataset` and `PrependTokenDataset`.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metro_t0.command import Parser
from metro_t0.data.token_files import HEADER, MAGIC, VERSION, bin_path, idx_path

UINT16_CODE = 8
DOCUMENTS_PER_CHUNK = 1 << 18
BATCH = 32
TOKENS_PER_SAMPLE = 512


def make_shard(directory: Path, num_tokens: int, document_median: int, paragraph_mean: int) -> dict[str, int]:
    """train.idx for about `num_tokens` tokens, train.bin as a hole of that size, dict.txt of 32,000 pieces."""
    directory.mkdir(parents=True)
    (directory / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(32_000)))
    sizes = np.concatenate(list(paragraph_sizes(num_tokens, document_median, paragraph_mean)))
    offsets = np.cumsum(sizes, dtype=np.int64)
    total = int(offsets[-1])
    offsets -= sizes
    offsets *= 2
    with open(idx_path(directory / "train"), "wb") as index:
        index.write(HEADER.pack(MAGIC, VERSION, UINT16_CODE, len(sizes)))
        index.write(sizes.data)
        index.write(offsets.data)
    with open(bin_path(directory / "train"), "wb") as tokens:
        tokens.truncate(2 * total)
    return {"tokens": total, "lines": len(sizes), "documents": int((sizes == 1).sum())}


def paragraph_sizes(num_tokens: int, document_median: int, paragraph_mean: int) -> Iterator[np.ndarray]:
    """Sizes of lines, end token included: paragraphs of a document, then the empty line (1 token) that ends it."""
    random = np.random.default_rng(0)
    made = 0
    while made < num_tokens:
        documents = random.lognormal(np.log(document_median), 1.0, DOCUMENTS_PER_CHUNK)
        paragraphs = np.maximum(1, documents / paragraph_mean).astype(np.int64)
        sizes = np.maximum(2, random.exponential(paragraph_mean, int(paragraphs.sum()))).astype(np.int32)
        sizes = np.insert(sizes, np.cumsum(paragraphs), 1)
        ends = made + np.cumsum(sizes, dtype=np.int64)
        made = int(ends[-1])
        yield sizes[: int(np.searchsorted(ends, num_tokens)) + 1]


@dataclass
class Startup:
    """What one process needed until its first batch."""

    loader: str
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each phase."""
    processor_seconds: float = 0.0
    """Of all phases together."""
    blocks: int = 0
    peak_mib: float = 0.0
    """Largest resident memory above what the process had before `load_dataset`, pages of mapped files included."""
    private_mib: float = 0.0
    """Memory of its own (not of mapped files) that it holds at the first batch, above the same base."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the body."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def memory_mib(entry: str) -> float:
    """An entry of /proc/self/status: VmHWM is the peak, RssAnon the memory not backed by files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 1024


def measure(directory: str, loader: str) -> Startup:
    """What a fresh process needs from `load_dataset` to its first batch."""
    from fairseq_plugins.tasks.pretraining import MetroPretrainingConfig, MetroPretrainingTask

    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    settings = MetroPretrainingConfig(data=directory, tokens_per_sample=TOKENS_PER_SAMPLE)
    settings.seed = 1
    startup = Startup(loader)
    task = MetroPretrainingTask.setup_task(settings)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, before_private, clock = memory_mib("VmRSS"), memory_mib("RssAnon"), time.process_time()
    with startup.phase("blocks"):
        if loader == "fairseq":
            load_with_fairseq(task)
        else:
            task.load_dataset("train", epoch=1, combine=True)
    blocks = task.datasets["train"]
    with startup.phase("batches"):
        epoch = task.get_batch_iterator(
            blocks,
            max_sentences=BATCH,
            max_positions=(TOKENS_PER_SAMPLE, TOKENS_PER_SAMPLE),
            ignore_invalid_inputs=True,  # fairseq's blocks may be longer than a sample
            seed=1,
        )
    with startup.phase("epoch"):
        batches = epoch.next_epoch_itr(shuffle=True)
    with startup.phase("first batch"):
        next(batches)
    startup.blocks = len(blocks)
    startup.processor_seconds = time.process_time() - clock
    startup.peak_mib = memory_mib("VmHWM") - before
    startup.private_mib = memory_mib("RssAnon") - before_private
    return startup


def load_with_fairseq(task: Any) -> None:
    """What `load_dataset` would be with fairseq's classes alone; lines over a sample stay whole."""
    from fairseq.data import FairseqDataset, PrependTokenDataset, TokenBlockDataset, data_utils

    from fairseq_plugins.tasks.pretraining import BlockDataset
    from metro_t0.randomness import keyed_generator

    class FairseqBlocks(BlockDataset):
        """Without what BlockDataset does about start-up: a lexical sort, and a Python call per block and question."""

        filter_indices_by_size = FairseqDataset.filter_indices_by_size
        num_tokens_vec = FairseqDataset.num_tokens_vec

        def ordered_indices(self) -> np.ndarray:
            return np.lexsort((keyed_generator("shuffle", 1).permutation(len(self)), self.sizes))

    words = task.dictionary
    lines = data_utils.load_indexed_dataset(f"{task.cfg.data}/train", words)
    blocks = TokenBlockDataset(
        lines, lines.sizes, TOKENS_PER_SAMPLE - 1, words.pad(), words.eos(), break_mode="complete_doc"
    )
    data = FairseqBlocks(PrependTokenDataset(blocks, words.bos()), task.make_batches(True), words.pad(), 1, 1)
    task.datasets["train"] = data


def main() -> int:
    """Make the shard, measure every loader, print a table, remove the shard."""
    parser = Parser(description=__doc__)
    parser.add_argument("--tokens", type=float, default=5e9, help="tokens of the shard (2 bytes each)")
    parser.add_argument("--document-median", type=int, default=400, help="tokens")
    parser.add_argument("--paragraph-mean", type=int, default=70, help="tokens")
    parser.add_argument("--directory", type=Path, default=Path("/tmp/big_shards"), help="must not exist; is removed")
    parser.add_argument("--loaders", nargs="+", choices=["metro-t0", "fairseq"], default=["metro-t0"])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.directory.exists():
        parser.error(f"{options.directory} exists; name a directory that does not")
    try:
        shard = make_shard(options.directory, int(options.tokens), options.document_median, options.paragraph_mean)
        on_disk = sum(path.stat().st_blocks * 512 for path in options.directory.iterdir()) / 2**20
        index = idx_path(options.directory / "train").stat().st_size / 2**20
        print(
            f"{shard['tokens']:,} tokens, {shard['documents']:,} documents, {shard['lines']:,} lines: "
            f"train.bin {2 * shard['tokens'] / 2**30:.1f} GiB, train.idx {index:,.0f} MiB, on disk {on_disk:,.0f} MiB"
        )
        results = [in_own_process(options.directory, loader) for loader in options.loaders]
    finally:
        shutil.rmtree(options.directory, ignore_errors=True)
    for result in results:
        phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in result.seconds.items())
        print(
            f"{result.loader:9} {result.blocks:12,} blocks  {sum(result.seconds.values()):7.1f} s ({phases}; "
            f"{result.processor_seconds:.1f} s of processor)  peak +{result.peak_mib:,.0f} MiB, "
            f"kept +{result.private_mib:,.0f} MiB ({result.private_mib * 2**20 / result.blocks:.1f} bytes per block)"
        )
    if options.json:
        options.json.write_text(json.dumps({"shard": shard, "startup": [asdict(r) for r in results]}, indent=2) + "\n")
    return 0


def in_own_process(directory: Path, loader: str) -> Startup:
    """Memory is measured of a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, str(directory), loader).result()


if __name__ == "__main__":
    sys.exit(main())
