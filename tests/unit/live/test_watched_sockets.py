"""Which WebSockets are watched, and for which token."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import (
    ConfigurationError,
    MemoryStore,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from tests.support import LOOPS
from tests.support.open import opened
from tests.unit.live.live import (
    ACCEPT,
    CLOSED,
    GONE,
    Live,
    Talking,
    clear,
    sign_out,
)
from tests.unit.setting import KEY, stored

pytestmark = pytest.mark.parametrize("anyio_backend", LOOPS)


async def test_its_token_is_replaced_when_it_is_accepted(at: Live) -> None:
    """From then on the new token counts."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        get_session(HTTPConnection(scope)).rotate()
        await Talking()(scope, receive, send)

    async with opened(at.app(app), token) as socket:
        accepted = await socket.next()
        cookie = dict(accepted["headers"])[b"set-cookie"].decode()
        socket.say("hello")
        assert await socket.text() == "hello"
        await sign_out(at, cookie.partition("=")[2].partition(";")[0])
        assert await socket.next() == CLOSED


async def test_a_visitor_without_a_session(at: Live) -> None:
    """Nothing is watched, and the socket stays."""
    async with opened(at.app(Talking())) as socket:
        await socket.next()
        assert at.watchers() == 0
        socket.say("hello")
        assert await socket.text() == "hello"


@pytest.mark.parametrize("how", ["middleware", "route, before", "route, after"])
async def test_it_is_switched_off(at: Live, how: str) -> None:
    """The socket stays open, and nothing is registered."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if how == "route, before":
            get_session(HTTPConnection(scope), watch=False)
        await receive()
        await send(ACCEPT)
        if how == "route, after":
            get_session(HTTPConnection(scope), watch=False)
        await send({**await receive(), "type": "websocket.send"})
        await receive()

    async with opened(at.app(app, end_sockets=how != "middleware"), token) as socket:
        await socket.next()
        await clear(at, token)
        assert at.watchers() == 0
        socket.say("hello")
        assert await socket.text() == "hello"


async def test_lazy(at: Live) -> None:
    """It is watched from the moment in which it is loaded."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        assert at.watchers() == 0
        await receive()
        await get_session(HTTPConnection(scope)).refresh()
        assert at.watchers() == 1
        await send({"type": "websocket.send", "text": "loaded"})
        assert await receive() == GONE

    async with opened(at.app(app, lazy=True), token) as socket:
        await socket.next()
        socket.say("load it")
        assert await socket.text() == "loaded"
        await sign_out(at, token)
        assert await socket.next() == CLOSED
        await socket.end()


@pytest.mark.parametrize("which", ["inner", "outer", "both"])
async def test_realms(at: Live, which: str) -> None:
    """Each of two nested middlewares watches its own session, and the end of one is enough."""
    other, talking = Live(), Talking()
    other.store = type(other.store)(prefix="admin:", clock=other.clock)
    other.manager = type(other.manager)(other.store, other.manager._backend.keyring)  # pyright: ignore[reportPrivateUsage] - the same keys
    tokens = [await at.alice(), await other.alice()]
    inner = SessionMiddleware(talking, manager=other.manager, session_cookie="admin")
    headers = [(b"cookie", f"admin={tokens[1]}".encode())]
    async with opened(at.app(inner), tokens[0], headers=headers) as socket:
        await socket.next()
        assert (at.watchers(), other.watchers()) == (1, 1)
        if which != "inner":
            await clear(at, tokens[0])
        if which != "outer":
            session = await other.load(tokens[1])
            session.clear()
            await other.commit(session)
        assert await socket.next() == CLOSED
        await socket.end()
        assert socket.task.cancelling() == 0
    assert talking.left == [GONE]
    assert socket.sent[1:] == [CLOSED]
    assert (at.watchers(), other.watchers()) == (0, 0)


class Silent(MemoryStore):
    """A store without `watch()`."""

    watch: Any = None


async def test_a_store_that_tells_nobody() -> None:
    """Its sockets stay open, and `changes()` says what is missing."""
    manager = SessionManager(Silent(), KEY)
    token = await stored(manager, user_id="alice")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(HTTPConnection(scope))
        with pytest.raises(ConfigurationError, match=r"Silent.* has no watch"):
            session.changes()
        await Talking()(scope, receive, send)

    async with opened(SessionMiddleware(app, manager=manager), token) as socket:
        await socket.next()
        assert await manager.revoke_all("alice") == 1
        socket.say("hello")
        assert await socket.text() == "hello"
