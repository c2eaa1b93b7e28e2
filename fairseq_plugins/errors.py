"""Let a `UserError` end fairseq's commands with one line and exit status 2.

fairseq prints tracebacks and wraps exceptions of loading code; `SystemExit` passes through all of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import distributed

from fairseq_plugins.run import in_the_users_words
from metro_t0.errors import UserError

STATUS = 2


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn a `UserError` of the body (a function decorated with this, or a with-block) into exit status 2."""
    try:
        yield
    except UserError as error:
        refuse(str(error))


def refuse(message: str) -> NoReturn:
    """End with one line on standard error and exit status 2."""
    print(f"metro-t0: error: {in_the_users_words(message)}", file=sys.stderr, flush=True)
    raise SystemExit(STATUS) from None


def agree(question: Callable[[], None]) -> None:
    """Ask something on the first process alone; where it raises a `UserError` all end with status 2, and one speaks.

    The others would wait for the first, and say so at length when it is gone.
    """
    message = ""
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        try:
            question()
        except UserError as error:
            message = str(error)
    failed = torch.tensor([len(message)])
    if distributed.is_initialized():
        failed = failed.cuda() if distributed.get_backend() == "nccl" else failed
        distributed.broadcast(failed, src=0)
    if message:
        refuse(message)
    if int(failed):
        raise SystemExit(STATUS)
