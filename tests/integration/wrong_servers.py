"""Servers that aren't Redis, or lie: what they answer to each command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Final

Answer = Callable[[bytes], bytes | Awaitable[bytes]]
"""From a command's name, in capitals, to what is sent back. An `OSError` closes the connection."""

HTTP: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

PROTOCOLS: Final[dict[str, bytes]] = {
    "http": HTTP,
    "smtp": b"220 mail.example.org ESMTP\r\n",
    "tls": bytes([21, 3, 1, 0, 2, 2, 70]),
    "noise": bytes(range(128, 256)) * 4,
    "size": b"$99999999999999999999\r\n",
    "newline": b"\r\n\r\n",
}
"""What isn't Redis' protocol, by what speaks it."""

TYPES: Final[dict[str, bytes]] = {
    "ok": b"+OK\r\n",
    "zero": b":0\r\n",
    "int": b":77\r\n",
    "nothing": b"$-1\r\n",
    "no array": b"*-1\r\n",
    "empty": b"*0\r\n",
    "one int": b"*1\r\n:77\r\n",
    "one array": b"*1\r\n*1\r\n$1\r\nx\r\n",
    "pair": b"*2\r\n$1\r\nx\r\n$1\r\nx\r\n",
    "three": b"*3\r\n:0\r\n*0\r\n*1\r\n:1\r\n",
    "many": b"*200\r\n" + b":1\r\n" * 200,
    "bytes": b"$4\r\n\x00\xff\xfe\xfd\r\n",
    "error": b"-what? this is no Redis\r\n",
}
"""Well-formed replies, which are wrong for most commands."""

_POLITE: Final = frozenset({"CLIENT", "AUTH", "SELECT", "SCRIPT", "PING", "READONLY", "ASKING"})


def always(reply: bytes) -> Answer:
    """The same reply to everything."""
    return lambda _: reply


def after_greeting(reply: bytes) -> Answer:
    """What connecting needs; then this reply to everything."""
    return lambda name: b"+OK\r\n" if name.decode("latin-1") in _POLITE else reply


@asynccontextmanager
async def listening(answer: Answer) -> AsyncGenerator[int, None]:
    """The port of such a server."""
    writers = set[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            while (name := await _command(reader)) is not None:
                reply = answer(name)
                writer.write(await reply if isawaitable(reply) else reply)
                await writer.drain()
        except OSError:
            pass  # the client has left, or is left
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def _command(reader: asyncio.StreamReader) -> bytes | None:
    """The next command's name; None at the end."""
    try:
        count = int((await reader.readuntil(b"\r\n"))[1:])
        words: list[bytes] = []
        for _ in range(count):
            size = int((await reader.readuntil(b"\r\n"))[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
    except (asyncio.IncompleteReadError, ValueError):
        return None
    return words[0].upper()
