"""What a user chooses about models, scores, reports, generated text and retrieved passages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metro_t0.common_options import (
    MOST_TOKENS,
    data_dir_option,
    device_option,
    limit_option,
    model_option,
    only_option,
    output_option,
    seed_option,
    templates_option,
    tokens_option,
)
from metro_t0.options import check, option

Dtype = Literal["float32", "bfloat16", "float16"]
ReferenceKind = Literal["raw", "roundtrip"]
MAX_TOKENS = {"cuda": 65536, "mps": 8192, "cpu": 1024}
"""Of a batch, where time per token stops falling; on a CPU smaller batches of closer lengths save padding."""
BY_DEVICE = ", ".join(f"{device} {tokens}" for device, tokens in MAX_TOKENS.items())


@dataclass(frozen=True)
class ModelSettings:
    """Which model to load and how."""

    name: str = model_option(flag="--model")
    revision: str | None = option(None, "branch, tag or commit of a Hub model")
    dtype: Dtype = option("float32", "of weights and activations; log-softmax is float32")
    device: str | None = device_option()
    trust_remote_code: bool = option(False, "run the Python code that comes with the model")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ScoringSettings:
    """What changes the scores (the batch budget does not)."""

    max_source_tokens: int = tokens_option(512, "tokens of a prompt; longer prompts lose their end")
    max_choice_tokens: int = tokens_option(256, "tokens of an answer choice")
    seed: int = seed_option("templates that draw at random, and of the sample of --limit")
    limit: int | None = limit_option("rows of each task, for a quick look")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """A model on a task set: what is scored, where its data is, what is reported."""

    model: ModelSettings
    scoring: ScoringSettings
    output: Path = output_option(help="directory of the results; a second run computes what is missing")
    data_dir: Path | None = data_dir_option()
    templates_dir: Path | None = templates_option()
    only: tuple[str, ...] = only_option("tasks of the set")
    max_tokens: int | None = option(
        None, f"tokens per batch (default: by device, {BY_DEVICE})", at_least=1, at_most=100 * MOST_TOKENS
    )
    length_normalize: bool = option(False, "report the mean per token beside the sum")
    save_predictions: bool = option(False, "keep the log-probabilities of every example")


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """A task pack for lm-evaluation-harness."""

    output: Path = output_option(help="directory of the pack")
    tasks: str = option("t0", "task set: t0, mmlu, btzsc, embedded, or a YAML file of your own", metavar="TASKS")
    only: tuple[str, ...] = only_option("tasks of the set")
    data_dir: Path | None = data_dir_option()
    templates_dir: Path | None = templates_option()
    end_token: str = option("</s>", "end token of the model's tokenizer, as text")
    seed: int = seed_option("templates that draw at random, and of the sample of --limit")
    limit: int | None = limit_option("rows of each task")


@dataclass(frozen=True, kw_only=True)
class RetrievalSettings:
    """Passages of a collection for the questions of MMLU."""

    encoder: str = option(help="sentence-transformers model: directory or Hub id", metavar="MODEL")
    collection: str = option(
        help="passages: .tsv or .jsonl (id, text), also .gz or .zst; or hf:NAME[/CONFIG][:SPLIT], a row each",
        metavar="FILE",
    )
    index: Path = option(help="directory of the FAISS shards", metavar="DIR")
    output: Path = output_option(help="JSONL file of passages per question", metavar="FILE")
    split: Literal["validation", "test"] = option("validation", "of MMLU")
    data_dir: Path | None = data_dir_option()
    top_k: int = option(10, "passages kept per question", at_least=1, at_most=10_000)
    shard_size: int = option(500_000, "passages in memory at a time", at_least=1, at_most=10**9)
    batch_size: int = option(64, "texts encoded together", at_least=1, at_most=100_000)
    device: str | None = device_option()


@dataclass(frozen=True)
class GenerationSettings:
    """How text is generated and compared.

    reference: raw compares with the text of the file; roundtrip with that text after the tokenizer and back, cut to
    max_target_tokens, which forgives what the vocabulary cannot write (published figures are of that kind).
    """

    beams: int = option(4, "beams; 1 is greedy search", at_least=1, at_most=1000)
    length_penalty: float = option(
        0.6, "exponent of the length that a beam's score is divided by", at_least=-100, at_most=100
    )
    max_source_tokens: int = tokens_option(512, "tokens of a source; the rest is cut off")
    max_target_tokens: int = tokens_option(128, "tokens of a prediction")
    batch_size: int = option(16, "examples decoded together", at_least=1, at_most=100_000)
    reference: ReferenceKind = option("raw", "what predictions are compared with")
    seed: int = seed_option("the sample of --limit")
    limit: int | None = limit_option("examples")

    def __post_init__(self) -> None:
        check(self)
