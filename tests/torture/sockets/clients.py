"""Browsers that cost little, so that what is measured is the application.

`Http` asks one request after another over one connection. `Open` is a WebSocket or an event
stream, and notes when each message and its end came. Times are `time.monotonic()`, which all
processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final, Self

from tests.torture.sockets.application import COOKIE

HOST: Final = "127.0.0.1"
PATIENCE: Final = 60.0
"""Seconds after which something counts as missed."""
ENDED: Final = 1008
"""The code of the close that says that the session has ended."""

_KEY: Final = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
_UPGRADE: Final = f"Connection: Upgrade\r\nUpgrade: websocket\r\n{_KEY}"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered."""

    status: int
    body: Any
    token: str | None
    at: float
    """When it was there."""


class Http:
    """One connection to a server, which is opened when it is first used."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, token: str | None = None) -> Answer:
        """The answer to one request with this cookie."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(HOST, self._port)
        reader, writer = self._streams
        writer.write(_head(method, path, token))
        async with asyncio.timeout(PATIENCE):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *lines = head.split("\r\n")
            headers = [line.partition(": ") for line in lines]
            length = next(int(v) for name, _, v in headers if name.lower() == "content-length")
            body = await reader.readexactly(length)
        at = time.monotonic()
        code = int(status.split()[1])
        said: Any = json.loads(body) if code < 400 else body
        return Answer(code, said, _token(headers), at)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _token(headers: list[tuple[str, str, str]]) -> str | None:
    """The value of the session's cookie, if the answer sets it."""
    for name, _, value in headers:
        if name.lower() == "set-cookie" and value.startswith(f"{COOKIE}="):
            return value.partition(";")[0].partition("=")[2]
    return None


def _head(method: str, path: str, token: str | None, more: str = "") -> bytes:
    cookie = "" if token is None else f"Cookie: {COOKIE}={token}\r\n"
    length = "Content-Length: 0\r\n" if method == "POST" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{cookie}{length}{more}\r\n".encode()


class Open(asyncio.Protocol):
    """A WebSocket, or the event stream at `/stream`."""

    def __init__(self, path: str, token: str) -> None:
        loop = asyncio.get_running_loop()
        self.path, self.token = path, token
        self.opened: asyncio.Future[None] = loop.create_future()
        """Done when the application has sent something."""
        self.ended: asyncio.Future[float] = loop.create_future()
        """When it ended, as the end of a session ends it. Any other end is a `ConnectionError`."""
        self.messages = list[tuple[float, bytes]]()
        self.told = asyncio.Event()
        """Set at each message."""
        self._is_socket = path != "/stream"
        self._data = b""
        self._headed = False
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def at(cls, port: int, path: str, token: str) -> Self:
        """Open one, and wait for the application's first message."""
        loop = asyncio.get_running_loop()
        _, self = await loop.create_connection(lambda: cls(path, token), HOST, port)
        async with asyncio.timeout(PATIENCE):
            await self.opened
        return self

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        more = _UPGRADE if self._is_socket else ""
        transport.write(_head("GET", self.path, self.token, more))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._data += data
        if not self._headed:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            if head.split()[1] not in (b"101", b"200"):
                self._fail(head.decode("latin-1"))
                return
            self._headed, self._data = True, rest
        if self._is_socket:
            self._read_frames(now)
        elif self._data.endswith(_LAST_CHUNK):
            self._end(now)
        elif self._data:
            self._note(now, b"")

    def _read_frames(self, now: float) -> None:
        while len(self._data) >= 2:
            kind, length, begin = self._data[0] & 15, self._data[1], 2
            if length >= 126:
                begin = 4 if length == 126 else 10
                length = int.from_bytes(self._data[2:begin])
            if len(self._data) < begin + length:
                return
            text = self._data[begin : begin + length]
            self._data = self._data[begin + length :]
            if kind != 8:
                self._note(now, text)
            elif int.from_bytes(text[:2]) == ENDED:
                self._end(now)
            else:
                self._fail(f"closed with {text!r}")

    def _note(self, now: float, message: bytes) -> None:
        self.messages.append((now, message))
        self.told.set()
        if not self.opened.done():
            self.opened.set_result(None)

    def _end(self, now: float) -> None:
        if not self.ended.done():
            self.ended.set_result(now)
        self.close()

    def _fail(self, why: str) -> None:
        error = ConnectionError(f"{self.path}: {why}")
        for future in (self.opened, self.ended):
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits for it gets it
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc}")

    def close(self) -> None:
        """Leave, as a browser does whose tab is closed."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def lives(self) -> bool:
        """Whether it is open."""
        return not self.ended.done()

    async def end(self) -> float:
        """When it ended. An AssertionError if it doesn't, or in another way."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(self.ended)
        except (TimeoutError, ConnectionError) as exc:
            raise AssertionError(f"an end was missed: {exc!r}") from exc
