"""fairseq-train in several processes, as torchrun starts them, from a server that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST = 240
"""Seconds after which a run hangs."""


def start(
    number: int, arguments: list[str], log: Path | None = None, before: Callable[[], None] | None = None
) -> list[BaseProcess]:
    """fairseq-train with these arguments in `number` processes, `before` in each first; their output goes to log."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fairseq_cli.train", "fairseq_plugins"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if number > 1:
        arguments = [*arguments, "--distributed-world-size", str(number), "--distributed-backend", "gloo"]
    settings = (number, port, arguments, log, before)
    ranks = [context.Process(target=run_rank, args=(rank, *settings)) for rank in range(number)]
    for rank in ranks:
        rank.start()
    return ranks


def statuses(ranks: list[BaseProcess]) -> list[int | None]:
    """Exit statuses, once all have ended; None of those that hang and are killed."""
    for rank in ranks:
        rank.join(LONGEST)
        if rank.is_alive():
            rank.kill()
    return [rank.exitcode for rank in ranks]


def run_rank(
    rank: int, number: int, port: int, arguments: list[str], log: Path | None, before: Callable[[], None] | None
) -> None:
    """What one process does."""
    import torch
    from fairseq_cli.train import cli_main

    if log is not None:
        stream = open(log, "a")  # noqa: SIM115 - it lives as long as the process
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(REPOSITORY)
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if number > 1:
        os.environ.update({name: str(value) for name, value in place.items()})
    if before is not None:
        before()
    sys.argv = ["fairseq-train", *arguments]
    cli_main()
