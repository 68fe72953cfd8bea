"""A WebSocket is closed when its token doesn't open its session any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

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
    ENDS,
    GONE,
    End,
    Live,
    Talking,
    clear,
    sign_out,
)
from tests.unit.setting import KEY, stored

pytestmark = pytest.mark.parametrize("anyio_backend", LOOPS)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_a_blocked_receive(at: Live, end: End) -> None:
    """The client gets 1008 and why, the application a disconnect, and the operator an event."""
    talking, token = Talking(), await at.alice()
    async with opened(at.app(talking), token) as socket:
        assert await socket.next() == {**ACCEPT, "headers": [(b"vary", b"Cookie")]}
        socket.say("hello")
        assert await socket.text() == "hello"
        await end(at, token)
        assert await socket.next() == CLOSED
        await socket.end()
    assert talking.left == [GONE]
    assert at.reported("disconnected") == [ENDS[end]]
    assert socket.task.cancelling() == 0
    assert at.watchers() == 0


async def test_a_send_loop(at: Live) -> None:
    """An application that only sends gets what Starlette makes of a client that has gone."""
    token, sent = await at.alice(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await sent.wait()
        while True:
            await socket.send_text("more")
            await asyncio.sleep(0)

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        assert await socket.next() == CLOSED
        sent.set()
        await socket.end()
    assert socket.sent[-1] == CLOSED


async def test_a_blocked_send(at: Live) -> None:
    """A client that doesn't read keeps no application from being told."""
    token, full = await at.alice(), asyncio.Event()
    errors = list[Exception]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        try:
            await send({"type": "websocket.send", "text": "much"})
        except OSError as exc:
            errors.append(exc)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def blocking(message: Any) -> None:
            if message["type"] == "websocket.send":
                full.set()
                await asyncio.Event().wait()
            await send(message)

        await at.app(app)(scope, receive, blocking)

    async with opened(outer, token) as socket:
        await full.wait()
        await sign_out(at, token)
        await socket.end()
    assert socket.sent[-1] == CLOSED
    assert "the session has ended" in str(errors[0])


async def test_sends_after_the_end(at: Live) -> None:
    """They are an OSError, and another close is nothing."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        assert await receive() == GONE
        assert await receive() == GONE
        with pytest.raises(OSError, match="the session has ended"):
            await send({"type": "websocket.send", "text": "?"})
        await send({"type": "websocket.close", "code": 1000})

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        await socket.end()
    assert socket.sent[1:] == [CLOSED]


async def test_it_ended_before_it_was_accepted(at: Live) -> None:
    """Between the load and the acceptance nothing is missed."""
    talking, token = Talking(), await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sign_out(at, token)
        await talking(scope, receive, send)

    async with opened(at.app(app), token) as socket:
        await socket.next()
        assert await socket.next() == CLOSED
        await socket.end()


@pytest.mark.parametrize("kind", ["text", "DropSession"])
async def test_changes_by_others(at: Live, kind: str) -> None:
    """Whatever else is stored under the same token, the socket stays."""
    talking, token = Talking(), await at.alice()
    async with opened(at.app(talking), token) as socket:
        await socket.next()
        for value in range(3):
            await at.put(token, {kind: value})
            socket.say("hello")
            assert await socket.text() == "hello"
    assert at.reported("disconnected") == []


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


async def test_a_client_that_goes(at: Live) -> None:
    """Nothing is left in the store, also before the application is through."""
    token, goes = await at.alice(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Talking()(scope, receive, send)
        assert at.watchers() == 0
        await goes.wait()

    async with opened(at.app(app), token) as socket:
        await socket.next()
        assert at.watchers() == 1
        socket.leave()
        goes.set()
        await socket.end()


async def test_an_application_that_closes(at: Live) -> None:
    """What it does afterwards isn't disturbed by the session's end."""
    token, ended, done = await at.alice(), asyncio.Event(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": 1000})
        await ended.wait()
        await asyncio.sleep(0)
        done.append("cleaned up")

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await socket.next()
        await sign_out(at, token)
        ended.set()
        await socket.end()
    assert done == ["cleaned up"]
    assert at.reported("disconnected") == []


@pytest.mark.parametrize("how", ["clear", "sign_out", "revoke_all"])
async def test_its_own_application_ends_it(at: Live, how: str) -> None:
    """It may say goodbye. It is closed where it waits for the next message."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(HTTPConnection(scope))
        await receive()
        await send(ACCEPT)
        if how == "revoke_all":
            await at.manager.revoke_all("alice")
        else:
            getattr(session, how)()
            await session.save()
        for _ in range(10):
            await asyncio.sleep(0)
        await send({"type": "websocket.send", "text": "goodbye"})
        assert await receive() == GONE

    async with opened(at.app(app), token) as socket:
        await socket.next()
        assert await socket.text() == "goodbye"
        assert await socket.next() == CLOSED
        await socket.end()
    assert at.reported("disconnected") == []
    assert at.watchers() == 0


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


@pytest.mark.parametrize("exc", [WebSocketDisconnect(1006), "group"])
async def test_what_the_application_raises_then(at: Live, exc: Any) -> None:
    """That its client has gone is no failure of the application."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        if exc == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(socket.receive_text())
        await socket.receive_text()

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        await socket.end()


async def test_another_error_then(at: Live) -> None:
    """It is raised, as ever."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Talking()(scope, receive, send)
        raise ValueError("a bug")

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        with pytest.raises(ValueError, match="a bug"):
            await socket.end()


async def test_what_is_not_saved_then(at: Live) -> None:
    """It is dropped, and brings nothing back."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Talking()(scope, receive, send)
        scope["session"]["late"] = 1

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        await socket.end()
    assert at.reported("dropped") == ["ended elsewhere"]
    assert await at.data(token) == {}
