"""What N GPUs should give, from the rate of one: arithmetic of data-parallel training, see docs/scaling.md.

    python scripts/scaling_estimate.py --tokens-per-second 230000 --parameters 254.6e6 --gpus 8 64 256
    python scripts/scaling_estimate.py --peak-tflops 989 --mfu 0.4 --gflop-per-token 1.569 --parameters 254.6e6
    python scripts/scaling_estimate.py --tokens-per-second 230000 --parameters 254.6e6 --node-bandwidth 12.5

An update is `update_freq` batches on every GPU and one all-reduce of the gradient. With --ddp-backend pytorch_ddp the
all-reduce runs beside the backward pass of the last batch, bucket by bucket; legacy_ddp starts when that is over. The
rate of one GPU is measured (scripts/benchmarks/pretrain.py) or, until it is, assumed as a share of the chip's peak.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from metro_t0.command import Parser, run
from metro_t0.errors import UserError
from metro_t0.tables import markdown_table

BACKWARD_SHARE = 2 / 3
"""Of a step: the backward pass has twice the matrix products of the forward pass."""


@dataclass(frozen=True)
class Cluster:
    """What connects the GPUs. Bandwidths are those that an all-reduce sees per GPU ("bus bandwidth"), GB/s."""

    gpus_per_node: int = 8
    gpu_bandwidth: float = 200.0
    """Between the GPUs of a node."""
    node_bandwidth: float = 40.0
    """Of all the network cards of a node together."""
    latency: float = 20e-6
    """Seconds to start one all-reduce, per doubling of the number of GPUs."""

    def all_reduce_seconds(self, size: float, gpus: int) -> float:
        """Time of one all-reduce of `size` bytes: every GPU sends and receives 2 (n - 1) / n of it (ring)."""
        if gpus == 1:
            return 0.0
        inside = gpus <= self.gpus_per_node
        bandwidth = self.gpu_bandwidth if inside else min(self.gpu_bandwidth, self.node_bandwidth)
        return 2 * (gpus - 1) / gpus * size / (bandwidth * 1e9) + self.latency * math.log2(gpus)


@dataclass(frozen=True)
class Training:
    """What is trained, and how fast one GPU does it."""

    tokens_per_second: float
    """Of one GPU, everything included but communication."""
    gradient_bytes: float
    tokens_per_batch: int = 32 * 512
    """On one GPU, in one forward and backward pass."""
    tokens_per_update: int = 2048 * 512
    """On all GPUs."""
    bucket_bytes: float = 100 * 2**20
    overlap: bool = True
    """pytorch_ddp (True) or legacy_ddp."""


@dataclass(frozen=True)
class Estimate:
    """One number of GPUs."""

    gpus: int
    batch: int
    """Tokens of a batch on one GPU."""
    update_freq: int
    compute: float
    """Seconds of an update without communication."""
    all_reduce: float
    exposed: float
    """Seconds in which the GPU waits for it."""

    @property
    def efficiency(self) -> float:
        """Share of the ideal rate (that of one GPU times their number)."""
        return self.compute / (self.compute + self.exposed)

    @property
    def seconds(self) -> float:
        """Of one update."""
        return self.compute + self.exposed


def estimate(training: Training, cluster: Cluster, gpus: int) -> Estimate:
    """Time of an update on `gpus` GPUs; the tokens of an update stay the same whatever their number.

    The batch shrinks where it is more than a GPU's share. Raises `UserError` where the share is no multiple of it.
    """
    share = training.tokens_per_update // gpus
    batch = min(training.tokens_per_batch, share)
    if not share or training.tokens_per_update % (gpus * batch):
        raise UserError(f"{gpus} GPUs x {batch} tokens do not divide an update of {training.tokens_per_update} tokens")
    compute = share / training.tokens_per_second
    buckets = math.ceil(training.gradient_bytes / training.bucket_bytes)
    bucket = cluster.all_reduce_seconds(training.gradient_bytes / buckets, gpus)
    all_reduce = buckets * bucket
    exposed = all_reduce
    if training.overlap:
        # The first bucket is ready after its part of the backward pass, the last one when there is none left.
        backward = BACKWARD_SHARE * batch / training.tokens_per_second
        exposed = max(bucket, all_reduce - backward * (1 - 1 / buckets))
    return Estimate(gpus, batch, share // batch, compute, all_reduce, exposed)


def table(training: Training, cluster: Cluster, gpus: list[int], updates: int) -> str:
    """Markdown, a row per number of GPUs."""
    header = ("GPUs", "tokens per batch and GPU", "update_freq", "all-reduce, ms", "of it waited for, ms",
              "tokens/s", "of ideal", "hours for the run")  # fmt: skip
    lines = []
    for number in gpus:
        row = estimate(training, cluster, number)
        counts = (f"{row.gpus}", f"{row.batch:,}", f"{row.update_freq}")
        times = (f"{1e3 * row.all_reduce:.1f}", f"{1e3 * row.exposed:.1f}")
        rates = (f"{training.tokens_per_update / row.seconds:,.0f}", f"{row.efficiency:.1%}")
        lines.append((*counts, *times, *rates, f"{updates * row.seconds / 3600:.1f}"))
    return markdown_table(header, lines)


def main() -> int:
    """Print the table and what it rests on."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--tokens-per-second", type=float, help="measured on one GPU")
    add(
        "--peak-tflops", type=float, help="without a measured rate: the chip's dense matrix rate (H100, H200 bf16: 989)"
    )
    add("--mfu", type=float, default=0.4, help="without a measured rate: the share of it that training reaches")
    add(
        "--gflop-per-token",
        type=float,
        help="without a measured rate: of training, from scripts/benchmarks/pretrain.py",
    )
    add("--parameters", type=float, required=True, help="all that are trained, auxiliary and heads included")
    add("--bytes-per-gradient", type=float, default=2, help="2 with --bf16 or --fp16, 4 with --amp or fp32")
    add("--gpus", type=int, nargs="+", default=[8, 64, 256])
    add("--gpus-per-node", type=int, default=8)
    add("--bandwidth", type=float, default=200, help="all-reduce bus bandwidth between the GPUs of a node, GB/s")
    add("--node-bandwidth", type=float, default=40, help="of all network cards of a node together, GB/s")
    add("--batch", type=int, default=32, help="sequences per GPU")
    add("--global-batch", type=int, default=2048, help="sequences per update")
    add("--length", type=int, default=512, help="tokens per sequence")
    add("--bucket-cap-mb", type=float, default=100, help="as fairseq's option (its default: 25)")
    add("--ddp-backend", choices=["pytorch_ddp", "legacy_ddp"], default="pytorch_ddp")
    add("--updates", type=int, default=125_000)
    options = parser.parse_args()
    rate = options.tokens_per_second
    if rate is None:
        if options.peak_tflops is None or options.gflop_per_token is None:
            parser.error("give --tokens-per-second, or --peak-tflops and --gflop-per-token")
        rate = options.mfu * options.peak_tflops * 1e12 / (options.gflop_per_token * 1e9)
    training = Training(
        rate,
        options.parameters * options.bytes_per_gradient,
        options.batch * options.length,
        options.global_batch * options.length,
        options.bucket_cap_mb * 2**20,
        options.ddp_backend == "pytorch_ddp",
    )
    cluster = Cluster(options.gpus_per_node, options.bandwidth, options.node_bandwidth)

    def body() -> None:
        rows = table(training, cluster, options.gpus, options.updates)
        source = (
            "measured" if options.tokens_per_second else f"ASSUMED, {options.mfu:.0%} of {options.peak_tflops:g} TFLOPS"
        )
        print(f"one GPU: {rate:,.0f} tokens/s ({source}); gradient {training.gradient_bytes / 1e6:,.0f} MB\n")
        print(rows, end="")

    return run("scaling_estimate", body)


if __name__ == "__main__":
    sys.exit(main())
