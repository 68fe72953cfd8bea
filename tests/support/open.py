"""A WebSocket or a stream that stays open, by raw ASGI: what its client sends and is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from starlette.types import ASGIApp, Message

from redis_sessions import SessionToken
from tests.support.asgi import Header, cookie, scope_of

PATIENCE: Final = 20
"""Seconds after which a test fails that waits for what doesn't happen."""


class Open:
    """A connection that an application serves in a task of its own."""

    def __init__(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        self.sent: list[Message] = []
        """All that the client was sent."""
        self._outgoing = asyncio.Queue[Message]()
        self._incoming = asyncio.Queue[Message]()
        first: Message = {"type": "websocket.connect"}
        if scope["type"] == "http":
            first = {"type": "http.request", "body": b"", "more_body": False}
        self._incoming.put_nowait(first)
        self.task = asyncio.ensure_future(self._serve(app, scope))

    async def _serve(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        await app(scope, self._incoming.get, self._send)

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        self._outgoing.put_nowait(message)

    def say(self, text: str) -> None:
        """The client of a WebSocket sends this."""
        self._incoming.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        """The client goes."""
        kind = "websocket.connect" if self.sent and "websocket" in self.sent[0]["type"] else ""
        gone = (
            {"type": "websocket.disconnect", "code": 1001} if kind else {"type": "http.disconnect"}
        )
        self._incoming.put_nowait(gone)

    async def next(self) -> Message:
        """What the client is sent next. What it was sent before is over."""
        async with asyncio.timeout(PATIENCE):
            return await self._outgoing.get()

    async def text(self) -> str:
        """The next message, which has to be a text."""
        message = await self.next()
        assert message["type"] == "websocket.send", message
        return str(message["text"])

    async def end(self) -> None:
        """Wait until the application is through. Raises what it raises."""
        async with asyncio.timeout(PATIENCE):
            await self.task


@asynccontextmanager
async def opened(
    app: ASGIApp,
    *tokens: SessionToken | str,
    kind: str = "websocket",
    headers: Iterable[Header] = (),
    **fields: Any,
) -> AsyncGenerator[Open]:
    """Open a connection with these tokens as its cookies. Its task is over afterwards."""
    cookies = [(b"cookie", cookie(token)) for token in tokens]
    connection = Open(app, dict(scope_of("/", [*cookies, *headers], kind=kind, **fields)))
    try:
        yield connection
    finally:
        connection.task.cancel()
        await asyncio.wait([connection.task])
