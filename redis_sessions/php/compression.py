"""How phpredis compresses sessions (`redis.session.compression`), as its version 6.2 does.

- lzf: the bytes of LibLZF, without a header.
- zstd: one frame, which says how long its content is.
- lz4: a checksum of the length (CRC-8), the length in 4 bytes, little-endian, and an LZ4 block.

phpredis stores a payload as it is where it couldn't compress it. It reads as it is what isn't
compressed, and so do the functions here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Literal

from redis_sessions.php.data import PhpFormatError

__all__ = ["Compression", "compressor", "decompressor"]

Compression = Literal["lzf", "zstd", "lz4"]

_LENGTH: Final = 4
_HEADER: Final = 1 + _LENGTH

_LITERALS: Final = 32
"""The most bytes that a run of LZF holds as they are."""


def decompressor(kind: Compression) -> Callable[[bytes, int], bytes]:
    """A function of the stored bytes, and of the most bytes that it may return.

    It raises `PhpFormatError` for more bytes than that. ImportError if the library of this
    compression isn't installed (`pip install 'redis-sessions[php]'`).
    """
    if kind == "lzf":
        return _from_lzf
    return _zstd(import_module("zstandard")) if kind == "zstd" else _lz4(import_module("lz4.block"))


def compressor(kind: Compression) -> Callable[[bytes], bytes]:
    """A function that makes of a payload what phpredis decompresses. ImportError as above.

    With lzf its result is a byte in 32 longer than the payload: it finds no repetitions.
    """
    if kind == "lzf":
        return _to_lzf
    if kind == "zstd":
        compress: Callable[[bytes], bytes] = import_module("zstandard").ZstdCompressor().compress
        return compress
    block: Any = import_module("lz4.block")
    return lambda raw: _header(len(raw)) + block.compress(raw, store_size=False) if raw else raw


def _zstd(zstandard: Any) -> Callable[[bytes, int], bytes]:
    def decompress(raw: bytes, max_size: int) -> bytes:
        try:
            size = zstandard.frame_content_size(raw)
        except zstandard.ZstdError:
            return raw  # no frame
        if size < 0:
            return raw
        _check(size, max_size)
        try:
            content: bytes = zstandard.ZstdDecompressor().decompress(raw, max_output_size=size)
        except zstandard.ZstdError as exc:
            raise PhpFormatError("a broken frame of zstd") from exc
        return content

    return decompress


def _lz4(block: Any) -> Callable[[bytes, int], bytes]:
    def decompress(raw: bytes, max_size: int) -> bytes:
        size = int.from_bytes(raw[1:_HEADER], "little")
        if not size or len(raw) <= _HEADER or raw[:_HEADER] != _header(size):
            return raw
        _check(size, max_size)
        try:
            content: bytes = block.decompress(raw[_HEADER:], uncompressed_size=size)
        except (block.LZ4BlockError, ValueError) as exc:
            raise PhpFormatError("a broken block of lz4") from exc
        if len(content) != size:
            raise PhpFormatError("a block of lz4 of another length")
        return content

    return decompress


def _header(size: int) -> bytes:
    length = (size & 0xFFFFFFFF).to_bytes(_LENGTH, "little")
    return bytes([_crc8(length)]) + length


def _crc8(raw: bytes) -> int:
    """The checksum with the polynomial 0x31, from 0xFF."""
    crc = 0xFF
    for byte in raw:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x31 if crc & 0x80 else crc << 1) & 0xFF
    return crc


def _from_lzf(raw: bytes, max_size: int) -> bytes:
    """LZF: runs of bytes as they are, and of bytes that came before.

    What isn't LZF is returned as it is, as phpredis does.
    """
    out, at = bytearray(), 0
    while at < len(raw):
        control = raw[at]
        at += 1
        if control < _LITERALS:
            run: bytes | bytearray = raw[at : at + control + 1]
            at += control + 1
            if len(run) <= control:
                return raw
        else:
            length = (control >> 5) + 2
            if length == 9:
                length += int.from_bytes(raw[at : at + 1], "big")
                at += 1
            if at >= len(raw):
                return raw
            start = len(out) - ((control & 0x1F) << 8 | raw[at]) - 1
            at += 1
            if start < 0:
                return raw
            run = out[start : start + length]
            if len(run) < length:  # it goes on in what it writes: the same again and again
                run = (run * (length // len(run) + 1))[:length]
        out += run
        _check(len(out), max_size)
    return bytes(out)


def _to_lzf(raw: bytes) -> bytes:
    runs = (raw[at : at + _LITERALS] for at in range(0, len(raw), _LITERALS))
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def _check(size: int, max_size: int) -> None:
    if size > max_size:
        raise PhpFormatError(f"{size} bytes after decompression, over max_size={max_size}")
