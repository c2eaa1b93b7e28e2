"""What all variants of an experiment have in common."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from metro_t0.common_options import MOST_TOKENS, data_dir_option, prompted_option, templates_option, tokenizer_option
from metro_t0.errors import UserError
from metro_t0.options import check, option

Precision = Literal["bf16", "fp32"]
Preset = Literal["demo", "tiny", "small", "base"]
MOST_UPDATES = 10**8


@dataclass(frozen=True)
class Scale:
    """What a preset is trained with unless told otherwise."""

    tokens_per_sample: int
    batch_size: int
    """Sequences per update and device."""
    learning_rate: float
    finetuning_learning_rate: float


SCALES: dict[Preset, Scale] = {
    "demo": Scale(128, 32, 2e-3, 1e-3),
    "tiny": Scale(256, 32, 1e-3, 5e-4),
    "small": Scale(512, 64, 6e-4, 2e-4),
    "base": Scale(512, 32, 4e-4, 4e-5),
}


def _by_preset(help: str, **bounds: float) -> Any:
    return option(None, f"{help} (default: by preset)", **bounds)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that the results of an experiment depend on, but for the variants and the seeds."""

    data: Path = option(help="pretraining data of metro-t0-data binarize", metavar="DIR")
    tokenizer: Path = tokenizer_option(help="vocabulary of the pretraining data and of the mixture")
    prompted: Path | None = prompted_option(None)
    preset: Preset = option("tiny", "size of the model")
    updates: int | None = option(None, "pretraining updates per variant", at_least=1, at_most=MOST_UPDATES)
    hours: float | None = option(
        None,
        "instead: pretraining wall time per variant, turned into updates by a short trial",
        above=0,
        at_most=100_000,
    )
    finetuning_updates: int = option(1000, "updates of the fine-tuning", at_least=1, at_most=MOST_UPDATES)
    finetuning_batch_size: int = option(32, "examples per update", at_least=1, at_most=MOST_TOKENS)
    tasks: str = option("t0", "evaluation: t0, mmlu, embedded, or a task file of metro-t0-eval tasks", metavar="TASKS")
    data_dir: Path | None = data_dir_option()
    templates_dir: Path | None = templates_option()
    limit: int | None = option(
        None, "at most N rows of each evaluation task, a fixed sample (default: all)", at_least=1, at_most=10**9
    )
    score_limit: int | None = option(
        None, "also measure exact match on that many held-out rows of each task", at_least=1, at_most=10**9
    )
    parts: tuple[float, ...] = option(
        (1.0,),
        "fine-tune and evaluate checkpoints after these shares of the pretraining, too: 0.3 0.6 1",
        above=0,
        at_most=1,
        metavar="SHARE",
    )
    pretraining_only: bool = option(False, "stop after the pretraining: its curves over tokens alone")
    precision: Precision = option("bf16", "of training on a GPU; a CPU trains in fp32")
    tokens_per_sample: int | None = _by_preset("length of a block", at_least=8, at_most=MOST_TOKENS)
    batch_size: int | None = _by_preset("blocks per update", at_least=1, at_most=MOST_TOKENS)
    learning_rate: float | None = _by_preset("peak, pretraining", above=0, at_most=100)
    finetuning_learning_rate: float | None = _by_preset("peak, finetuning", above=0, at_most=100)
    pretraining_options: str = option("", "more of fairseq-train, as --...='--option value'", metavar="OPTIONS")
    finetuning_options: str = option("", "more of fairseq-train, as --...='--option value'", metavar="OPTIONS")

    def __post_init__(self) -> None:
        check(self)
        if (self.updates is None) == (self.hours is None):
            raise UserError("give either --updates or --hours as the pretraining budget")
        if self.prompted is None and not self.pretraining_only:
            raise UserError("--prompted is needed, or --pretraining-only")
        if 1.0 not in self.parts:
            raise UserError(f"--parts {' '.join(map(str, self.parts))}: give shares up to 1, and 1 itself")
        object.__setattr__(self, "parts", tuple(sorted(set(self.parts))))

    @property
    def scale(self) -> Scale:
        """The preset's, with what was given instead."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(Scale)}
        return dataclasses.replace(
            SCALES[self.preset], **{name: value for name, value in given.items() if value is not None}
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, to tell one experiment from another."""
        plain = {Path: str, tuple: list}
        return {
            key: next((make(value) for kind, make in plain.items() if isinstance(value, kind)), value)
            for key, value in asdict(self).items()
        }
