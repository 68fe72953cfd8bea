"""A WebSocket is closed when its token doesn't open its session any more."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from redis_sessions import (
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
    sign_out,
)

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


async def test_nothing_runs_while_nothing_happens(at: Live) -> None:
    """Open sockets have no task of ours, but a registration each."""
    token, before = await at.alice(), asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        app = at.app(Talking())
        sockets = [await stack.enter_async_context(opened(app, token)) for _ in range(50)]
        for socket in sockets:
            await socket.next()
        await at.put(token, {"a": 1})
        sockets[-1].say("hello")
        assert await sockets[-1].text() == "hello"
        assert asyncio.all_tasks() - before == {socket.task for socket in sockets}
        assert at.watchers() == 50
        await sign_out(at, token)
        for socket in sockets[:-1]:
            assert await socket.next() == CLOSED
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
    token, done = await at.alice(), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        assert await receive() == GONE
        assert await receive() == GONE
        with pytest.raises(OSError, match="the session has ended"):
            await send({"type": "websocket.send", "text": "?"})
        await send({"type": "websocket.close", "code": 1000})
        done.append("closed")

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        await socket.end()
    assert socket.sent[1:] == [CLOSED]
    assert done == ["closed"]


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


async def test_another_error_in_a_group(at: Live) -> None:
    """It isn't hidden by the disconnect beside it."""
    token = await at.alice()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()

        async def fail() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("a bug")

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(socket.receive_text())

    async with opened(at.app(app), token) as socket:
        await socket.next()
        await sign_out(at, token)
        with pytest.raises(ExceptionGroup) as caught:
            await socket.end()
    assert caught.group_contains(ValueError)


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
