"""What a response owes its session where the application misbehaves; raw ASGI, store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import (
    Commit,
    Event,
    Keyring,
    MemoryStore,
    ReplicationError,
    Session,
    SessionEncodeError,
    SessionError,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.http.errors import as_http
from redis_sessions.testing import Clock, store_session
from tests.support.asgi import Reply, ask, cookie
from tests.unit.setting import Setting

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


async def sign_out(session: Session) -> None:
    session.sign_out()


async def save(session: Session) -> None:
    await session.save()


async def update_nothing(session: Session) -> None:
    session.sign_in("alice")
    session.sign_out()
    await session.save()


@pytest.mark.parametrize("act", [sign_out, save, update_nothing])
async def test_writing_nothing_while_the_store_is_away(
    act: Callable[[Session], Awaitable[None]],
) -> None:
    """on_unavailable="anonymous": to sign nobody out, or to save nothing, needs no store."""
    at = Setting()
    token = await at.begin({"x": 0})
    at.store.away = True

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await act(scope["session"])
        await send(START)
        await send(BODY)

    middleware = SessionMiddleware(app, manager=at.manager, on_unavailable="anonymous")
    assert (await ask(middleware, [(b"cookie", cookie(token))])).status == 200


async def test_signing_in_after_a_response_that_was_cancelled() -> None:
    """Another response goes out, and what was loaded since doesn't go along to who signs in."""
    at, stored = Setting(), asyncio.Event()
    token = await at.begin({"user_id": "alice"})

    async def committed(expected: bytes | None, result: Commit) -> None:
        at.store.committed = None
        stored.set()
        await asyncio.Event().wait()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]
        session["a"] = 1
        at.store.committed = committed
        await send(START)
        first = asyncio.ensure_future(send(BODY))
        await stored.wait()
        first.cancel()
        await asyncio.wait([first])
        await at.put(token, {"alices": [1]})
        await session.refresh()
        session["mine"] = session["alices"]
        session.sign_in("bob")
        await send({**START, "status": 201})
        await send(BODY)

    reply = await send_through(at.manager, app, token=token)
    assert (reply.status, reply.kinds) == (201, [START["type"], BODY["type"]])
    assert await at.data(reply.token.value) == {"a": 1, "user_id": "bob"}


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), ReplicationError("too few")])
def test_headers_of_an_error_are_its_own(error: SessionError) -> None:
    """An application's handler may add to them, and no other answer has that."""
    one, other = as_http(error), as_http(error)
    assert isinstance(one, HTTPException)
    assert isinstance(other, HTTPException)
    assert isinstance(one.headers, dict)
    one.headers["x-request-id"] = "1"
    assert other.headers == {"Retry-After": "1", "Cache-Control": "no-store"}
