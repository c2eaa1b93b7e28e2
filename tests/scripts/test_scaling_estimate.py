"""The arithmetic of scaling against a simulation of buckets, and against what must hold for any cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metro_t0.errors import UserError
from scripts.scaling_estimate import BACKWARD_SHARE, Cluster, Training, estimate

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "scaling_estimate.py"
POWERS = st.integers(0, 9).map(lambda power: 2**power)
RATES = st.floats(1e4, 1e6)
SIZES = st.floats(1e8, 4e9)
BANDWIDTHS = st.floats(1, 400)


def simulated_wait(training: Training, cluster: Cluster, gpus: int) -> float:
    """One all-reduce after the other, each as soon as its equal share of the last backward pass is over."""
    buckets = max(1, round(-(-training.gradient_bytes // training.bucket_bytes)))
    each = cluster.all_reduce_seconds(training.gradient_bytes / buckets, gpus)
    batch = min(training.tokens_per_batch, training.tokens_per_update // gpus)
    backward = BACKWARD_SHARE * batch / training.tokens_per_second
    free = 0.0
    for number in range(1, buckets + 1):
        free = max(free, backward * number / buckets) + each
    return free - backward


@given(rate=RATES, size=SIZES, node=BANDWIDTHS, gpus=POWERS)
def test_waiting_equals_a_simulation_of_the_buckets(rate: float, size: float, node: float, gpus: int) -> None:
    training, cluster = Training(rate, size), Cluster(node_bandwidth=node)
    expected = simulated_wait(training, cluster, gpus)
    assert estimate(training, cluster, gpus).exposed == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(rate=RATES, size=SIZES, node=BANDWIDTHS, gpus=POWERS)
def test_what_holds_for_any_cluster(rate: float, size: float, node: float, gpus: int) -> None:
    cluster = Cluster(node_bandwidth=node)
    overlapped = estimate(Training(rate, size), cluster, gpus)
    legacy = estimate(Training(rate, size, overlap=False), cluster, gpus)
    assert 0 <= overlapped.exposed <= legacy.exposed * (1 + 1e-9)
    assert 0 < legacy.efficiency <= overlapped.efficiency * (1 + 1e-9) <= 1 + 1e-9
    assert overlapped.gpus * overlapped.batch * overlapped.update_freq == 2048 * 512
    assert estimate(Training(rate, size / 2), cluster, gpus).exposed <= overlapped.exposed * (1 + 1e-9)


def test_one_gpu_needs_no_communication() -> None:
    row = estimate(Training(1e5, 5e8), Cluster(), 1)
    assert (row.all_reduce, row.exposed, row.efficiency, row.update_freq) == (0, 0, 1, 64)
    assert row.seconds == pytest.approx(2048 * 512 / 1e5)


def test_a_ring_moves_twice_the_gradient_less_one_share() -> None:
    cluster = Cluster(gpus_per_node=4, gpu_bandwidth=100, node_bandwidth=10, latency=0)
    assert cluster.all_reduce_seconds(1e9, 4) == pytest.approx(2 * 3 / 4 * 1e9 / 100e9)
    assert cluster.all_reduce_seconds(1e9, 8) == pytest.approx(2 * 7 / 8 * 1e9 / 10e9)


def test_a_number_of_gpus_that_does_not_divide_the_update_is_refused() -> None:
    with pytest.raises(UserError, match="48 GPUs x 16384 tokens do not divide an update of 1048576 tokens"):
        estimate(Training(1e5, 5e8), Cluster(), 48)


def test_the_command_says_what_is_assumed() -> None:
    def output(options: str) -> str:
        command = [sys.executable, str(SCRIPT), "--parameters", "254.6e6", "--gpus", "8", *options.split()]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assumed = output("--peak-tflops 989 --gflop-per-token 1.978 --mfu 0.5")
    assert "one GPU: 250,000 tokens/s (ASSUMED, 50% of 989 TFLOPS); gradient 509 MB" in assumed
    assert "one GPU: 250,000 tokens/s (measured)" in output("--tokens-per-second 250000")
