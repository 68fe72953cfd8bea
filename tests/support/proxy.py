"""A network that fails on command: a TCP proxy in front of a server's port.

It runs in a thread of its own, so synchronous and asynchronous tests use it alike. When a method
returns, what it says is in force.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Self

from tests.support.servers import free_port

HOST = "127.0.0.1"


class Proxy:
    """Forwards its own `port` to `target`, a port of this machine. Use it as a context manager.

    `refuses`: a word for which it closes the connection, as twemproxy does for some commands.
    """

    def __init__(self, target: int, *, refuses: bytes | None = None) -> None:
        self.target = target
        self._refuses = refuses
        self.port = free_port()
        self.connections = 0
        """How many have been accepted so far."""
        self.refused = 0
        """How many were closed for the word that it refuses."""
        self.holds = 0
        """How many connections it holds back now, for a word."""
        self._delay = 0.0
        self._held: dict[bytes, asyncio.Event] = {}
        self._stranded = set[asyncio.StreamWriter]()  # towards the server
        self._links: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests, self._replies = asyncio.Event(), asyncio.Event()  # set: they flow

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def cut(self) -> None:
        """Drop all connections, and refuse new ones."""
        self._do(self._cut())

    def freeze(self, *, requests: bool = True, replies: bool = True) -> None:
        """Accept, and forward nothing, as a partition does; `requests=False`: no replies only."""
        self._do(self._flow(requests=not requests, replies=not replies))

    def delay(self, seconds: float) -> None:
        """Let each reply take so much longer."""
        self._delay = seconds

    def hold(self, word: bytes) -> None:
        """Hold back a reply that has this word in it, and all that follows on its connection."""
        self._do(self._hold(word))

    def release(self, word: bytes) -> None:
        """Let what was held back for this word go on."""
        self._do(self._release(word))

    def strand(self) -> None:
        """Have all connections half-open: the server's side ends, and the client isn't told.

        New connections work.
        """
        self._do(self._strand())

    def heal(self) -> None:
        """Forward again, without delay; what was held back arrives."""
        self._delay = 0.0
        self._do(self._heal())

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _flow(self, *, requests: bool, replies: bool) -> None:
        for event, flows in ((self._requests, requests), (self._replies, replies)):
            (event.set if flows else event.clear)()

    async def _hold(self, word: bytes) -> None:
        self._held[word] = asyncio.Event()

    async def _release(self, word: bytes) -> None:
        self._held.pop(word).set()

    async def _strand(self) -> None:
        for writer in self._links:
            self._stranded.add(writer)
            writer.transport.abort()

    async def _heal(self) -> None:
        await self._flow(requests=True, replies=True)
        for word in list(self._held):
            await self._release(word)
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, HOST, self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await self._requests.wait()
            there, there_writer = await asyncio.open_connection(HOST, self.target)
            writers.append(there_writer)
            self._links.append(there_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_requests(reader, there_writer))
                group.create_task(self._send_replies(there, there_writer, writer))
        except* OSError:
            pass  # either side ended: so does the other
        finally:
            for each in writers:
                each.transport.abort()
            self._links = [each for each in self._links if each not in writers]
            self._stranded.difference_update(writers)

    async def _send_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65_536):
            if self._refuses is not None and self._refuses in data:
                self.refused += 1
                break
            await self._requests.wait()
            if writer not in self._stranded:
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError

    async def _send_replies(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        writer: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await asyncio.sleep(self._delay)
                for word, released in list(self._held.items()):
                    if word in data:
                        self.holds += 1
                        await released.wait()
                        self.holds -= 1
                await self._replies.wait()
                writer.write(data)
                await writer.drain()
        if server in self._stranded:
            await asyncio.Event().wait()  # until the client closes, or the proxy does
        raise ConnectionResetError

    def __enter__(self) -> Self:
        self._thread.start()
        self.heal()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(TimeoutError):
            self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


FAILURES: Final[dict[str, Callable[[Proxy], None]]] = {
    "frozen": Proxy.freeze,
    "replies-frozen": lambda proxy: proxy.freeze(requests=False),
    "delayed": lambda proxy: proxy.delay(30),
    "cut": Proxy.cut,
    "half-open": Proxy.strand,
    "notices-held": lambda proxy: proxy.hold(b"invalidate"),
}
"""Ways in which a connection over which Redis tells of changes may fail, by name."""
