"""What is in the scope, for whom: ours, and that of other session middlewares around and inside."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import (
    ConfigurationError,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from tests.support.asgi import COOKIE, ask, cookie
from tests.unit.edge.edge import BODY, Edge, responding, setting, start
from tests.unit.setting import KEY


class Theirs(dict[str, Any]):
    """A session of another library's."""


class Foreign:
    """That library's middleware: its session is in the scope around its application.

    `seen`: what it found there when it was told of the response, and in the end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.session = Theirs()
        self.seen: list[bool] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def on_send(message: Message) -> None:
            self.seen.append(scope.get("session") is self.session)
            await send(message)

        before = scope.get("session")
        scope["session"] = self.session
        try:
            await self.app(scope, receive, on_send)
        finally:
            self.seen.append(scope.get("session") is self.session)
            if before is None:
                del scope["session"]
            else:
                scope["session"] = before


async def call(app: ASGIApp, token: str | None = None) -> Scope:
    """A request; its scope, as whoever is outside finds it afterwards."""
    scopes: list[Scope] = []

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await app(scope, receive, send)

    (await ask(outside, [] if token is None else [(b"cookie", cookie(token))])).checked()
    return scopes[0]


def shown(seen: list[Any]) -> ASGIApp:
    """An application that notes what it finds, before its response, in it and after it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["session"])
        await send(start())
        seen.append(scope["session"])
        await send(BODY)
        seen.append(scope["session"])

    return app


# -- alone


async def test_it_is_a_session(at: Edge) -> None:
    """From the first moment to the last, and the one that get_session() finds."""
    seen: list[Any] = []
    scope = await call(SessionMiddleware(shown(seen), manager=at.manager))
    assert [type(each) for each in seen] == [Session] * 3
    assert seen[0] is seen[1] is seen[2]
    assert scope["session"] is seen[0]  # whoever is outside, such as an error page, may read it


async def test_error_pages_outside_see_it(at: Edge) -> None:
    """After an exception, too."""
    token = await at.begin({"x": 1})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del scope["session"]
        raise KeyError

    scopes: list[Scope] = []

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await SessionMiddleware(app, manager=at.manager)(scope, receive, send)

    with pytest.raises(KeyError):
        await call(outside, token)
    assert scopes[0]["session"] == {"x": 1}


async def test_one_scope_served_twice(at: Edge) -> None:
    """As by what asks an application again: each time the session is loaded, and stored."""
    token = await at.begin({"n": 0})

    def count(session: Session) -> None:
        session["n"] += 1

    middleware = SessionMiddleware(responding(count), manager=at.manager)

    async def twice(scope: Scope, receive: Receive, send: Send) -> None:
        await middleware(scope, receive, send)
        await middleware(scope, receive, send)

    await call(twice, token)
    assert await at.data(token) == {"n": 2}


async def test_scopes_of_other_types(at: Edge) -> None:
    """What is neither a request nor a WebSocket goes by, untouched."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    (await ask(SessionMiddleware(app, manager=at.manager), kind="other")).checked()
    assert "session" not in seen[0]


# -- another middleware's around ours


@pytest.mark.parametrize("fails", [False, True])
async def test_another_session_around_ours(at: Edge, fails: bool) -> None:
    """Its own is there when it is told of the response, and in the end; ours is, inside."""
    seen: list[Any] = []

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await shown(seen)(scope, receive, send)
        raise KeyError

    inside = SessionMiddleware(failing if fails else shown(seen), manager=at.manager)
    outside = Foreign(inside)
    try:
        await call(outside)
    except KeyError:
        assert fails
    assert [type(each) for each in seen] == [Session] * 3
    assert outside.seen == [True] * 3


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
async def test_another_session_between_two_of_ours(at: Edge, fails: bool, lazy: bool) -> None:
    """The inner one of ours gives it back: when the response is told, and in the end."""
    token = await at.begin({"x": 1})
    seen: list[Any] = []
    around: list[Any] = []

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        await shown(seen)(scope, receive, send)
        if fails:
            raise KeyError

    between = Foreign(SessionMiddleware(failing, manager=at.manager, lazy=lazy))

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        around.append(scope["session"])
        try:
            await between(scope, receive, send)
        finally:
            around.append(scope["session"])

    try:
        await call(SessionMiddleware(outer, manager=at.manager), token)
    except KeyError:
        assert fails
    assert seen == [{"x": 1}] * 3
    assert between.seen == [True] * 3
    assert around[0] is around[1] is seen[0]


async def test_starlettes_session_between_two_of_ours(at: Edge) -> None:
    """It stores what was written to its own, and we what was written to ours."""
    token = await at.begin({"x": 1})

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["x"] = 2
        await send(start())
        await send(BODY)

    async def marking(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["theirs"] = 1
        await SessionMiddleware(inner, manager=at.manager)(scope, receive, send)

    theirs = StarlettesMiddleware(marking, "a secret", session_cookie="theirs")
    await at.serve(theirs, token)
    assert any(cookie.startswith("theirs=") for cookie in at.header("set-cookie"))
    assert await at.data(token) == {"x": 2}


# -- two of ours


async def test_the_same_inside_stands_aside(at: Edge) -> None:
    """One session, one load, and one cookie."""
    token = await at.begin({"x": 1})
    seen: list[Any] = []
    inner = SessionMiddleware(shown(seen), manager=at.manager)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["session"])
        scope["session"].update(user_id="alice")
        await inner(scope, receive, send)

    await at.serve(outer, token)
    assert all(each is seen[0] for each in seen)
    assert len(at.header("set-cookie")) == 1
    assert await at.data(at.token) == {"x": 1, "user_id": "alice"}


async def test_the_same_inside_that_fails(at: Edge) -> None:
    """Error pages between the two see the session, whatever the application has left there."""
    token = await at.begin({"x": 1})
    seen: list[Any] = []

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"] = None
        raise KeyError

    inner = SessionMiddleware(failing, manager=at.manager)

    async def between(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await inner(scope, receive, send)
        except KeyError:
            seen.append(scope["session"])
        await responding()(scope, receive, send)

    await at.serve(between, token)
    assert seen == [{"x": 1}]
    assert await at.data(token) == {"x": 1}


async def test_another_realm_between_two_of_the_same(at: Edge) -> None:
    """get_session() finds the innermost, on the way in and on the way out."""
    realm = SessionManager(MemoryStore(prefix="admin:", clock=at.clock), KEY, clock=at.clock)
    token = await at.begin({"x": 1})
    found: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(get_session(HTTPConnection(scope)))
        await send(start())
        await send(BODY)

    innermost = SessionMiddleware(app, manager=at.manager)

    async def admin(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["y"] = 1
        found.append(get_session(HTTPConnection(scope)))
        await innermost(scope, receive, send)
        found.append(get_session(HTTPConnection(scope)))

    await at.serve(SessionMiddleware(admin, manager=realm, session_cookie="admin"), token)
    assert found == [{"y": 1}, {"x": 1}, {"y": 1}]


async def test_another_realm_inside(at: Edge) -> None:
    """Each has its own session and cookie; outside of the inner one the outer one is found."""
    realm = SessionManager(MemoryStore(prefix="admin:", clock=at.clock), KEY, clock=at.clock)
    token = await at.begin({"x": 1})
    found: list[Any] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(get_session(HTTPConnection(scope)))
        scope["session"]["y"] = 1
        await send(start())
        await send(BODY)

    inside = SessionMiddleware(inner, manager=realm, session_cookie="admin")

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(get_session(HTTPConnection(scope)))
        await inside(scope, receive, send)
        found.append(get_session(HTTPConnection(scope)))
        found.append(scope["session"])

    await at.serve(outer, token)
    assert found[0] is found[2] is found[3]
    assert (found[0], found[1]) == ({"x": 1}, {"y": 1})
    (cookie,) = at.header("set-cookie")
    assert cookie.startswith("admin=")


@pytest.mark.parametrize(
    ("prefix", "name", "why"),
    [
        ("session:", "admin", "share the prefix 'session:'"),
        ("session:", COOKIE, f"share the cookie '{COOKIE}'"),
        ("admin:", COOKIE, f"share the cookie '{COOKIE}'"),
    ],
    ids=["prefix", "both", "cookie"],
)
async def test_two_that_cannot_work(at: Edge, prefix: str, name: str, why: str) -> None:
    """They say so where they meet, and what they have in common."""
    other = SessionManager(MemoryStore(prefix=prefix), KEY)
    middleware = SessionMiddleware(responding(), manager=other, session_cookie=name)
    with pytest.raises(ConfigurationError, match=why):
        await at.serve(middleware)


# -- the request that is served


async def test_a_revocation_in_a_request_is_its_own(at: Edge) -> None:
    """It ends this request's session, too, and the cookie goes; after the request nothing is."""
    token = await at.begin({"user_id": "alice"})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert [info.current for info in await at.manager.sessions_of("alice")] == [True]
        assert await at.manager.revoke_all("alice") == 1
        await send(start())
        await send(BODY)

    await at.serve(app, token)
    assert at.token == "null"
    at.clock.advance(1)
    token = await at.begin({"user_id": "alice"})
    await at.serve(responding(), token)
    assert [info.current for info in await at.manager.sessions_of("alice")] == [False]


async def test_a_session_in_a_request_knows_who_asks(at: Edge) -> None:
    """The list of devices shows the address and the browser of each."""
    headers = [(b"user-agent", b"Lynx/2.9")]
    scope = {"client": ("192.0.2.1", 5)}
    await at.serve(responding(setting(user_id="alice")), headers=headers, scope=scope)
    await at.serve(responding(setting(user_id="alice")), scope={"client": None})
    shown = {(i.address, i.user_agent) for i in await at.manager.sessions_of("alice")}
    assert shown == {("192.0.2.1", "Lynx/2.9"), (None, None)}


# -- no session


async def test_without_a_middleware() -> None:
    """get_session() says what to write."""
    scope: Scope = {"type": "http", "headers": []}
    with pytest.raises(ConfigurationError, match="add_middleware"):
        get_session(HTTPConnection(scope))
