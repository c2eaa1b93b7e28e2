"""The one place that opens files of text: plain or compressed, checked while they are read.

The rules, the same for corpora, task files, pairs and passages: text is UTF-8, a byte order mark at its beginning is
left out, UTF-16 and UTF-32 are refused. A compressed file that is truncated or damaged, or whose name does not say how
it is packed, is refused. NUL bytes are no text. Half a surrogate pair, which JSON can write, becomes U+FFFD.
"""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Protocol, cast

from metro_t0.errors import UserError

COMPRESSIONS = (".gz", ".zst")
PACKED_CHUNK = 1 << 16  # bounds what is unpacked at once, too
BUFFER = 1 << 20
GZIP_WINDOW = 16 + zlib.MAX_WBITS
PACKED_BEGINNINGS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
WIDE_BEGINNINGS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
NUL = "\0"
SURROGATES = re.compile("[\ud800-\udfff]")


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, /) -> bytes: ...


class _Unpacked(io.RawIOBase):
    """A stream of unpacked chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


@contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressing by its suffix (`.gz`, `.zst`, otherwise plain).

    Raises `UserError`, here or while it is read, where it is missing, damaged, truncated or packed otherwise.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise UserError(f"{name}: no such file")
    with open(name, "rb") as raw:
        if name.endswith(".gz"):
            chunks = _unpack(raw, lambda: zlib.decompressobj(GZIP_WINDOW), zlib.error, name)
        elif name.endswith(".zst"):
            import zstandard  # here alone: every command imports this module

            chunks = _unpack(raw, zstandard.ZstdDecompressor().decompressobj, zstandard.ZstdError, name)
        else:
            _check_unpacked(raw, f"{name}: is packed", "unpack it, or let its name end in .gz or .zst")
            yield raw
            return
        unpacked = io.BufferedReader(_Unpacked(chunks), BUFFER)
        _check_unpacked(unpacked, f"{name}: is packed twice", "unpack it once")
        yield cast(BinaryIO, unpacked)


def _check_unpacked(stream: io.BufferedReader[Any], problem: str, remedy: str) -> None:
    beginning = stream.peek(8)
    for magic, packing in PACKED_BEGINNINGS.items():
        if beginning.startswith(magic):
            raise UserError(f"{problem} ({packing}); {remedy}")


def _unpack(raw: BinaryIO, new: Callable[[], Any], damage: type[Exception], name: str) -> Iterator[bytes]:
    """The content of all members (gzip) or frames (zstd) of a file, one after the other; `damage` tells of one."""
    member: _Decompressor | None = None
    data = b""
    try:
        while data := data or raw.read(PACKED_CHUNK):
            if member is None:
                data = data.lstrip(b"\0")  # padding after a member
                if not data:
                    continue
                member = cast(_Decompressor, new())
            yield member.decompress(data)
            data = b""
            if member.eof:
                data, member = member.unused_data, None
    except damage as error:
        raise UserError(f"{name}: cannot be decompressed ({error}); fetch or pack the file again") from None
    if member is not None:
        raise UserError(f"{name}: ends too early, it was not copied whole; fetch or pack the file again")


@contextmanager
def open_text(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file of UTF-8 text for reading its bytes, without a byte order mark.

    Raises `UserError` as `open_bytes`, and for UTF-16 and UTF-32.
    """
    with open_bytes(path) as stream:
        beginning = cast(io.BufferedReader, stream).peek(4)[:4]
        for mark, encoding in WIDE_BEGINNINGS.items():
            if beginning.startswith(mark):
                raise UserError(f"{path}: is {encoding}, not UTF-8; convert it: iconv -f {encoding} -t UTF-8")
        if beginning.startswith(BYTE_ORDER_MARK):
            stream.read(len(BYTE_ORDER_MARK))
        yield stream


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """(`FILE:LINE`, text) of every line that is not blank, without its line end.

    For files that are meant whole: raises `UserError` at a line that is not text.
    """
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            place = f"{os.fspath(path)}:{number}"
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{place}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
            if NUL in text:
                raise UserError(f"{place}: holds a NUL byte; is it text?")
            if text and not text.isspace():
                yield place, text


def parse_json(text: str | bytes) -> Any:
    """One JSON value whose strings are whole text. Raises ValueError where it is not JSON, or a string holds a NUL."""
    if isinstance(text, bytes):
        text = text.decode("utf-8")  # json itself would guess at the encoding
    try:
        value = json.loads(text)
        return _whole(value) if "\\u" in text else value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        if NUL in value:
            raise ValueError("a string holds a NUL")
        return SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(each) for key, each in value.items()}
    return value
