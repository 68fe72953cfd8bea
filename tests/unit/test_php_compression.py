"""Payloads as phpredis compresses them: what it wrote, and what is no compression at all."""

from __future__ import annotations

import contextlib

import pytest

from redis_sessions.php.compression import Compression, compressor, decompressor
from redis_sessions.php.data import PhpFormatError

STORED: dict[Compression, str] = {
    "lzf": "0b636172747c613a303a7b7d63e0200a017b7d",
    "zstd": "28b52ffd20378d000058636172747c613a303a7b7d0100d92c5e",
    "lz4": "0d37000000bf636172747c613a303a7b7d0b0014503a303a7b7d",
}


@pytest.mark.parametrize("kind", STORED)
def test_compression(kind: Compression) -> None:
    """What phpredis compressed is read; what it left as it was, too; and what is written."""
    payload = b"cart|a:0:{}" * 5
    decompress, compress = decompressor(kind), compressor(kind)

    assert decompress(bytes.fromhex(STORED[kind]), 1000) == payload
    assert decompress(payload, 1000) == payload
    for raw in (payload, b"", b"x", bytes(range(256)) * 40):
        assert decompress(compress(raw), 20_000) == raw
    with pytest.raises(PhpFormatError, match="after decompression"):
        decompress(bytes.fromhex(STORED[kind]), len(payload) - 1)


@pytest.mark.parametrize("kind", STORED)
def test_broken_compression(kind: Compression) -> None:
    """A frame that is cut gives an error, or what phpredis gives: the bytes as they are."""
    stored = bytes.fromhex(STORED[kind])
    decompress = decompressor(kind)

    for length in range(1, len(stored)):
        with contextlib.suppress(PhpFormatError):
            assert decompress(stored[:length], 1000) != b"cart|a:0:{}" * 5


def test_what_phpredis_takes_for_uncompressed() -> None:
    """LZF that is cut, and a header of lz4 with nothing behind it; but not an altered length."""
    assert decompressor("lzf")(b"\x05abc", 100) == b"\x05abc"
    assert decompressor("lzf")(b"\0a\x20\x05", 100) == b"\0a\x20\x05"
    lz4, block = decompressor("lz4"), bytes.fromhex(STORED["lz4"])
    none, more = bytes.fromhex("d700000000"), bytes.fromhex("8338000000")
    assert lz4(none + b"x", 100) == none + b"x"
    with pytest.raises(PhpFormatError, match="another length"):
        lz4(more + block[5:], 100)
