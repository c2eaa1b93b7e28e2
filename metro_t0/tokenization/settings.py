"""The settings of a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

from metro_t0.options import check, option


@dataclass(frozen=True)
class BpeSettings:
    """What a BPE vocabulary is trained to be."""

    vocab_size: int = option(
        32768,
        "ids in all: 4 special tokens, single characters and merged pieces; sentinels come on top",
        at_least=5,
        at_most=10_000_000,
    )
    lowercase: bool = option(False, "uncased: lower-case all text")
    character_coverage: float = option(
        0.99995,
        "share of the characters of the text that the vocabulary's single characters cover; the rarest become <unk>",
        above=0,
        at_most=1,
        metavar="SHARE",
    )

    def __post_init__(self) -> None:
        check(self)
