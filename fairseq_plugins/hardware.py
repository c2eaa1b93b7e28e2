"""Where fairseq takes hardware for granted that the user may not have.

- `--bf16` on the command line implies `--tpu`, although GPUs and CPUs have bfloat16 too.
- Several processes under torchrun must each own a GPU; here they may share a CPU (`--cpu --distributed-backend gloo`).
- Nobody destroys the process group: torch warns of it (NCCL), or a thread of gloo ends a finished run with SIGABRT.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import ProcessExitedException

from fairseq_plugins.errors import STATUS


def install() -> None:
    """Mend fairseq once."""
    if getattr(distributed_utils.call_main, "patched", False):
        return
    distributed_utils.call_main = _call_main(distributed_utils.call_main)
    distributed_utils._infer_torch_distributed_launch_init = _launch_with_or_without_gpus(
        distributed_utils._infer_torch_distributed_launch_init
    )
    distributed_fairseq_model.DistributedDataParallel = CpuOrGpuDataParallel
    distributed_utils.distributed_init = _init_of_this_attempt(distributed_utils.distributed_init)


def _call_main(original: Callable[..., Any]) -> Callable[..., Any]:
    def call_main(cfg: Any, main: Callable[..., Any], **settings: Any) -> None:
        if cfg.common.bf16 and cfg.common.tpu and find_spec("torch_xla") is None:
            cfg.common.tpu = False
            if cfg.optimizer is not None and "tpu" in cfg.optimizer:
                cfg.optimizer.tpu = False
        try:
            original(cfg, main, **settings)
        except ProcessExitedException as error:
            if error.exit_code != STATUS:
                raise
            raise SystemExit(STATUS) from None  # the process for one of the GPUs has said why
        if distributed.is_initialized():  # after an error the others may be waiting in a collective: not then
            distributed.destroy_process_group()

    call_main.patched = True  # type: ignore[attr-defined]
    return call_main


def _launch_with_or_without_gpus(original: Callable[..., Any]) -> Callable[..., Any]:
    def infer_torch_distributed_launch_init(cfg: Any) -> None:
        if torch.cuda.is_available():
            original(cfg)
            return
        cfg.distributed_init_method = "env://"
        cfg.distributed_world_size = int(os.environ["WORLD_SIZE"])
        cfg.distributed_rank = int(os.environ["RANK"])
        cfg.device_id = 0  # else fairseq selects a CUDA device by the local rank
        cfg.distributed_no_spawn = True

    return infer_torch_distributed_launch_init


def _init_of_this_attempt(original: Callable[..., Any]) -> Callable[..., Any]:
    """After `torchrun --max-restarts` has begun anew: do not meet under the names that killed processes have left.

    torchrun's store lives on, and a process that is early would find the address that another had before.
    """

    def distributed_init(cfg: Any) -> Any:
        attempt, options = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), cfg.distributed_training
        if attempt != "0" and options.distributed_init_method == "env://" and not distributed.is_initialized():
            store, rank, size = next(rendezvous("env://"))
            store = PrefixStore(f"attempt_{attempt}", store)
            distributed.init_process_group(options.distributed_backend, store=store, rank=rank, world_size=size)
        return original(cfg)

    return distributed_init


class CpuOrGpuDataParallel(torch.nn.parallel.DistributedDataParallel):
    """torch's DDP, which wants no device ids for a module on the CPU."""

    def __init__(
        self, module: torch.nn.Module, device_ids: Any = None, output_device: Any = None, **options: Any
    ) -> None:
        if next(module.parameters()).device.type == "cpu":
            device_ids = output_device = None
        super().__init__(module, device_ids=device_ids, output_device=output_device, **options)
