"""What a response owes its session where the application misbehaves; raw ASGI, store in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import (
    Event,
    Keyring,
    MemoryStore,
    SessionEncodeError,
    SessionManager,
    SessionMiddleware,
    generate_key,
)
from redis_sessions.testing import Clock, store_session
from tests.support.asgi import Reply, ask, cookie

START: Final[Message] = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Final[Message] = {"type": "http.response.body", "body": b"ok"}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def manager(clock: Clock, events: list[Event]) -> SessionManager:
    return SessionManager(
        MemoryStore(clock=clock), Keyring(generate_key()), clock=clock, on_event=events.append
    )


async def send_through(
    manager: SessionManager, app: ASGIApp, kind: str = "http", token: str | None = None
) -> Reply:
    """What the client gets of a request to this application."""
    headers = [] if token is None else [(b"cookie", cookie(token))]
    reply = await ask(SessionMiddleware(app, manager=manager), headers, kind=kind)
    return reply.checked()


def unencodable(after: Callable[[Send], object]) -> ASGIApp:
    """Stores what can't be stored, swallows the error, and then does something else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["key"] = object()
        await send(START)
        try:
            await send(BODY)
        except SessionEncodeError:
            result = after(send)
            if result is not None:
                await result  # type: ignore[misc]  # a coroutine of send

    return app


async def test_a_swallowed_encode_error_is_raised_all_the_same(manager: SessionManager) -> None:
    """There is no response, and the server hears why."""
    with pytest.raises(SessionEncodeError, match=r"session\['key'\]"):
        await send_through(manager, unencodable(lambda send: None))


async def test_no_other_response_after_an_encode_error(manager: SessionManager) -> None:
    """The application goes on; its response can't."""
    with pytest.raises(SessionEncodeError):
        await send_through(manager, unencodable(lambda send: send(START)))


async def test_a_socket_that_changes_nothing_reports_nothing(
    manager: SessionManager, events: list[Event]
) -> None:
    """Accepting and closing with a token that opens nothing isn't a change that was dropped."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    session = await manager.load()
    session["user_id"] = 1
    answer = await manager.commit(session)
    assert answer.token is not None
    session.clear()
    await manager.commit(session)
    events.clear()
    reply = await send_through(manager, app, "websocket", answer.token.value)
    assert [event.name for event in events] == ["rejected"]
    assert not reply.headers


async def test_a_close_before_accept_whose_commit_fails(clock: Clock) -> None:
    """The server hears of the close all the same, also one that can't deny with a status."""
    manager = SessionManager(
        MemoryStore(clock=clock), Keyring(generate_key()), clock=clock, on_conflict="error"
    )
    token = await store_session(manager, {"x": 0})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        crossing = await manager.load(token)
        crossing["y"] = 1
        await manager.commit(crossing)
        scope["session"]["x"] = 1
        await send({"type": "websocket.close"})

    reply = await send_through(manager, app, "websocket", token)
    assert reply.kinds == ["websocket.close"]
