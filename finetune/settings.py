"""What a user chooses about prompted mixtures: how they are looked at, built (all that the files depend on), scored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from metro_t0.common_options import (
    MOST_EXAMPLES,
    data_dir_option,
    dataset_option,
    device_option,
    limit_option,
    model_option,
    only_option,
    prompted_option,
    seed_option,
    templates_option,
    tokenizer_option,
    tokens_option,
)
from metro_t0.options import check, option
from metro_t0.prompts import MAX_VARIABLE_LENGTH

PromptSource = Literal["promptsource", "p3"]
ValidationRule = Literal["t0", "all", "none"]
CapRule = Literal["t0", "released"]


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Where rows and templates come from, and how a row is rendered."""

    data_dir: Path | None = data_dir_option()
    templates_dir: Path | None = templates_option()
    seed: int = seed_option("the templates' random choices and of the samples of the limits")
    keep_long_variables: bool = option(
        False, f"do not cut each substituted expression to {MAX_VARIABLE_LENGTH:,} characters, as promptsource does"
    )

    @property
    def max_variable_length(self) -> int | None:
        """Characters kept of every substituted expression; None keeps all."""
        return None if self.keep_long_variables else MAX_VARIABLE_LENGTH


@dataclass(frozen=True, kw_only=True)
class ShowSettings(PromptSettings):
    """Which rendered examples to look at."""

    dataset: str = dataset_option()
    template: str | None = option(None, "one template (default: all)")
    split: str = option("train", "split to read")
    rows: int = option(1, "examples per template", at_least=1, at_most=MOST_EXAMPLES)


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Which model is scored on which held-out examples."""

    model: str = model_option()
    prompted: Path = prompted_option()
    only: tuple[str, ...] = only_option("data sets (NAME or NAME/SUBSET) or tasks")
    limit: int | None = limit_option("examples of each task")
    seed: int = seed_option("the sample of --limit")
    device: str | None = device_option()


@dataclass(frozen=True, kw_only=True)
class BuildSettings(PromptSettings):
    """How rows become token files."""

    tokenizer: Path = tokenizer_option()
    source: PromptSource = option(
        "promptsource", "render templates over rows, or take the ready-rendered examples of bigscience/P3"
    )
    cap: CapRule = option(
        "t0", "t0: only data sets above 500,000 rows are capped; released: every template to 500,000 / templates"
    )
    validation: ValidationRule = option("t0", "which tasks get held-out examples: T0's choice, all, none")
    limit: int | None = limit_option("rows of each training split")
    held_out_limit: int | None = limit_option("rows of each held-out split")
    max_source_tokens: int = tokens_option(
        512, "longest source, <s> and end token included; the rest is cut", at_least=3
    )
    max_target_tokens: int = tokens_option(256, "longest target, end token included; the rest is cut", at_least=3)

    def __post_init__(self) -> None:
        check(self)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the record beside the built files."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
