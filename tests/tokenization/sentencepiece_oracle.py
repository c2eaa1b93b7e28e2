"""The METRO-T0 release's text processing, written out slowly: the definition that the Rust tokenizer must equal."""

from __future__ import annotations

import re
import string
import unicodedata
from pathlib import Path

QUOTES_AND_DASHES = str.maketrans("‘’´“”—–", "'''\"\"--")


def is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def split_ends(word: str) -> list[str]:
    """Punctuation at both ends as words of its own; a word of punctuation alone stays whole."""
    inside = [index for index, character in enumerate(word) if not is_punctuation(character)]
    if not inside:
        return [word]
    first, last = inside[0], inside[-1] + 1
    return [part for part in (word[:first], word[first:last], word[last:]) if part]


def normalize(text: str) -> str:
    text = text.strip().replace("``", '"').replace("''", '"').translate(QUOTES_AND_DASHES)
    line = " ".join(part for word in text.split() for part in split_ends(word))
    line = re.sub(r"' ([smdtSMDT])\b", r"'\1", line)
    for ending in ("ll", "re", "ve"):
        line = re.sub(rf"' {ending}\b", f"'{ending}", line)
    for ending in ("LL", "RE", "VE"):
        line = re.sub(rf"' {ending}\b", f"'{ending} ", line)
    return " ".join(line.split())


class SentencePieceOracle:
    """Normalization, then the sentencepiece package, then the lines of dict.txt as a table."""

    def __init__(self, directory: Path, lowercase: bool) -> None:
        import sentencepiece

        self.lowercase = lowercase
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(directory / "sp.model"))
        lines = (directory / "dict.txt").read_text(encoding="utf-8").split("\n")
        pieces = [line.rsplit(" ", 1)[0] for line in lines if line]
        self.ids = {piece: 4 + index for index, piece in enumerate(pieces)}

    def encode(self, text: str) -> list[int]:
        text = normalize(text)
        text = text.lower() if self.lowercase else text
        return [self.ids.get(piece, 3) for piece in self.processor.encode(text, out_type=str)]
