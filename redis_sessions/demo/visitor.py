"""A browser inside the process: the panels use it to send requests to the demo itself."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message, Scope

__all__ = ["Visitor"]

_COOKIE: Final = re.compile(rb"([^=;]+=[^;]*)")


class Visitor:
    """Sends requests straight to an ASGI application, and keeps the one cookie that it gets."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.cookie = b""

    @property
    def token(self) -> str:
        """The cookie's value."""
        return self.cookie.partition(b"=")[2].decode()

    async def get(self, path: str) -> int:
        """The status of the answer."""
        return await self._ask("GET", path, b"")

    async def post(self, path: str, **form: str) -> int:
        """The status of the answer to a form."""
        return await self._ask("POST", path, urlencode(form).encode())

    async def _ask(self, method: str, path: str, body: bytes) -> int:
        headers = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())]
        headers += [(b"content-type", b"application/x-www-form-urlencoded")]
        headers += [(b"cookie", self.cookie)] if self.cookie else []
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
        }
        status = 0

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in message["headers"]:
                    match = _COOKIE.match(value) if name == b"set-cookie" else None
                    if match is not None:
                        self.cookie = match[1]

        await self._app(scope, receive, send)
        return status
