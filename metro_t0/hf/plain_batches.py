"""Large batches of plain texts for `transformers`: ids from the word table, cut, framed and padded in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import BatchEncoding
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy

# Smaller batches take less time in Rust than the checks before the other way.
MIN_CHARACTERS = 1 << 11
TENSORS = (None, "np", "pt")

Ids = NDArray[np.int32]
Sizes = NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """The options of a call, by their names and defaults in `transformers`."""

    add_special_tokens: bool = True
    padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD
    truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE
    max_length: int | None = None
    stride: int = 0
    is_split_into_words: bool = False
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False
    verbose: bool = True
    split_special_tokens: bool | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> Options | None:
        """The options, or None where there are others among them."""
        return cls(**options) if options.keys() <= {field.name for field in fields(cls)} else None

    @property
    def room(self) -> int | None:
        """How many ids of a text are kept; None for all."""
        if self.truncation_strategy == TruncationStrategy.DO_NOT_TRUNCATE or self.max_length is None:
            return None
        return self.max_length - 2 * self.add_special_tokens

    @property
    def plain(self) -> bool:
        """Whether they ask for ids and mask alone, in a way that cannot be wrong."""
        more = (self.is_split_into_words, self.return_token_type_ids, self.return_overflowing_tokens,
                self.return_special_tokens_mask, self.return_offsets_mapping, self.return_length)  # fmt: skip
        return (
            not any(more)
            and not self.stride
            and self.return_tensors in TENSORS
            and self.truncation_strategy != TruncationStrategy.ONLY_SECOND
            and (self.room is None or self.room > 0)
        )

    def row_length(self, sizes: Sizes) -> int | None:
        """The one length of all rows, of (texts,) sizes; None where rows keep their own, `ValueError` in a tensor."""
        if self.padding_strategy == PaddingStrategy.DO_NOT_PAD:
            if self.return_tensors is None:
                return None
            if sizes.min() < sizes.max():
                raise ValueError("texts of different lengths make no tensor")
            return int(sizes.max())
        length = int(sizes.max())
        if self.padding_strategy == PaddingStrategy.MAX_LENGTH and self.max_length is not None:
            if length > self.max_length:
                raise ValueError("texts are longer than the length to pad to")
            length = self.max_length
        return -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of if self.pad_to_multiple_of else length


class PlainBatch(BatchEncoding):
    """Ids and mask of plain texts; Rust's encodings (tokens, offsets, words) are made when they are asked for."""

    def __init__(self, data: dict[str, Any], in_rust: Callable[[], BatchEncoding]) -> None:
        self._in_rust = in_rust
        self._made: list[Encoding] | None = None
        super().__init__(data, n_sequences=1)

    @property
    def is_fast(self) -> bool:
        """As of every Rust tokenizer."""
        return True

    @property
    def _encodings(self) -> list[Encoding] | None:
        if self._made is None:
            self._made = self._in_rust().encodings
        return self._made

    @_encodings.setter
    def _encodings(self, made: list[Encoding] | None) -> None:
        self._made = made

    def __reduce__(self) -> tuple[type[BatchEncoding], tuple[dict[str, Any], list[Encoding] | None]]:
        return BatchEncoding, (self.data, self._encodings)


def is_large_batch(text: Any) -> bool:
    """Whether this is a list of texts for which the word table pays."""
    return isinstance(text, list | tuple) and set(map(type, text)) == {str} and sum(map(len, text)) >= MIN_CHARACTERS


def truncate(ids: Ids, sizes: Sizes, room: int, left: bool) -> tuple[Ids, Sizes]:
    """At most `room` ids of each text, the first ones; `left`: the last ones. ids (N,) flat, sizes (texts,)."""
    kept = np.minimum(sizes, room)
    ends = np.cumsum(sizes)
    first = ends - kept if left else ends - sizes
    places = np.arange(kept.sum()) + np.repeat(first - (np.cumsum(kept) - kept), kept)
    return ids[places], kept


def frame(ids: Ids, sizes: Sizes, first: int, last: int) -> tuple[Ids, Sizes]:
    """One id before and one after the ids of each text. ids (N,) flat -> (N + 2 texts,), sizes (texts,)."""
    sizes = sizes + 2
    ends = np.cumsum(sizes)
    framed = np.empty(len(ids) + 2 * len(sizes), ids.dtype)
    inner = np.ones(len(framed), np.bool_)
    for places, index in ((ends - sizes, first), (ends - 1, last)):
        framed[places] = index
        inner[places] = False
    framed[inner] = ids
    return framed, sizes


def as_lists(ids: Ids, sizes: Sizes) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and attention mask of each text, of ids (N,) flat and sizes (texts,)."""
    flat, ends = ids.tolist(), np.cumsum(sizes).tolist()
    return [flat[start:end] for start, end in pairwise([0, *ends])], [[1] * size for size in sizes.tolist()]


def as_table(ids: Ids, sizes: Sizes, length: int, pad_id: int, left: bool, tensors: str | None) -> tuple[Any, Any]:
    """Padded ids and attention mask, both (texts, length): int64 tensors of that kind, or lists."""
    places = np.arange(length)
    used = places >= length - sizes[:, None] if left else places < sizes[:, None]
    rows = np.full(used.shape, pad_id, np.int64)
    rows[used] = ids
    mask = used.astype(np.int64)
    if tensors is None:
        return rows.tolist(), mask.tolist()
    return (torch.from_numpy(rows), torch.from_numpy(mask)) if tensors == "pt" else (rows, mask)
