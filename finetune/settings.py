"""The settings of a build: everything that the built files depend on, besides the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.mixtures import CapRule
from metro_t0.errors import UserError
from metro_t0.prompts.rendering import MAX_VARIABLE_LENGTH

PromptSource = Literal["promptsource", "p3"]
ValidationRule = Literal["t0", "all", "none"]


@dataclass(frozen=True)
class BuildSettings:
    """How rows become token files."""

    tokenizer: Path
    """Directory of the tokenizer (dict.txt and tokenizer.json or sp.model)."""
    data_dir: Path | None = None
    """Local data sets; None reads the hub."""
    templates_dir: Path | None = None
    """Template files in promptsource's layout; None takes the installed promptsource."""
    source: PromptSource = "promptsource"
    """Render templates over rows, or take the ready-rendered examples of `bigscience/P3`."""
    cap: CapRule = "t0"
    """See `finetune.mixtures.cap_per_task`."""
    validation: ValidationRule = "t0"
    """Which tasks get held-out examples: T0's choice (original-task templates), all tasks, or none."""
    limit: int | None = None
    """Rows taken of each training split, a sample that depends on the seed; None takes all."""
    held_out_limit: int | None = None
    """The same for held-out splits."""
    seed: int = 1
    """For the templates' random choices and for the samples of the limits."""
    max_source_tokens: int = 512
    """Longest source as the model reads it, `<s>` and end token included; the rest is cut."""
    max_target_tokens: int = 256
    """Longest target, its end token included; the rest is cut."""
    max_variable_length: int | None = MAX_VARIABLE_LENGTH
    """Characters kept of every substituted expression; None keeps all."""

    def __post_init__(self) -> None:
        for name in ("limit", "held_out_limit", "max_source_tokens", "max_target_tokens"):
            value = getattr(self, name)
            least = 1 if name.endswith("limit") else 3
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the record beside the built files."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
