"""Blocks of tokens straight from a memory-mapped token file.

fairseq's rules decide where blocks begin and end (`TokenBlockDataset`), with one difference: its `complete` and
`complete_doc` keep lines whole, so a line longer than `tokens_per_sample` makes a block of its own that no longer fits,
and fairseq skips it (or stops). Paragraph-per-line text would lose a fifth of its tokens; here such blocks are cut into
equal parts.

All blocks are contiguous in the file, so 10 bytes each are all that is kept of them, and the index of the file (the
sizes of its lines) is read a part at a time. fairseq's own classes keep 42 bytes per block, copy the sizes of all lines
to int64, and read the whole .bin before the first batch.
"""

from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path

import numpy as np
import torch
from fairseq.data.token_block_utils_fast import _get_slice_indices_fast
from numpy.typing import NDArray

from metro_t0.data.token_files import IdLimit, TokenFile, idx_path
from metro_t0.errors import UserError

LINES_PER_CHUNK = 1 << 20
DOCUMENT_SEPARATOR = 1
"""Tokens of the empty line between documents: its end token."""


def token_files(prefix: Path, combine: bool, limit: IdLimit | None = None) -> list[TokenFile]:
    """The token file PREFIX and, if `combine`, those after it: PREFIX1, PREFIX2, ... (fairseq's names for parts).

    Raises `UserError` where there is none or one is damaged.
    """
    find_tokens(prefix)
    names = (Path(f"{prefix}{number or ''}") for number in (count() if combine else range(1)))
    return [TokenFile(name, limit) for name in takewhile(lambda name: idx_path(name).is_file(), names)]


def find_tokens(prefix: Path) -> None:
    """Raise `UserError` where there is no token file PREFIX."""
    if not idx_path(prefix).is_file():
        raise UserError(f"{prefix}.bin/.idx: no such files; make them with metro-t0-data binarize")


class TokenBlocks(torch.utils.data.Dataset[torch.Tensor]):
    """Blocks of up to `longest` tokens of one token file, each with `first_token` before it.

    break_mode: none, complete, complete_doc or eos, as in fairseq.
    """

    def __init__(self, file: TokenFile, longest: int, break_mode: str, first_token: int) -> None:
        self.file = file
        self.first_token = first_token
        chunks = [split_long(*bounds, longest) for bounds in block_bounds(file.sizes, longest, break_mode)]
        self.begins = np.concatenate([begins for begins, _ in chunks]) if chunks else np.zeros(0, np.int64)
        narrow = np.uint16 if longest < np.iinfo(np.uint16).max else np.int32
        self._sizes = np.concatenate([(ends - begins + 1).astype(narrow) for begins, ends in chunks] or [np.zeros(0)])

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, index: int) -> torch.Tensor:
        """(size,) int64."""
        block = np.empty(self._sizes[index], dtype=np.int64)
        begin = self.begins[index]
        block[0] = self.first_token
        block[1:] = self.file.read(begin, begin + len(block) - 1)
        return torch.from_numpy(block)

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of every block, the first token included; uint16 where that is wide enough."""
        return self._sizes


Bounds = tuple[NDArray[np.int64], NDArray[np.int64]]


def block_bounds(
    sizes: NDArray[np.integer], longest: int, break_mode: str, chunk: int = LINES_PER_CHUNK
) -> Iterator[Bounds]:
    """(begins, ends) of fairseq's blocks, in tokens from the start of the file, some `chunk` lines of it at a time.

    sizes: (lines,) tokens per line. Whether a block goes on is decided from its own lines alone, so the last block of
    a chunk, which may be unfinished, is made anew at the beginning of the next.
    """
    if break_mode == "none":
        total = int(sizes.sum(dtype=np.int64))
        begins = np.arange(0, total, longest, dtype=np.int64)
        yield begins, np.minimum(begins + longest, total)
        return
    line = token = 0
    width = chunk
    while line < len(sizes):
        lines = sizes[line : line + width].astype(np.int64)
        blocks = _fairseq_blocks(lines, longest, break_mode)
        taken, done = len(lines), len(blocks)
        if line + taken < len(sizes) and done:
            done -= 1
            taken = int(np.searchsorted(np.cumsum(lines), blocks[-1, 0], side="right"))
        width = chunk if taken else 2 * width  # a block of more lines than a chunk
        yield token + blocks[:done, 0], token + blocks[:done, 1]
        line += taken
        token += int(lines[:taken].sum())


def _fairseq_blocks(lines: NDArray[np.int64], longest: int, break_mode: str) -> NDArray[np.int64]:
    """(blocks, 2) begins and ends. fairseq's own function cannot say that there are none."""
    if lines.max() <= (DOCUMENT_SEPARATOR if break_mode == "complete_doc" else 0):
        return np.zeros((0, 2), np.int64)
    bounds: np.ndarray = _get_slice_indices_fast(lines, break_mode, longest, DOCUMENT_SEPARATOR)
    return bounds


def split_long(begins: NDArray[np.int64], ends: NDArray[np.int64], longest: int) -> Bounds:
    """The blocks, those over `longest` tokens cut into equal parts that fit."""
    sizes = ends - begins
    parts = -(-sizes // longest)
    if not len(parts) or (parts.max() == 1 and parts.min() == 1):
        return begins, ends
    part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begins, sizes, parts = (np.repeat(values, parts) for values in (begins, sizes, parts))
    return begins + part * sizes // parts, begins + (part + 1) * sizes // parts
