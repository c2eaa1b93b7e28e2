"""Text to fairseq ids: normalization, BPE training, the tokenizer, the vocabulary file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metro_t0.tokenization.tokenizer import Tokenizer
    from metro_t0.tokenization.vocabulary import Vocabulary

__all__ = ["Tokenizer", "Vocabulary"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Loading them takes a third of a second, which --help of the commands need not wait for.
    from metro_t0.tokenization.tokenizer import Tokenizer
    from metro_t0.tokenization.vocabulary import Vocabulary

    return Tokenizer if name == "Tokenizer" else Vocabulary
