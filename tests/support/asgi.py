"""One request at the ASGI interface: for what no client sends, and for exceptions as they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

from redis_sessions import SessionToken

KEY: Final = "a secret key of the tests, long enough"
COOKIE: Final = "__Host-session"

Header = tuple[bytes, bytes] | Sequence[bytes]
"""A name and a value; some servers have lists of two."""


_FIRST: Final[dict[str, Message]] = {
    "http": {"type": "http.request", "body": b"", "more_body": False},
    "websocket": {"type": "websocket.connect"},
    "lifespan": {"type": "lifespan.startup"},
}


@dataclass(slots=True)
class Reply:
    """What the client saw of a request, and the exception that the server saw, if any."""

    messages: list[Message] = field(default_factory=list[Message])
    error: Exception | None = None
    seen: dict[Any, Any] | None = None
    """The session's data as a `Site`'s handler found them."""
    is_new: bool | None = None

    @property
    def kinds(self) -> list[str]:
        """What the application sent, in this order."""
        return [message["type"] for message in self.messages]

    @property
    def status(self) -> int:
        """0 if no response was begun."""
        start = self._start
        return 0 if start is None else int(start["status"])

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in (self._start or {}).get("headers", ())]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def cookies(self) -> list[str]:
        return [value.decode() for name, value in self.headers if name == b"set-cookie"]

    @property
    def token(self) -> SessionToken:
        (cookie,) = self.cookies
        token = SessionToken.parse(cookie.split(";")[0].split("=", 1)[1])
        assert token is not None
        return token

    @property
    def _start(self) -> Message | None:
        starts = ("http.response.start", "websocket.accept", "websocket.http.response.start")
        return next((each for each in self.messages if each["type"] in starts), None)

    def checked(self) -> Reply:
        """Raise what the server saw instead of a reply, else return this one."""
        if self.error is not None:
            raise self.error
        return self


def cookie(value: SessionToken | str, name: str = COOKIE) -> bytes:
    """A Cookie header with this token."""
    return f"{name}={value.value if isinstance(value, SessionToken) else value}".encode("latin-1")


def scope_of(
    path: str = "/", headers: Iterable[Header] = (), *, kind: str = "http", **fields: Any
) -> Scope:
    """A scope as servers make it; `fields` replace or extend what is in it."""
    path, _, query = path.partition("?")
    scope = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 443),
    }
    if kind == "websocket":
        del scope["method"]
        scope |= {"scheme": "wss", "subprotocols": []}
    return {**scope, **fields}


async def ask(
    app: ASGIApp,
    headers: Iterable[Header] = (),
    *,
    path: str = "/",
    client_is_gone: bool = False,
    reply: Reply | None = None,
    when_sent: Callable[[Message], Awaitable[None]] | None = None,
    **fields: Any,
) -> Reply:
    """One request by raw ASGI; an exception of the application's ends up in `error`.

    `path` may have a query. `fields` are `scope_of`'s. If the client is gone, nothing can be sent.
    `reply`: where all this is noted, to look at while the request is served; `when_sent`: what
    happens whenever the client has got a message.
    """
    scope, reply = scope_of(path, headers, **fields), Reply() if reply is None else reply

    async def receive() -> Message:
        return dict(_FIRST[scope["type"]])

    async def send(message: Message) -> None:
        if client_is_gone:
            raise OSError("the client is gone, says the test")
        reply.messages.append(message)
        if when_sent is not None:
            await when_sent(message)

    try:
        await app(scope, receive, send)
    except Exception as exc:  # noqa: BLE001  # the test looks at it
        reply.error = exc
    return reply
