"""Where the time of an update under fairseq-train goes: the model's own work, and everything around it.

    python -m scripts.benchmarks.fairseq_overhead DATA --arch metro_t5_tiny --tokens-per-sample 256 --batch-size 8 --cpu
    python -m scripts.benchmarks.fairseq_overhead DATA --arch metro_t5_base --tokens-per-sample 512 --batch-size 32 \\
        --bf16 --num-workers 4                                                                            # on a GPU

DATA is a directory of metro-t0-data binarize; options are those of fairseq-train. fairseq's own Trainer trains 30
updates; the parts of the last 25 are timed (on a GPU each part waits for the device, so that its work counts).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metro_t0.tables import print_table

UPDATES, WARM_UP = 30, 5
PLUGIN = Path(__file__).resolve().parents[2] / "fairseq_plugins"
DEFAULTS = (
    "--task metro_pretraining --criterion metro --optimizer fused_adamw --adam-betas (0.9,0.98) --weight-decay 0.01 "
    "--lr 0.0004 --lr-scheduler fixed --clip-norm 2.0 --required-batch-size-multiple 1 --num-workers 0 --no-save "
    "--disable-validation --log-format json --log-interval 100"
)
MODEL = ("forward and losses", "backward", "optimizer")


class Parts:
    """Seconds by part; a part inside another counts for itself only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.updates = 0
        self._inside = [0.0]

    def timed(self, owner: Any, method: str, part: str) -> None:
        """Time every call of a method from now on."""
        function = getattr(owner, method)

        def call(*arguments: Any, **options: Any) -> Any:
            self._inside.append(0.0)
            start = self._now()
            try:
                return function(*arguments, **options)
            finally:
                taken = self._now() - start
                inner = self._inside.pop()
                self._inside[-1] += taken
                if self.updates >= WARM_UP:
                    self.seconds[part] += taken - inner

        setattr(owner, method, call)

    def counted(self, owner: Any, method: str) -> None:
        """Every call of this method is an update."""
        function: Callable[..., Any] = getattr(owner, method)

        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            self.updates += 1
            return result

        setattr(owner, method, call)

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def watch() -> Parts:
    """Put a watch on the parts of fairseq's update."""
    import fairseq_cli.train
    from fairseq.data.iterators import CountingIterator
    from fairseq.optim import FairseqOptimizer, FP16Optimizer
    from fairseq.tasks import FairseqTask
    from fairseq.trainer import Trainer

    from fairseq_plugins.criterions.metro import MetroCriterion

    parts = Parts()
    for owner, method, part in (
        (MetroCriterion, "forward", "forward and losses"),
        (FairseqOptimizer, "backward", "backward"),
        (FP16Optimizer, "backward", "backward"),  # under --bf16 these two are not those of the class above
        (FP16Optimizer, "zero_grad", "optimizer"),
        (FairseqTask, "optimizer_step", "optimizer"),
        (FairseqOptimizer, "zero_grad", "optimizer"),
        (Trainer, "clip_grad_norm", "gradient norm and clip"),
        (CountingIterator, "__next__", "waiting for a batch: read, mask, collate"),
        (Trainer, "_prepare_sample", "batch to the device"),
        (Trainer, "_reduce_and_log_stats", "logging"),
        (Trainer, "train_step", "the rest of train_step"),
        (fairseq_cli.train, "train", "the rest of the loop"),
    ):
        parts.timed(owner, method, part)
    parts.counted(Trainer, "train_step")
    return parts


def show(parts: Parts) -> None:
    """Milliseconds per update and shares."""
    updates = parts.updates - WARM_UP
    total = sum(parts.seconds.values())
    named = sorted(parts.seconds.items(), key=lambda item: -item[1])
    named.append(("all but the model's work", total - sum(parts.seconds[part] for part in MODEL)))
    rows = [(part, f"{1000 * seconds / updates:.2f}", f"{seconds / total:.1%}") for part, seconds in named]
    title = f"{updates} updates of {1000 * total / updates:.1f} ms"
    print_table(("part", "ms/update", "share"), rows, title, last=1)


def main() -> int:
    """Train and show."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if len(sys.argv) > 1 else 2
    from fairseq_cli.train import cli_main

    sys.path.insert(0, str(PLUGIN.parent))
    with tempfile.TemporaryDirectory() as directory:
        common = ["--user-dir", str(PLUGIN), *DEFAULTS.split(), "--save-dir", directory]
        sys.argv = ["fairseq-train", sys.argv[1], *common, "--max-update", str(UPDATES), *sys.argv[2:]]
        parts = watch()
        cli_main()
    show(parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
