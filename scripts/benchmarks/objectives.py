"""Processor time of a training step of each objective on the same blocks: what "equal processor time" means.

    python -m scripts.benchmarks.objectives DATA --arch metro_t5_demo --tokens-per-sample 128 --batch-size 32

DATA is a directory of metro-t0-data binarize. Forward and backward of four batches of its held-out blocks on one
thread; the least of three rounds.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import torch

from metro_t0.command import Parser

PLUGIN = Path(__file__).resolve().parents[2] / "fairseq_plugins"
OBJECTIVES = {
    "METRO": ["--task", "metro_pretraining"],
    "T5 span corruption": ["--task", "t5_pretraining"],
    "T5, loss on all tokens": ["--task", "t5_pretraining", "--decoding-target", "all_tokens"],
}
BATCHES, ROUNDS = 4, 3


def seconds_per_step(arguments: list[str], batch_size: int) -> float:
    """Build task, model and criterion as fairseq-train does; the least mean of a round."""
    from fairseq import options, tasks
    from fairseq.criterions import build_criterion
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    parsed = options.parse_args_and_arch(options.get_training_parser(), input_args=arguments)
    cfg = convert_namespace_to_omegaconf(parsed)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    criterion = build_criterion(cfg.criterion, task)
    task.load_dataset("valid")
    blocks = task.dataset("valid")
    batches = [
        blocks.collater([blocks[i] for i in range(n * batch_size, (n + 1) * batch_size)]) for n in range(BATCHES)
    ]

    def round_of_steps() -> float:
        start = time.process_time()
        for batch in batches:
            loss, _, _ = criterion(model, batch)
            loss.backward()
            model.zero_grad()
        return (time.process_time() - start) / BATCHES

    round_of_steps()
    return min(round_of_steps() for _ in range(ROUNDS))


def main() -> None:
    """One line per objective, the ratio to METRO's last."""
    parser = Parser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arch", default="metro_t5_demo")
    parser.add_argument("--tokens-per-sample", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    common = [
        str(given.data), "--user-dir", str(PLUGIN), "--arch", given.arch, "--criterion", "metro",
        "--tokens-per-sample", str(given.tokens_per_sample), "--sample-break-mode", "none",
        "--optimizer", "fused_adamw", "--batch-size", str(given.batch_size),
    ]  # fmt: skip
    first: float | None = None
    for name, arguments in OBJECTIVES.items():
        seconds = seconds_per_step([*common, *arguments], given.batch_size)
        first = first or seconds
        print(f"{name:24} {1000 * seconds:8.1f} ms per step, METRO / this {first / seconds:.2f}", flush=True)


if __name__ == "__main__":
    main()
