"""The vocabulary file: fairseq's dict.txt, one `piece count` per line, after four special tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from metro_t0.errors import UserError
from metro_t0.files import write_text

BOS, PAD, EOS, UNK = "<s>", "<pad>", "</s>", "<unk>"
SPECIAL_TOKENS = (BOS, PAD, EOS, UNK)
BOS_ID, PAD_ID, EOS_ID, UNK_ID = range(len(SPECIAL_TOKENS))


def sentinel(index: int) -> str:
    """The name of a sentinel: `<sen000>`, `<sen001>`, ..."""
    return f"<sen{index:03d}>"


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of a dict.txt in file order; piece k has id 4 + k."""

    pieces: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        """Number of ids: four special tokens and the pieces, without sentinels."""
        return len(SPECIAL_TOKENS) + len(self.pieces)

    def tokens(self) -> list[str]:
        """All tokens in id order."""
        return [*SPECIAL_TOKENS, *self.pieces]

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read a dict.txt. Raises `UserError` with the line number of the first line that fairseq would refuse."""
        if not path.is_file():
            raise UserError(f"{path}: no such file; a vocabulary directory holds dict.txt")
        content = path.read_bytes()
        try:
            lines = content.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
        if lines and not lines[-1]:
            lines.pop()
        split = [line.rstrip().rpartition(" ") for line in lines]
        for number, (piece, _, count) in enumerate(split, 1):
            if not piece or not count.isdigit():
                raise UserError(f"{path}:{number}: expected 'PIECE COUNT', found {lines[number - 1][:60]!r}")
        pieces = tuple([piece for piece, _, _ in split])
        if not pieces:
            raise UserError(f"{path}: empty vocabulary")
        seen = set(SPECIAL_TOKENS)
        for number, piece in enumerate(pieces, 1):
            if piece in seen:
                raise UserError(f"{path}:{number}: piece {piece!r} occurs twice or is a special token")
            seen.add(piece)
        return cls(pieces, hashlib.sha256(content).hexdigest())


def write_vocabulary(path: Path, pieces: Iterable[tuple[str, int]]) -> None:
    """Write (piece, count) pairs as a dict.txt."""
    write_text(path, "".join(f"{piece} {count}\n" for piece, count in pieces))
