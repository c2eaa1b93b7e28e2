"""Reading a SentencePiece unigram model without the sentencepiece package.

An sp.model is one protocol-buffer message (sentencepiece_model.proto). Only a few of its fields matter here, so the
wire format is read directly: a varint key (field number << 3 | wire type), then a varint, 4 or 8 bytes, or a length
and that many bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, normalizers

from metro_t0.errors import UserError
from metro_t0.tokenization.normalization import build_normalizer
from metro_t0.tokenization.vocabulary import SPECIAL_TOKENS, UNK_ID, Vocabulary

NORMAL, USER_DEFINED = 1, 4
UNIGRAM = 1
# Of a piece: field 1 of wire type 2, and field 2 of wire type 5.
TEXT_KEY, SCORE_KEY = 0x0A, 0x15
SCORE = struct.Struct("<f")
# Far below every piece, so that the text "<s>" is never read as the token.
SPECIAL_SCORE = -1000.0


@dataclass
class SentencePieceModel:
    """The fields of an sp.model that decide how text is cut."""

    scores: dict[str, float] = field(default_factory=dict)  # of normal and user-defined pieces
    user_defined: list[str] = field(default_factory=list)
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    normalizer_name: str = ""
    characters_map: bytes = b""
    plain_options: bool = True  # dummy prefix, white space collapsed and escaped: SentencePiece's defaults

    @property
    def folds_case(self) -> bool:
        """Whether the model is uncased: its normalization folds case."""
        return self.normalizer_name.endswith("_cf")


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Parse an sp.model. Raises `UserError` where it is not one or is of a kind that cannot be converted."""
    try:
        model = _parse(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (IndexError, ValueError, struct.error, UnicodeDecodeError):
        raise UserError(f"{path}: not a SentencePiece model") from None
    if not model.scores:
        raise UserError(f"{path}: not a SentencePiece model (no pieces)")
    if model.model_type != UNIGRAM or model.byte_fallback or not model.plain_options:
        raise UserError(f"{path}: only unigram models with the default options and no byte fallback are supported")
    return model


def convert(model: SentencePieceModel, vocabulary: Vocabulary, path: Path) -> RustTokenizer:
    """The Rust tokenizer (normalizer and unigram model) whose ids are those of the dict.txt.

    Raises `UserError` where sp.model and dict.txt do not hold the same pieces.
    """
    known = set(vocabulary.pieces)
    missing = [piece for piece in model.scores if piece not in known]
    unknown = [piece for piece in vocabulary.pieces if piece not in model.scores]
    if missing or unknown:
        raise UserError(
            f"{path}: {len(missing)} of its pieces are not in dict.txt and {len(unknown)} of dict.txt are not in it "
            f"(first: {(missing + unknown)[0]!r}); the two files do not belong together"
        )
    # SentencePiece scores a user-defined piece by its length (unigram_model.cc), whatever the file says.
    best = max(score for piece, score in model.scores.items() if piece not in model.user_defined)
    scores = model.scores | {piece: len(piece) * best - 0.1 for piece in model.user_defined}
    entries = [(token, SPECIAL_SCORE) for token in SPECIAL_TOKENS]
    entries += [(piece, scores[piece]) for piece in vocabulary.pieces]
    rust = RustTokenizer(models.Unigram(entries, unk_id=UNK_ID, byte_fallback=False))
    characters = [normalizers.Precompiled(model.characters_map)] if model.characters_map else []
    rust.normalizer = build_normalizer(characters, lowercase=model.folds_case)
    return rust


def _parse(message: bytes) -> SentencePieceModel:
    model = SentencePieceModel()
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            text, score, kind = _piece(value)
            if kind in (NORMAL, USER_DEFINED):
                model.scores[text] = score
            if kind == USER_DEFINED:
                model.user_defined.append(text)
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
            model.model_type = _int(trainer.get(3, UNIGRAM))
            model.byte_fallback = bool(trainer.get(35, 0))
        elif number == 3 and isinstance(value, bytes):
            options = dict(_fields(value))
            model.normalizer_name = _bytes(options.get(1, b"")).decode("utf-8")
            model.characters_map = _bytes(options.get(2, b""))
            model.plain_options = all(options.get(option, 1) for option in (3, 4, 5))
    return model


def _piece(message: bytes) -> tuple[str, float, int]:
    """Text, score and kind of a piece."""
    if message[0] == TEXT_KEY and message[1] < 0x80 and message[message[1] + 2] == SCORE_KEY:
        end = message[1] + 2
        if len(message) == end + 5:  # nearly all pieces: text and score, nothing else
            return message[2:end].decode("utf-8"), SCORE.unpack_from(message, end + 1)[0], NORMAL
    piece = dict(_fields(message))
    score = SCORE.unpack(_bytes(piece.get(2, b"\0\0\0\0")))[0]
    return _bytes(piece[1]).decode("utf-8"), score, _int(piece.get(3, NORMAL))


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("expected bytes")
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("expected an integer")
    return value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + length > len(message):
            raise ValueError("truncated")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")
