"""Another library's sessions, in a dict, and a middleware that accepts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import isawaitable
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import Session, SessionMiddleware, get_session
from redis_sessions.accept import Found
from redis_sessions.errors import StoreUnavailableError
from tests.support.asgi import COOKIE, Reply, ask, cookie
from tests.unit.setting import Setting

THEIRS: Final = "theirs"
"""The name of their cookie."""


class Elsewhere:
    """A source whose sessions are in a dict. Their ids are the values of its cookie."""

    cookie = THEIRS
    path = "/"
    domain = None

    def __init__(
        self,
        sessions: Mapping[str, dict[str, Any]] | None = None,
        *,
        once: bool = True,
        follow: bool = False,
        since: float | None = None,
        ttl: int | None = None,
    ) -> None:
        self.sessions = {"s1": {"user_id": "alice", "cart": ["tea"]}, **(sessions or {})}
        self.once, self.follow = once and not follow, follow
        self.since, self.ttl = since, ttl
        self.ended: list[str] = []
        self.away = False

    def map(self, data: dict[str, Any]) -> Mapping[str, Any] | None:
        return None if "secret" in data else data

    async def find(self, value: str) -> Found | str | None:
        self._check()
        if value.startswith("!"):
            return "bad signature"
        found = self.sessions.get(value)
        return None if found is None else Found(dict(found), value, self.ttl, self.since)

    async def read(self, id: str) -> dict[str, Any] | None:
        self._check()
        return self.sessions.get(id)

    async def end(self, id: str) -> None:
        self._check()
        self.ended.append(id)
        self.sessions.pop(id, None)

    async def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailableError("their store is away, says the test")


class Place(Setting):
    """A setting whose middleware accepts the sessions of a source."""

    def __init__(
        self, source: Elsewhere | Sequence[Any] | None = None, *, site: Any = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.source = Elsewhere() if source is None else source
        self.site: dict[str, Any] = site or {}

    async def visit(
        self,
        act: Callable[[Session], object] = dict,
        *,
        theirs: str | None = "s1",
        ours: Any = None,
        status: int = 200,
        headers: Sequence[tuple[bytes, bytes]] = (),
        fails: bool = False,
        app: ASGIApp | None = None,
        **fields: Any,
    ) -> Reply:
        """A request with these cookies, whose handler does this; its reply has what it saw."""
        reply = Reply()

        async def handler(scope: Scope, receive: Receive, send: Send) -> None:
            if self.site.get("lazy"):
                await get_session(HTTPConnection(scope)).refresh()
            session = get_session(HTTPConnection(scope))
            reply.seen, reply.is_new = dict(session), session.is_new
            done = act(session)
            if isawaitable(done):
                await done
            if fails:
                raise RuntimeError("the handler fails, says the test")
            await send(self.start(scope, status))
            if scope["type"] == "http":
                await send({"type": "http.response.body", "body": b""})

        values = [(THEIRS, theirs), (COOKIE, ours)]
        sent = [(b"cookie", cookie(value, name)) for name, value in values if value is not None]
        middleware = SessionMiddleware(
            app or handler, manager=self.manager, accept=self._sources(), **self.site
        )
        return await ask(middleware, [*sent, *headers], reply=reply, **fields)

    def start(self, scope: Scope, status: int) -> Message:
        if scope["type"] == "websocket":
            return {"type": "websocket.accept", "headers": []}
        return {"type": "http.response.start", "status": status, "headers": []}

    def _sources(self) -> Sequence[Any]:
        return [self.source] if isinstance(self.source, Elsewhere) else self.source


def token_in(reply: Reply) -> str:
    """The token of our cookie in a reply."""
    (value,) = (text for text in reply.cookies if text.startswith(f"{COOKIE}="))
    return value.split(";")[0].partition("=")[2]


def names_in(reply: Reply) -> list[str]:
    """The names of the cookies that a reply sets or removes."""
    return [text.partition("=")[0] for text in reply.cookies]
