"""Weak scaling on the CPU: tokens/s of fairseq-train under torchrun with 1 and 2 processes, one thread each.

    python -m scripts.benchmarks.scaling
    python -m scripts.benchmarks.scaling --updates 40 --arch metro_t5_tiny --batch-size 8 --update-freq 4

Every process gets the same number of sequences of random words, so ideal scaling doubles the rate. Four rows:

    1 process               torchrun --nproc_per_node 1
    2 runs side by side     two such runs at once: what memory, caches and other work on the machine cost
    2 processes             torchrun --nproc_per_node 2, gloo, pytorch_ddp: the same and the all-reduce
    2 processes, N steps    the same with --update-freq N: one all-reduce for N batches (no_sync before)

The all-reduce's share is what the third row loses against the second. Both wall time and processor time between two
updates are measured: on a busy machine only the second can be trusted, and it has no waiting in it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metro_t0.command import Parser
from metro_t0.data.token_files import TokenFileWriter

REPOSITORY = Path(__file__).resolve().parents[2]
WARM_UP = 4
"""Updates before the clock starts."""
LENGTH = 128
WORDS = 4096


@dataclass(frozen=True)
class Rate:
    """One row: tokens of all processes together."""

    tokens_per_second: float
    tokens_per_processor_second: float


def make_data(directory: Path) -> None:
    """Documents of random words that fill a block each, in the form of metro-t0-data binarize."""
    (directory / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(WORDS)))
    random = np.random.default_rng(0)
    with TokenFileWriter(directory / "train") as writer:
        for _ in range(4096):
            writer.add([*random.integers(4, WORDS, LENGTH - 2), 2])
            writer.add([2])


def command(data: Path, processes: int, arch: str, batch_size: int, update_freq: int, updates: int) -> list[str]:
    """What a user types, with torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    train = (
        f"{data} --user-dir fairseq_plugins --task metro_pretraining --criterion metro --arch {arch} "
        f"--tokens-per-sample {LENGTH} --batch-size {batch_size} --update-freq {update_freq} "
        "--required-batch-size-multiple 1 --optimizer fused_adamw --lr 0.001 --lr-scheduler fixed --num-workers 0 "
        f"--max-update {updates} --cpu --disable-validation --no-save --log-format json --log-interval 1 --seed 1 "
        f"--distributed-world-size {processes} --distributed-backend gloo --ddp-backend pytorch_ddp"
    )
    launch = f"-m torch.distributed.run --nproc_per_node {processes} --master_port {port} -m fairseq_cli.train"
    return [sys.executable, *launch.split(), *train.split()]


class Run:
    """A training run that is watched through its log."""

    def __init__(self, arguments: Sequence[str]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            arguments, cwd=REPOSITORY, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.tail: list[str] = []

    def wait_for(self, update: int) -> float:
        """Read the log until that update is done; returns the tokens of one update."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.tail = [*self.tail[-20:], line]
            if "| train_inner |" in line:
                record = json.loads(line[line.index("{") :])
                if int(record["num_updates"]) == update:
                    return float(record["wpb"])
        raise SystemExit("".join(self.tail))

    def processor_seconds(self) -> float:
        """Of the launcher and all that it started, so far."""
        parents, ticks = {}, {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            number = int(path.parent.name)
            parents[number], ticks[number] = int(fields[1]), int(fields[11]) + int(fields[12])
        family = [self.process.pid]
        for parent in family:
            family += [number for number, its in parents.items() if its == parent]
        return sum(ticks[number] for number in family) / os.sysconf("SC_CLK_TCK")

    def finish(self) -> None:
        """Let it come to its end."""
        self.process.communicate()


def measure(commands: Sequence[Sequence[str]], updates: int) -> Rate:
    """Run the commands at once; rates of all together between the warm-up and the last update."""
    runs = [Run(arguments) for arguments in commands]
    for run in runs:
        run.wait_for(WARM_UP)
    start, before = time.perf_counter(), sum(run.processor_seconds() for run in runs)
    tokens = (updates - WARM_UP) * sum(run.wait_for(updates) for run in runs)
    seconds, processor = time.perf_counter() - start, sum(run.processor_seconds() for run in runs) - before
    for run in runs:
        run.finish()
    return Rate(tokens / seconds, tokens / processor)


def main() -> int:
    """Measure the rows and print them."""
    parser = Parser(description=__doc__)
    parser.add_argument("--arch", default="metro_t5_demo")
    parser.add_argument("--batch-size", type=int, default=16, help="sequences of 128 tokens per process and batch")
    parser.add_argument("--updates", type=int, default=24)
    parser.add_argument("--update-freq", type=int, default=4, help="of the last row")
    options = parser.parse_args()
    rows: dict[str, Rate] = {}
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        make_data(data)

        def line(processes: int, update_freq: int = 1, updates: int = options.updates) -> list[str]:
            return command(data, processes, options.arch, options.batch_size, update_freq, updates)

        rows["1 process"] = measure([line(1)], options.updates)
        rows["2 runs side by side"] = measure([line(1), line(1)], options.updates)
        rows["2 processes"] = measure([line(2)], options.updates)
        fewer = WARM_UP + max(1, (options.updates - WARM_UP) // options.update_freq)
        rows[f"2 processes, {options.update_freq} steps"] = measure([line(2, options.update_freq, fewer)], fewer)
    one = rows["1 process"]
    print(f"{options.arch}, {options.batch_size} x {LENGTH} tokens per process, load {os.getloadavg()[0]:.1f}")
    print(f"{'':22} {'tokens/s':>10} {'of 1':>6} {'tokens/processor s':>19} {'of 1':>6}")
    for name, rate in rows.items():
        wall, processor = rate.tokens_per_second, rate.tokens_per_processor_second
        print(
            f"{name:22} {wall:10,.0f} {wall / one.tokens_per_second:6.2f} {processor:19,.0f} "
            f"{processor / one.tokens_per_processor_second:6.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
