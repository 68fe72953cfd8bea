"""What another origin causes is answered as if there were no cookie, under each combination."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from operator import methodcaller
from typing import Any, Final

import pytest
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from redis_sessions import (
    CookieTransport,
    CrossSiteError,
    HeaderTransport,
    MemoryStore,
    SessionAuthBackend,
    SessionMiddleware,
)
from tests.unit.edge.edge import BODY, Act, Edge, setting, start
from tests.unit.edge.foreign import CROSS, DENYING, POST, SOCKET
from tests.unit.setting import KEY


def counts(_: HTTPConnection) -> bool:
    return True


OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "default": {},
    "lazy": {"lazy": True},
    "refuse": {"lazy": True, "cross_site": "refuse"},
    "two transports": {"transport": [CookieTransport(same_site="none"), HeaderTransport()]},
    "all options": {
        "binding": "user_agent",
        "on_unavailable": "anonymous",
        "clear_site_data": ["cache"],
        "touch": counts,
    },
}


def same_inside(app: ASGIApp, at: Edge, options: dict[str, Any]) -> ASGIApp:
    transport = options.get("transport")
    return SessionMiddleware(app, manager=at.manager, lazy=True, transport=transport)


def realm_inside(app: ASGIApp, at: Edge, options: dict[str, Any]) -> ASGIApp:
    store = MemoryStore(prefix="admin:")
    return SessionMiddleware(app, store=store, secret_key=KEY, session_cookie="admin")


INSIDE: Final[dict[str, Callable[[ASGIApp, Edge, dict[str, Any]], ASGIApp]]] = {
    "nothing": lambda app, at, options: app,
    "the same": same_inside,
    "a realm": realm_inside,
    "authentication": lambda app, at, options: AuthenticationMiddleware(app, SessionAuthBackend()),
}
ACTS: Final[dict[str, Act]] = {
    "read": lambda session: session.get("user_id"),
    "write": setting(x=1),
    "write past its methods": lambda session: dict.update(session, {"user_id": "alice"}),
    "sign in": methodcaller("sign_in", "mallory"),
    "sign out": methodcaller("sign_out"),
    "clear": methodcaller("clear"),
    "rotate": methodcaller("rotate"),
}


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("options", OPTIONS)
async def test_the_cookie_makes_no_difference(at: Edge, options: str, inside: str) -> None:
    """No page of another origin learns whether somebody is signed in, or changes anything."""
    token = await at.begin({"user_id": "alice"})
    stored = await at.store.load(token[:20])
    for act, late, scope, away in product(
        ACTS.values(), (False, True), (POST, DENYING, SOCKET), (False, True)
    ):

        async def app(
            scope: Scope, receive: Receive, send: Send, act: Act = act, late: bool = late
        ) -> None:
            socket = scope["type"] == "websocket"
            begin = {"type": "websocket.accept"} if socket else start()
            session = scope["redis_sessions"][0].session
            if not late:
                act(session)
            await send(begin)
            await send({"type": "websocket.send", "text": ""} if socket else BODY)
            if late:
                act(session)

        replies: list[tuple[object, str]] = []
        for brought in (token, None):
            at.away.away = away
            try:
                await at.serve(
                    INSIDE[inside](app, at, OPTIONS[options]),
                    brought,
                    headers=CROSS,
                    scope=scope,
                    **OPTIONS[options],
                )
                error = ""
            except CrossSiteError as exc:  # after the response has started
                error = repr(exc)
            at.away.away = False
            replies.append((at.sent, error))
            assert at.header("set-cookie") == at.header("clear-site-data") == []
        assert replies[0] == replies[1]
        assert await at.store.load(token[:20]) == stored
