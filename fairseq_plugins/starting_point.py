"""Model options that say what training starts from: statistics of another model, its weights, or constant norms."""

# fairseq reads the types of dataclass fields at run time: no `from __future__ import annotations` here.
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass

from metro_t0.errors import UserError
from metro_t0.files import read_json
from metro_t0.options import option
from metro_t0.transfer.roles import copy_weights
from metro_t0.transfer.statistics import Statistics, apply_statistics, constant_statistics
from metro_t0.transfer.weight_files import read_weights

logger = logging.getLogger(__name__)
CONSTANT = "pre_attention_norm="


@dataclass
class StartingPointConfig(FairseqDataclass):
    """Options that every model of this project has."""

    init_from: str = option(
        "",
        "start from statistics (.json of metro-t0-synthetic init-stats), from all weights but the token "
        "embeddings of a model (.pt, or a Hugging Face directory), or from pre_attention_norm=VALUE",
    )
    init_embeddings: bool = option(False, "with init_from a model: its embeddings too")
    peak_tflops: float = option(
        0.0,
        "TFLOP/s of one device in the precision of training, which model FLOPs utilization is a share of; "
        "0: measured when training begins",
        at_least=0,
    )
    accept_changed_options: bool = option(
        False, "train on from a checkpoint although other options than these were used to train it"
    )


def start(model: torch.nn.Module, cfg: Any, seed: int) -> None:
    """Change the fresh weights of a `MetroT5` as the options say. Raises `UserError` where they do not fit."""
    origin = getattr(cfg, "init_from", "")
    if not origin:
        return
    tensors = model.state_dict()
    if origin.startswith(CONSTANT):
        statistics = constant_statistics(tensors, _constant(origin))
    elif origin.endswith(".json"):
        statistics = Statistics.from_json(read_json(Path(origin)), origin)
    else:
        count = copy_weights(tensors, read_weights(Path(origin)), bool(cfg.init_embeddings), origin)
        logger.info("copied %d tensors of %s", count, origin)
        return
    if cfg.init_embeddings:
        raise UserError(f"init_embeddings: {origin} has no token embeddings; statistics never have them")
    count = apply_statistics(tensors, statistics, seed, origin)
    logger.info("initialized %d tensors from %s (scheme %s)", count, origin, statistics.scheme)


def _constant(origin: str) -> float:
    try:
        return float(origin.removeprefix(CONSTANT))
    except ValueError:
        raise UserError(f"init_from {origin}: the value is not a number") from None
