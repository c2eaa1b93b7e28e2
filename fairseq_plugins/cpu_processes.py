"""Several training processes on a machine without GPUs: `torchrun ... fairseq-train --cpu --distributed-backend gloo`.

fairseq takes for granted that every process owns a GPU, in the two places mended here. With GPUs nothing changes.
"""

import os
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model


def install() -> None:
    """Mend fairseq once."""
    launch = distributed_utils._infer_torch_distributed_launch_init
    if getattr(launch, "works_without_gpus", False):
        return

    def infer_torch_distributed_launch_init(cfg: Any) -> None:
        if torch.cuda.is_available():
            return launch(cfg)
        cfg.distributed_init_method = "env://"
        cfg.distributed_world_size = int(os.environ["WORLD_SIZE"])
        cfg.distributed_rank = int(os.environ["RANK"])
        cfg.device_id = 0  # else fairseq selects a CUDA device by the local rank
        cfg.distributed_no_spawn = True
        return None

    infer_torch_distributed_launch_init.works_without_gpus = True  # type: ignore[attr-defined]
    distributed_utils._infer_torch_distributed_launch_init = infer_torch_distributed_launch_init
    distributed_fairseq_model.DistributedDataParallel = CpuOrGpuDataParallel


class CpuOrGpuDataParallel(torch.nn.parallel.DistributedDataParallel):
    """torch's DDP, which wants no device ids for a module on the CPU."""

    def __init__(
        self, module: torch.nn.Module, device_ids: Any = None, output_device: Any = None, **options: Any
    ) -> None:
        if next(module.parameters()).device.type == "cpu":
            device_ids = output_device = None
        super().__init__(module, device_ids=device_ids, output_device=output_device, **options)
