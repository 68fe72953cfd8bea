"""Requests that another origin caused, and whether they see their session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from tests.unit.edge.edge import BODY, Edge, Headers, start

HOST: Final[tuple[bytes, bytes]] = (b"host", b"shop.example")
POST: Final[dict[str, Any]] = {"method": "POST"}
SOCKET: Final[dict[str, Any]] = {"kind": "websocket"}
DENYING: Final[dict[str, Any]] = {
    "kind": "websocket",
    "extensions": {"websocket.http.response": {}},
}
EVIL: Final = "https://evil.example"


def caused(origin: str | None = None, site: str | None = None) -> list[tuple[bytes, bytes]]:
    """The headers of a request to `shop.example`."""
    headers: list[tuple[bytes, bytes]] = [HOST]
    if origin is not None:
        headers.append((b"origin", origin.encode("latin-1")))
    if site is not None:
        headers.append((b"sec-fetch-site", site.encode()))
    return headers


CROSS: Final = caused(EVIL, "cross-site")


async def sees(at: Edge, headers: Headers, scope: Mapping[str, Any] = POST, **options: Any) -> bool:
    """Whether a request with the cookie of a session sees it."""
    token = await at.begin({"user_id": "alice"})
    seen: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope["session"]))
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        await send(start())
        await send(BODY)

    await at.serve(app, token, headers=headers, scope=scope, **options)
    assert at.token is None
    assert at.header("cache-control") == at.header("retry-after") == []
    assert await at.data(token) == {"user_id": "alice"}
    return seen == [{"user_id": "alice"}]
