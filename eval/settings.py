"""What a user chooses about models, scores and generated text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metro_t0.common_options import device_option, limit_option, seed_option, tokens_option
from metro_t0.options import check, option

Dtype = Literal["float32", "bfloat16", "float16"]
ReferenceKind = Literal["raw", "roundtrip"]


@dataclass(frozen=True)
class ModelSettings:
    """Which model to load and how."""

    name: str = option(
        help="directory or Hugging Face Hub id of a sequence-to-sequence model", flag="--model", metavar="MODEL"
    )
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
