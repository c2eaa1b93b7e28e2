"""What fairseq takes for granted of hardware and processes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from torch import distributed

from fairseq_plugins import hardware


def test_a_finished_run_destroys_its_process_group_and_a_failed_one_does_not() -> None:
    """Threads of gloo that hold tensors abort a process that ends; after an error others may wait in a collective."""
    cfg = SimpleNamespace(
        common=SimpleNamespace(bf16=False, tpu=False),
        distributed_training=SimpleNamespace(),
    )
    ended: list[bool] = []

    def fairseqs(cfg: Any, main: Callable[[Any], None]) -> None:
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        main(cfg)

    hardware._call_main(fairseqs)(cfg, lambda cfg: ended.append(distributed.is_initialized()))
    assert ended == [True]
    assert not distributed.is_initialized()
    with pytest.raises(ZeroDivisionError):
        hardware._call_main(fairseqs)(cfg, lambda cfg: 1 / 0)
    assert distributed.is_initialized()
    distributed.destroy_process_group()
