"""Token files: fairseq's memory-mapped `.bin/.idx` pairs, written and read with numpy alone.

Layout (fairseq `MMapIndexedDataset`, version 1, little endian). PREFIX.bin holds the tokens of all items
back to back. PREFIX.idx holds: magic `MMIDIDX\\0\\0` (9 bytes), version (uint64), type code (uint8), number
of items (uint64), the size of each item in tokens (int32), the offset of each item in bytes (int64).
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, DTypeLike, NDArray

from metro_t0.errors import UserError
from metro_t0.files import atomic_path

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQ")
TYPE_CODES: dict[int, np.dtype] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.int8),
    3: np.dtype(np.int16),
    4: np.dtype(np.int32),
    5: np.dtype(np.int64),
    8: np.dtype(np.uint16),
    9: np.dtype(np.uint32),
    10: np.dtype(np.uint64),
}
# fairseq's own bound for uint16; the margin leaves room for the symbols that a task adds.
UINT16_VOCABULARY_LIMIT = 65_500
SIZES_PER_BLOCK = 1 << 20
CHECKED_AT_ONCE = 1 << 15  # their arrays fit into a cache
SAMPLES = 256
SAMPLE_TOKENS = 1 << 16


def bin_path(prefix: str | os.PathLike[str]) -> Path:
    """The file of the tokens."""
    return Path(f"{os.fspath(prefix)}.bin")


def idx_path(prefix: str | os.PathLike[str]) -> Path:
    """The file of the index."""
    return Path(f"{os.fspath(prefix)}.idx")


def token_dtype(vocabulary_size: int) -> np.dtype:
    """The narrowest type for ids below `vocabulary_size`: uint16 below 65,500, otherwise int32."""
    return np.dtype(np.uint16) if vocabulary_size < UINT16_VOCABULARY_LIMIT else np.dtype(np.int32)


class TokenFileWriter:
    """Write PREFIX.bin and PREFIX.idx in constant memory; both appear, whole, when the context ends well.

    >>> with TokenFileWriter("train", dtype=np.uint16) as writer:
    ...     writer.add([17, 4, 2])
    """

    def __init__(self, prefix: str | os.PathLike[str], dtype: DTypeLike = np.uint16) -> None:
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype)
        self._type_code = next((code for code, known in TYPE_CODES.items() if known == self.dtype), None)
        if self._type_code is None:
            raise ValueError(f"token files cannot hold {self.dtype}")
        self._limits = np.iinfo(self.dtype)
        self._items = 0
        self._stack = ExitStack()

    def __enter__(self) -> TokenFileWriter:
        # The names are entered in this order so that the .idx, which readers look for, appears last.
        self._idx_name = self._stack.enter_context(atomic_path(idx_path(self.prefix)))
        self._bin = self._open(self._stack.enter_context(atomic_path(bin_path(self.prefix))))
        # The sizes stand before the offsets in the index, so they wait on disk until all are known.
        self._sizes = cast(BinaryIO, self._stack.enter_context(tempfile.TemporaryFile(dir=self.prefix.parent)))
        return self

    def _open(self, path: Path) -> BinaryIO:
        return self._stack.enter_context(open(path, "wb", buffering=1 << 20))

    def add(self, ids: ArrayLike) -> None:
        """Append one item. ids: (length,) integers, maybe none. Raises OverflowError outside the type."""
        tokens = np.asarray(ids)
        self.add_items(tokens, [tokens.size])

    def add_items(self, tokens: ArrayLike, sizes: ArrayLike) -> None:
        """Append many items at once. tokens: (sum of sizes,) integers; sizes: (items,) tokens per item."""
        flat, lengths = np.asarray(tokens), np.asarray(sizes, dtype=np.int32)
        if flat.ndim != 1 or int(lengths.sum(dtype=np.int64)) != flat.size:
            raise ValueError(f"{flat.shape} tokens do not match sizes that sum to {lengths.sum(dtype=np.int64)}")
        if flat.size and flat.dtype != self.dtype:
            if flat.dtype.kind not in "iu":
                raise TypeError(f"token ids must be integers, not {flat.dtype}")
            if flat.min() < self._limits.min or flat.max() > self._limits.max:
                raise OverflowError(f"ids {flat.min()}..{flat.max()} do not fit {self.dtype}")
        self._bin.write(np.ascontiguousarray(flat, dtype=self.dtype).data)
        self._sizes.write(lengths.data)
        self._items += lengths.size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is not None:
                self._stack.__exit__(kind, error, trace)
                return
            self._write_index()

    def _write_index(self) -> None:
        with open(self._idx_name, "wb", buffering=1 << 20) as index:
            index.write(HEADER.pack(MAGIC, VERSION, cast(int, self._type_code), self._items))
            self._sizes.seek(0)
            shutil.copyfileobj(self._sizes, index, 1 << 20)
            self._sizes.seek(0)
            offset = 0
            while block := self._sizes.read(4 * SIZES_PER_BLOCK):
                nbytes = np.frombuffer(block, dtype=np.int32).astype(np.int64) * self.dtype.itemsize
                ends = offset + np.cumsum(nbytes)
                index.write((ends - nbytes).data)
                offset = int(ends[-1])


@dataclass(frozen=True)
class IdLimit:
    """The vocabulary that ids must belong to: `size` ids, which `dict_path` lists."""

    size: int
    dict_path: Path

    def check(self, ids: NDArray[np.integer], origin: Path) -> None:
        """ids (...): at least one. Raises `UserError` where one is not below the limit."""
        if (largest := int(ids.max())) >= self.size:
            raise UserError(
                f"{origin}: holds the id {largest}, but {self.dict_path} has {self.size} ids; they do not belong "
                "together: restore the dict.txt it was made with, or make it again"
            )


class TokenFile(Sequence[NDArray[np.integer]]):
    """Read a `.bin/.idx` pair. Items are read-only views of the memory map; nothing is copied, no file stays open.

    sizes: (items,) int32, tokens per item. Raises `UserError` where a file is missing, is of another format or does
    not fit its index, all of which is checked: 0.3 s of a processor for the 80 million lines of a 10 GB shard. Ids are
    held against `limit` when they are read; when the file is opened, those of a file of up to 16 million tokens all, of
    a larger one 256 stretches of 65,536.
    """

    def __init__(self, prefix: str | os.PathLike[str], limit: IdLimit | None = None, *, check: bool = True) -> None:
        """check: False where this process, or the one it came from, has opened the pair before."""
        self.prefix = Path(prefix)
        self.limit = limit
        index = _map_file(idx_path(self.prefix))
        if len(index) < HEADER.size or index[: len(MAGIC)] != MAGIC:
            raise UserError(f"{idx_path(prefix)}: not a fairseq mmap index; make it with metro-t0-data binarize")
        _, version, code, items = HEADER.unpack_from(index)
        if version != VERSION or code not in TYPE_CODES:
            raise UserError(f"{idx_path(prefix)}: unknown version {version} or type code {code}")
        if len(index) != HEADER.size + 12 * items:
            needed = f"{HEADER.size + 12 * items} bytes are needed for {items} items"
            raise UserError(f"{idx_path(prefix)}: truncated or damaged ({len(index)} bytes, {needed}); write it again")
        self.dtype = TYPE_CODES[code]
        self.sizes: NDArray[np.int32] = np.frombuffer(index, np.int32, items, HEADER.size)
        self._offsets = np.frombuffer(index, np.int64, items, HEADER.size + 4 * items)
        data = _map_file(bin_path(self.prefix))
        if check:
            self._check_index(len(data))
        self.tokens: NDArray[np.integer] = np.frombuffer(data, self.dtype, len(data) // self.dtype.itemsize)
        if check and limit:
            self._check_ids()

    def _check_index(self, data_bytes: int) -> None:
        """The offsets must be the running sums of the sizes, and the last item must end where the tokens end."""
        offset = 0
        for start in range(0, len(self), CHECKED_AT_ONCE):
            sizes = self.sizes[start : start + CHECKED_AT_ONCE]
            begins = self._offsets[start : start + CHECKED_AT_ONCE]
            ends = np.cumsum(sizes, dtype=np.int64) * self.dtype.itemsize + offset
            if sizes.min() < 0 or begins[0] != offset or not np.array_equal(begins[1:], ends[:-1]):
                raise UserError(
                    f"{idx_path(self.prefix)}: damaged, sizes and places of its items contradict each other (among "
                    f"items {start + 1} to {start + len(sizes)}); write it again"
                )
            offset = int(ends[-1])
        if data_bytes != offset:
            raise UserError(
                f"{bin_path(self.prefix)}: has {data_bytes} bytes, its index says {offset}; write both again"
            )

    def _check_ids(self) -> None:
        last = len(self.tokens) - SAMPLE_TOKENS
        step = SAMPLE_TOKENS if last <= SAMPLES * SAMPLE_TOKENS else last // (SAMPLES - 1)
        for start in range(0, len(self.tokens), step):
            self.read(start, min(start + SAMPLE_TOKENS, len(self.tokens)))

    def read(self, begin: int, end: int) -> NDArray[np.integer]:
        """The tokens begin .. end - 1 of the file: a view, (end - begin,). Raises `UserError` for an id too large."""
        tokens = self.tokens[begin:end]
        if self.limit and len(tokens):
            self.limit.check(tokens, bin_path(self.prefix))
        return tokens

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> NDArray[np.integer]:  # type: ignore[override]
        start = int(self._offsets[index]) // self.dtype.itemsize
        return self.read(start, start + int(self.sizes[index]))

    def __reduce__(self) -> tuple[Callable[..., TokenFile], tuple[Path, IdLimit | None]]:
        return partial(TokenFile, check=False), (self.prefix, self.limit)


def _map_file(path: Path) -> memoryview:
    """The bytes of a file, mapped. Python's and numpy's maps keep a descriptor each, of which a process has 1,024."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; metro-t0-data binarize makes it")
    if not path.stat().st_size:
        return memoryview(b"")  # an empty file cannot be mapped
    with pa.memory_map(str(path)) as mapped:
        return memoryview(mapped.read_buffer())
