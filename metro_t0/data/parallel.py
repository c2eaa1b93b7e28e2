"""Mapping a function over a stream with several processes, in order and in bounded memory."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")
PENDING_PER_WORKER = 2


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[T], R], items: Iterable[T], workers: int, initializer: Callable[..., None], initargs: tuple
) -> Iterator[R]:
    """Yield function(item) in the order of the items; at most a few items are in flight.

    With one worker everything runs in this process. `initializer(*initargs)` runs once in every process. On Linux the
    processes are forked, so that they start with what this one has imported and loaded.
    """
    # One process per core is the parallelism; threads below it would only compete.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if workers == 1:
        initializer(*initargs)
        yield from map(function, items)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pending: deque[Future[R]] = deque()
    with ProcessPoolExecutor(workers, context, initializer, initargs) as pool:
        pool.submit(int)  # forks now, before reading the items may start threads in this process
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= workers * PENDING_PER_WORKER:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
