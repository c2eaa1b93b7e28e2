"""Work in several processes: order, bounded memory, errors."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from metro_t0.parallel import JOBS_PER_WORKER, WorkerDied, workers

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
prepared: list[int] = []


def prepare() -> None:
    prepared.append(os.getpid())


def slow_square(number: int) -> tuple[int, bool]:
    time.sleep(0.02 * (number % 3))
    return number * number, os.getpid() in prepared


@pytest.mark.parametrize(("count", "fork"), [(1, False), (2, True), (3, False)])
def test_results_come_in_order_from_prepared_processes(count: int, fork: bool) -> None:
    with workers(count, prepare, fork) as pool:
        assert list(pool.in_order(slow_square, range(20))) == [(number * number, True) for number in range(20)]
        assert next(pool.in_order(slow_square, [7])) == (49, True)


@needs_fork
def test_jobs_are_read_no_further_ahead_than_the_processes_need() -> None:
    read: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(1_000):
            read.append(number)
            yield number

    with workers(2, fork=True) as pool:
        results = pool.in_order(abs, jobs())
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert len(read) <= 5 + 2 * JOBS_PER_WORKER
        results.close()


def fail_at_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_a_job_comes_through(count: int) -> None:
    with workers(count, fork=True) as pool, pytest.raises(ValueError, match="three"):
        list(pool.in_order(fail_at_three, range(9)))


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@needs_fork
def test_a_killed_process_is_said_in_one_line() -> None:
    with workers(2, fork=True) as pool, pytest.raises(WorkerDied, match="out of memory"):
        list(pool.in_order(die_at_three, range(9)))
