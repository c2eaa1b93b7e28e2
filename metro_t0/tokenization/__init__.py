"""Text to fairseq ids: normalization, BPE training, the tokenizer, the vocabulary file."""

from metro_t0.tokenization.tokenizer import Tokenizer
from metro_t0.tokenization.vocabulary import Vocabulary

__all__ = ["Tokenizer", "Vocabulary"]
