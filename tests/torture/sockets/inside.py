"""WebSockets at the ASGI interface, without a server: so that there may be very many."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message

from tests.support.asgi import cookie, scope_of
from tests.torture.sockets.application import COOKIE

_CONNECT: Message = {"type": "websocket.connect"}
_DISCONNECT: Message = {"type": "websocket.disconnect", "code": 1001}


class Inside:
    """One WebSocket of an application in this event loop."""

    def __init__(self, app: ASGIApp, path: str, token: str) -> None:
        self.opened = asyncio.Event()
        """Set when the application has sent something."""
        self.code: int | None = None
        """With which code the application has closed it."""
        self._received = asyncio.Queue[Message]()
        self._received.put_nowait(_CONNECT)
        headers = [(b"cookie", cookie(token, COOKIE))]
        scope: Any = scope_of(path, headers, kind="websocket", scheme="ws")
        self.task = asyncio.ensure_future(app(scope, self._received.get, self._send))

    async def _send(self, message: Message) -> None:
        if message["type"] == "websocket.send":
            self.opened.set()
        elif message["type"] == "websocket.close":
            self.code = message["code"]

    def leave(self) -> None:
        """The client goes away."""
        self._received.put_nowait(_DISCONNECT)
