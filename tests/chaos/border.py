"""A border before one server: a proxy that can part it from some of those who talk to it.

Connections are told apart by what they say first: those whose client name is `inside` are on the
server's side, a replica says REPLCONF, and everybody else is outside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

from redis_sessions.testing.topologies.processes import HOST
from tests.support.servers import free_port

__all__ = ["INSIDE", "Border"]

INSIDE: Final = "inside"
"""The client name of whoever stays with the server: `?client_name=inside` in a URL."""

_FIRST: Final = 512  # bytes in which a connection says who it is


class _Link:
    """One connection, and who is at its other end."""

    def __init__(self) -> None:
        self._said = b""
        self.inside = False
        self.follows = False

    def hear(self, data: bytes) -> None:
        if len(self._said) < _FIRST:
            self._said += data
            self.inside = INSIDE.encode() in self._said
            self.follows = b"REPLCONF" in self._said


class Border:
    """Forwards `port` to `target`, both of this machine, in the running loop."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.lag = 0.0
        """Seconds by which what replicas receive is late; it is lost if the server dies."""
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    def isolate(self) -> None:
        """Forward nothing to or from the outside, as a network that is parted does."""
        self._open.clear()

    def heal(self) -> None:
        """Forward again; what was held back arrives."""
        self._open.set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, HOST, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link, writers = _Link(), [writer]
        try:
            there, there_writer = await asyncio.open_connection(HOST, self._target)
            writers.append(there_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, there_writer, link, link.hear))
                group.create_task(self._forward(there, writer, link))
        except* OSError:
            pass  # either side ended: so does the other
        finally:
            for each in writers:
                each.transport.abort()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: _Link,
        hear: Callable[[bytes], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65_536):
            if hear is not None:
                hear(data)
            if not link.inside:
                await self._open.wait()
            if self.lag and link.follows and hear is None:
                loop.call_later(self.lag, _write, writer, data)
                continue
            writer.write(data)
            with suppress(RuntimeError):  # it is being closed
                await writer.drain()
        raise ConnectionResetError


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.transport.is_closing():
        writer.write(data)
