"""The work on one unit: documents to tokens, dealt out to the validation set and the training shards."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metro_t0.data.documents import BadLines, documents
from metro_t0.data.sources import Unit
from metro_t0.data.token_files import token_dtype
from metro_t0.errors import UserError
from metro_t0.files import atomic_path
from metro_t0.tokenization import Tokenizer

VALID = "valid"
# Documents with the same beginning go to the same side of the split, and no document need be held in memory.
HASHED_CHARACTERS = 4096


@dataclass
class Counts:
    """What a set holds. tokens counts everything in the files, `</s>` included; unknown counts `<unk>`."""

    documents: int = 0
    items: int = 0
    tokens: int = 0
    unknown: int = 0
    characters: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of another part."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Part:
    """The tokens of one unit for one set. tokens: (total,); sizes: (items,) int32."""

    tokens: NDArray[np.integer]
    sizes: NDArray[np.int32]
    counts: Counts


@dataclass
class EncodedUnit:
    """The parts of one unit by name of the set ("valid", "0", "1", ...) and its bad lines."""

    parts: dict[str, Part]
    bad: BadLines = field(default_factory=BadLines)


@dataclass(frozen=True)
class Split:
    """How documents are dealt out: a share to the validation set, the rest evenly to `shards` training sets."""

    valid_fraction: float
    shards: int

    def name(self, document: list[str]) -> str:
        """The set of a document, a function of its first 4,096 characters alone."""
        digest = hashlib.blake2b(digest_size=16)
        room = HASHED_CHARACTERS
        for line in document:
            digest.update(line[:room].encode("utf-8", "surrogatepass") + b"\n")
            room -= len(line)
            if room <= 0:
                break
        first, second = np.frombuffer(digest.digest(), np.uint64).tolist()
        return VALID if first < self.valid_fraction * 2.0**64 else str(second % self.shards)


def encode_unit(unit: Unit, tokenizer: Tokenizer, split: Split) -> EncodedUnit:
    """Tokenize a unit: one item per line ending in `</s>`, and after each document an item of `</s>` alone."""
    bad = BadLines()
    lines: dict[str, list[str]] = {}
    counts: dict[str, Counts] = {}
    for document in documents(unit, bad):
        name = split.name(document)
        lines.setdefault(name, []).extend(document)
        lines[name].append("")
        counts.setdefault(name, Counts()).documents += 1
    parts = {name: _encode_lines(lines[name], tokenizer, counts[name]) for name in sorted(lines)}
    return EncodedUnit(parts, bad)


def _encode_lines(lines: list[str], tokenizer: Tokenizer, counts: Counts) -> Part:
    characters = np.fromiter(map(len, lines), np.int64, len(lines))
    ids, sizes = tokenizer.encode_flat(lines)
    # Lines that have no tokens, unlike the empty separators, are dropped.
    sizes = sizes[(sizes > 0) | (characters == 0)]
    tokens = _with_ends(ids, sizes, tokenizer.eos_id).astype(token_dtype(len(tokenizer)))
    counts.items, counts.tokens = len(sizes), len(tokens)
    counts.unknown = int((tokens == tokenizer.unk_id).sum())
    counts.characters = int(characters.sum())
    return Part(tokens, (sizes + 1).astype(np.int32), counts)


def _with_ends(ids: NDArray[np.int32], sizes: NDArray[np.int64], eos_id: int) -> NDArray[np.int32]:
    """Put `</s>` after each item."""
    ends = np.cumsum(sizes + 1) - 1
    tokens = np.empty(len(ids) + len(sizes), np.int32)
    inner = np.ones(len(tokens), np.bool_)
    inner[ends] = False
    tokens[ends] = eos_id
    tokens[inner] = ids
    return tokens


def save_unit(encoded: EncodedUnit, path: Path, plan: str) -> None:
    """Write an encoded unit as one file, atomically. plan: digest of the settings it was made with."""
    head = {
        "plan": plan,
        "parts": {name: vars(part.counts) for name, part in encoded.parts.items()},
        "bad": encoded.bad.counts,
        "examples": encoded.bad.examples,
    }
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, np.frombuffer(json.dumps(head).encode(), np.uint8))
        for part in encoded.parts.values():
            np.save(stream, part.tokens)
            np.save(stream, part.sizes)


def load_unit(path: Path, plan: str) -> EncodedUnit:
    """Read a unit that `save_unit` wrote. Raises `UserError` where it was made with other settings."""
    with open(path, "rb") as stream:
        head = json.load(io.BytesIO(np.load(stream).tobytes()))
        if head["plan"] != plan:
            raise UserError(f"{path}: made with other settings, by another run; remove {path.parent} and start again")
        parts = {}
        for name, counts in head["parts"].items():
            tokens = np.load(stream)
            parts[name] = Part(tokens, np.load(stream), Counts(**counts))
    bad = BadLines()
    bad.merge(head["bad"], head["examples"])
    return EncodedUnit(parts, bad)
