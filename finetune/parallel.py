"""Work on all cores whose results come back in order, so that they do not depend on the number of workers.

One pool serves the many short jobs of all data sets; starting one for each would take longer than some of them.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from metro_t0.data.parallel import default_workers
from metro_t0.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
JOBS_PER_WORKER = 3  # waiting or done but not yet taken: bounds memory where the taker is the slower side


class Workers:
    """Applies a function to a stream of jobs, here or in other processes."""

    def __init__(self, executor: ProcessPoolExecutor | None, count: int) -> None:
        self._executor = executor
        self._window = count * JOBS_PER_WORKER

    def in_order(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """The results in the order of the jobs. Raises `UserError` where a worker process dies."""
        if self._executor is None:
            yield from map(function, jobs)
            return
        pending: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                pending.append(self._executor.submit(function, job))
                if len(pending) >= self._window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise WorkerDied(
                "a worker process was killed (out of memory?); run the command again, with fewer --workers"
            ) from None
        finally:
            for future in pending:
                future.cancel()


class WorkerDied(UserError):
    """No later work can succeed in this run."""


@contextmanager
def workers(count: int | None) -> Iterator[Workers]:
    """`count` worker processes (default: as many as cores this process may use); one means this process."""
    count = count or default_workers()
    if count == 1:
        yield Workers(None, 1)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with running threads may hang
    with ProcessPoolExecutor(count, mp_context=context, initializer=_prepare) as executor:
        yield Workers(executor, count)


def _prepare(*_: Any) -> None:
    # The processes are the parallelism; threads of the tokenizer inside each of them would only compete.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
