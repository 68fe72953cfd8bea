"""A WebSocket's session: committed with the answer to its handshake, and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from redis_sessions import (
    SessionConflictError,
    SessionError,
    SessionGoneError,
    StoreUnavailableError,
    get_session,
)
from tests.unit.edge.edge import Act, Edge, setting

ACCEPT: Final[Message] = {"type": "websocket.accept"}
CLOSE: Final[Message] = {"type": "websocket.close"}
DENIAL: Final = "websocket.http.response"
SOCKET: Final[Mapping[str, Any]] = {"kind": "websocket"}
DENYING: Final[Mapping[str, Any]] = {**SOCKET, "extensions": {DENIAL: {}}}


def doing(*steps: Message | Act | Exception) -> Any:
    """An application that sends these messages, and does that to its session in between."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step(scope["session"])
            else:
                await send(dict(step))

    return app


def kinds(at: Edge) -> list[str]:
    return [message["type"].removeprefix("websocket.") for message in at.sent]


async def serve(
    at: Edge, app: Any, token: str | None = None, scope: Mapping[str, Any] = SOCKET
) -> None:
    await at.serve(app, token, scope=scope)


# -- accepted


async def test_accepting_carries_the_token(at: Edge) -> None:
    """With the application's own headers, and what caches are told."""
    accept = {**ACCEPT, "subprotocol": "chat", "headers": [(b"x-of", b"app")]}
    await serve(at, doing(setting(x=1), accept, CLOSE))
    assert kinds(at) == ["accept", "close"]
    assert at.sent[0]["subprotocol"] == "chat"
    assert (at.header("x-of"), at.header("vary")) == (["app"], ["Cookie"])
    assert at.header("cache-control") == ["no-store"]
    assert await at.data(at.token) == {"x": 1}


async def test_accepting_comes_after_the_commit(at: Edge) -> None:
    """Whoever has the handshake's answer finds what was stored."""
    found: list[Any] = []

    async def when_sent(message: Message) -> None:
        if message["type"] == "websocket.accept":
            found.append(await at.data(at.token))

    at.when_sent = when_sent
    await serve(at, doing(setting(x=1), ACCEPT, CLOSE))
    assert found == [{"x": 1}]


async def test_what_changes_later_is_stored_at_the_end(at: Edge) -> None:
    """On top of what the handshake has stored."""
    await serve(at, doing(setting(x=1), ACCEPT, setting(y=2), CLOSE, setting(z=3)))
    assert await at.data(at.token) == {"x": 1, "y": 2, "z": 3}


@pytest.mark.parametrize("stored", [True, False])
async def test_a_late_sign_in(at: Edge, stored: bool, caplog: pytest.LogCaptureFixture) -> None:
    """No token can go out any more: it is closed as by a bug, once, and the log says why."""
    token = await at.begin({"x": 1}) if stored else None
    await serve(at, doing(ACCEPT, setting(user_id="alice")), token)
    assert at.sent[1:] == [{"type": "websocket.close", "code": 1011, "reason": "internal error"}]
    await serve(at, doing(ACCEPT, setting(user_id="alice"), CLOSE), token)
    assert at.sent[1:] == [CLOSE]
    assert caplog.text.count("the response has started") == 2


async def test_a_client_that_leaves(at: Edge) -> None:
    """What was written is stored; the application's exception is the server's to see."""
    token = await at.begin({"x": 1})
    with pytest.raises(WebSocketDisconnect):
        await serve(at, doing(ACCEPT, setting(x=2), WebSocketDisconnect(1001)), token)
    assert await at.data(token) == {"x": 2}


async def test_an_exception_stores_nothing(at: Edge) -> None:
    """But what was ended has ended."""
    token = await at.begin({"user_id": "alice", "x": 1})
    with pytest.raises(KeyError):
        await serve(at, doing(ACCEPT, setting(x=2), KeyError()), token)
    assert await at.data(token) == {"user_id": "alice", "x": 1}
    with pytest.raises(KeyError):
        await serve(at, doing(ACCEPT, lambda session: session.clear(), KeyError()), token)
    assert await at.data(token) == {}


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (StoreUnavailableError("x"), 1013, "try again"),
        (SessionConflictError("x"), 1013, "try again"),
        (SessionGoneError("x"), 1008, "the session has ended"),
        (SessionError("x"), 1011, "internal error"),
        (ExceptionGroup("", [SessionGoneError("x")]), 1008, "the session has ended"),
    ],
    ids=["away", "conflict", "gone", "bug", "group"],
)
async def test_errors_of_ours_close_it(at: Edge, error: Exception, code: int, reason: str) -> None:
    """With a code that says whether to come again; the application's close comes too late."""
    token = await at.begin({"x": 1})
    await serve(at, doing(ACCEPT, setting(x=2), error), token)
    assert at.sent[1:] == [{"type": "websocket.close", "code": code, "reason": reason}]
    assert await at.data(token) == {"x": 1}
    await serve(at, doing(ACCEPT, CLOSE, error), token)
    assert at.sent[1:] == [CLOSE]


# -- closed before it was accepted


async def test_a_close_before_accept(at: Edge) -> None:
    """Which is a 403: what ends has ended, nobody is signed in, and nothing begins."""
    token = await at.begin({"user_id": "alice"})
    await serve(at, doing(lambda session: session.clear(), CLOSE), token)
    assert (at.sent, await at.data(token)) == ([CLOSE], {})
    token = await at.begin({"x": 1})
    await serve(at, doing(setting(user_id="alice"), CLOSE), token)
    assert (at.sent, await at.data(token)) == ([CLOSE], {"x": 1})
    await serve(at, doing(setting(x=2), CLOSE), token)
    assert (at.sent, await at.data(token)) == ([CLOSE], {"x": 2})
    before = len(at.away)
    await serve(at, doing(setting(x=2), CLOSE))
    assert (at.sent, len(at.away)) == ([CLOSE], before)


async def test_such_a_close_comes_after_the_commit(at: Edge) -> None:
    """Whoever hears of it finds the session ended."""
    found: list[Any] = []

    async def when_sent(message: Message) -> None:
        found.append(await at.data(token))

    at.when_sent = when_sent
    token = await at.begin({"user_id": "alice"})
    await serve(at, doing(lambda session: session.clear(), CLOSE), token)
    assert found == [{}]


async def test_a_rotation_before_such_a_close(at: Edge) -> None:
    """The browser couldn't learn the new token: an error says so, and the old one stays."""
    token = await at.begin({"x": 1})
    with pytest.raises(SessionError, match="the response has started"):
        await serve(at, doing(lambda session: session.rotate(), CLOSE), token)
    assert await at.data(token) == {"x": 1}


async def test_a_change_after_such_a_close(at: Edge) -> None:
    """Is stored at the end, as after any response."""
    token = await at.begin({"x": 1})
    await serve(at, doing(CLOSE, setting(x=2)), token)
    assert (at.sent, await at.data(token)) == ([CLOSE], {"x": 2})


# -- denied by a response


async def test_a_denial_carries_the_token(at: Edge) -> None:
    """Its start is held as any response's, and its status decides what counts."""
    start = {"type": f"{DENIAL}.start", "status": 302, "headers": [(b"x-of", b"app")]}
    body = {"type": f"{DENIAL}.body", "body": b""}
    await serve(at, doing(start, setting(x=1), body), scope=DENYING)
    assert kinds(at) == ["http.response.start", "http.response.body"]
    assert (at.status, at.header("x-of")) == (302, ["app"])
    assert await at.data(at.token) == {"x": 1}
    await serve(at, doing(setting(user_id="a"), {**start, "status": 401}, body), scope=DENYING)
    assert (at.status, at.token) == (401, None)


# -- the store is away


async def touching(scope: Scope, receive: Receive, send: Send) -> None:
    scope["session"]["x"] = 2


@pytest.mark.parametrize("scope", [SOCKET, DENYING], ids=["close", "deny"])
async def test_away_before_it_is_accepted(at: Edge, scope: Mapping[str, Any]) -> None:
    """A 503 where the server can deny with a response; else a close that says: try again."""
    token = await at.begin({"x": 1})
    at.away.away = True
    await serve(at, touching, token, scope=scope)
    if scope is SOCKET:
        assert at.sent == [{"type": "websocket.close", "code": 1013, "reason": "try again"}]
    else:
        assert kinds(at) == ["http.response.start", "http.response.body"]
        assert (at.status, at.header("retry-after"), at.token) == (503, ["1"], None)


async def test_away_and_untouched(at: Edge) -> None:
    """A socket that doesn't touch its session is accepted, and served to its end."""
    token = await at.begin({"x": 1})
    at.away.away = True
    await serve(at, doing(ACCEPT, CLOSE), token)
    assert kinds(at) == ["accept", "close"]


async def test_away_when_it_is_accepted(at: Edge) -> None:
    """The commit fails, so that it isn't accepted."""
    token = await at.begin({"x": 1})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["x"] = 2
        at.away.away = True
        await send(ACCEPT)

    await serve(at, app, token)
    assert at.sent == [{"type": "websocket.close", "code": 1013, "reason": "try again"}]
    await serve(at, app, token, scope=DENYING)
    assert at.status == 503


async def test_away_after_it_was_accepted(at: Edge) -> None:
    """It is closed, also where the server could have denied it."""
    token = await at.begin({"x": 1})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        at.away.away = True
        scope["session"]["x"] = 2
        await get_session(HTTPConnection(scope)).save()

    await serve(at, app, token, scope=DENYING)
    assert at.sent[1:] == [{"type": "websocket.close", "code": 1013, "reason": "try again"}]
