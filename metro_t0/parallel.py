"""Work on all cores whose results come back in order, so that they do not depend on the number of processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from metro_t0.errors import UserError

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

Job = TypeVar("Job")
Result = TypeVar("Result")
JOBS_PER_WORKER = 3  # waiting or done but not yet taken: bounds memory where the taker is the slower side


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerDied(UserError):
    """A process was killed from outside; no later work can succeed in this run."""


class Workers:
    """Applies a function to a stream of jobs, here or in other processes."""

    def __init__(self, executor: ProcessPoolExecutor | None, count: int) -> None:
        self._executor = executor
        self._window = count * JOBS_PER_WORKER

    def in_order(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """The results in the order of the jobs. Raises `WorkerDied`."""
        if self._executor is None:
            yield from map(function, jobs)
            return
        from concurrent.futures.process import BrokenProcessPool

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


@contextmanager
def workers(count: int | None, prepare: Callable[[], object] | None = None, fork: bool = False) -> Iterator[Workers]:
    """`count` worker processes (default: `default_workers`); one means this process.

    prepare: called once in every process, before its first job. fork: on Linux, begin as copies of this process, with
    all that it has imported and loaded; only while it runs no threads, because a copy would wait for them for ever.
    """
    count = count or default_workers()
    # The processes are the parallelism; threads of the tokenizer inside each of them would only compete.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if count == 1:
        if prepare:
            prepare()
        yield Workers(None, 1)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("fork" if fork and sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(count, context, partial(_begin, prepare)) as executor:
        if fork:
            executor.submit(int)  # forks now, before reading jobs may start threads in this process
        yield Workers(executor, count)


def _begin(prepare: Callable[[], object] | None) -> None:
    """In a new worker: it ends with its parent, however that ends; Ctrl-C, which all processes get, is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare:
        prepare()


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
