"""A store that is away: who is served all the same, and what the others are answered."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter, methodcaller
from typing import Any, Literal

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import (
    ConfigurationError,
    ReplicationError,
    SessionConflictError,
    SessionGoneError,
    StoreUnavailableError,
    get_session,
)
from tests.unit.edge.edge import BODY, Act, Edge, responding, setting, sign_out, start

Choice = Literal["error", "anonymous"]


def always_anonymous(connection: HTTPConnection) -> Choice:
    return "anonymous"


async def away(at: Edge) -> str:
    """A session whose store goes away; its token."""
    token = await at.begin({"x": 1})
    at.away.away = True
    return token


async def test_who_does_not_touch_the_session_is_served(at: Edge) -> None:
    """With the application's own response, which says nothing about the cookie."""
    token = await away(at)
    await at.serve(responding(id, (b"x-of", b"app")), token)
    assert (at.status, at.header("x-of"), at.token) == (200, ["app"], None)
    assert at.reported("unavailable") == ["server"]


@pytest.mark.parametrize(
    "act",
    [len, dict, setting(x=2), methodcaller("clear"), methodcaller("rotate"), attrgetter("id")],
    ids=["len", "dict", "update", "clear", "rotate", "id"],
)
async def test_who_touches_it_gets_a_503(at: Edge, act: Act) -> None:
    """It says when to ask again, isn't stored by caches, and leaves the cookie as it is."""
    token = await away(at)
    await at.serve(responding(act), token)
    assert at.status == 503
    assert at.header("retry-after") == ["1"]
    assert at.header("cache-control") == ["no-store"]
    assert at.header("content-type") == ["text/plain; charset=utf-8"]
    assert at.token is None
    body = at.sent[1]["body"]
    assert body == b"The session store is unavailable"
    assert at.header("content-length") == [str(len(body))]
    assert at.types == ["start", "body"]


async def test_a_sign_out_that_fails_is_tried_once(at: Edge) -> None:
    """The answer is 503, and no further question makes the outage longer for the client."""
    token = await at.begin({"user_id": "alice"})
    before = len(at.away.given)
    at.away.failing = {"commit"}
    await at.serve(responding(sign_out), token)
    assert (at.status, at.token) == (503, None)
    assert len(at.away.given) == before + 1


async def test_what_the_application_sees(at: Edge) -> None:
    """An error with the status for handlers of HTTP exceptions, and its own for ours."""
    token = await away(at)
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for act in (lambda: scope["session"]["x"], scope["session"].refresh):
            try:
                result = act()
                await result
            except StoreUnavailableError as exc:
                seen.append(exc)
        await send(start(status=418))
        await send(BODY)

    await at.serve(app, token)
    assert at.status == 418  # the application has answered it by itself
    assert seen[1].status_code == 503
    assert seen[1].headers == {"Retry-After": "1", "Cache-Control": "no-store"}


async def test_without_a_token_nothing_is_missed(at: Edge) -> None:
    """There is nothing to load, and an empty session is what there is."""
    at.away.away = True
    await at.serve(responding(len))
    assert at.status == 200


async def test_a_first_visit_that_cannot_be_stored(at: Edge) -> None:
    """Its commit fails, and that is the answer."""
    at.away.away = True
    await at.serve(responding(setting(x=1)))
    assert (at.status, at.header("retry-after"), at.token) == (503, ["1"], None)


@pytest.mark.parametrize("choice", ["anonymous", always_anonymous], ids=["word", "callable"])
async def test_anonymous(at: Edge, choice: Any) -> None:
    """An empty session can be read; writing it is the 503."""
    token = await away(at)
    seen: list[dict[str, Any]] = []
    await at.serve(
        responding(lambda session: seen.append(dict(session))), token, on_unavailable=choice
    )
    assert (at.status, at.token, seen) == (200, None, [{}])
    await at.serve(responding(setting(x=2)), token, on_unavailable=choice)
    assert (at.status, at.token) == (503, None)
    assert at.reported("unavailable") == ["server"] * 3  # the last two are of one request
    at.away.away = False
    assert await at.data(token) == {"x": 1}


async def test_each_request_chooses(at: Edge) -> None:
    """By what is known of it."""
    token = await away(at)

    def choice(connection: HTTPConnection) -> Choice:
        return "anonymous" if "x-any" in connection.headers else "error"

    await at.serve(responding(len), token, on_unavailable=choice, headers=[(b"x-any", b"")])
    assert at.status == 200
    await at.serve(responding(len), token, on_unavailable=choice)
    assert at.status == 503


async def test_a_choice_that_is_none(at: Edge) -> None:
    """What a callable returns besides the two is a mistake, and told."""
    token = await away(at)

    def nobody(connection: HTTPConnection) -> Any:
        return "nobody"

    with pytest.raises(ConfigurationError, match="'nobody'"):
        await at.serve(responding(len), token, on_unavailable=nobody)


# -- which errors have an answer


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (StoreUnavailableError("x"), 503, ["1"]),
        (ReplicationError("x"), 503, ["1"]),
        (SessionConflictError("x"), 409, []),
        (SessionGoneError("x"), 409, []),
        (ExceptionGroup("", [ValueError(), SessionConflictError("x")]), 409, []),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_errors_of_ours(at: Edge, error: Exception, status: int, retry: list[str]) -> None:
    """Raised by the application, from what it awaited; nothing else of the request is stored."""
    token = await at.begin({"x": 1})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["x"] = 2
        raise error

    await at.serve(app, token)
    assert (at.status, at.header("retry-after"), at.token) == (status, retry, None)
    assert await at.data(token) == {"x": 1}


async def test_a_placeholder_says_why(at: Edge) -> None:
    """What was wrong, and not the text of the response, also once `refresh()` has failed."""
    token, shown = await away(at), list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(HTTPConnection(scope))
        for _ in range(2):
            shown.append(repr(session))
            with pytest.raises(HTTPException, match="503"):
                await session.refresh()

    await at.serve(app, token)
    assert shown == ["<Session not loaded: load fails, says the test>"] * 2


def _raising(error: Exception) -> Callable[..., object]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["x"] = 2
        raise error

    return app


@pytest.mark.parametrize("error", [ValueError("x"), ConfigurationError("x"), KeyError("x")])
async def test_errors_of_others(at: Edge, error: Exception) -> None:
    """They stay what they are: whoever is outside answers them."""
    token = await at.begin({"x": 1})
    with pytest.raises(type(error)) as raised:
        await at.serve(_raising(error), token)  # type: ignore[arg-type]
    assert raised.value is error
    assert at.sent == []
    assert await at.data(token) == {"x": 1}


async def test_a_conflict(at: Edge) -> None:
    """With on_conflict="error" crossing changes are a 409, and the later one isn't stored."""
    at = Edge(on_conflict="error")
    token = await at.begin({"x": 1})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        other = await at.load(token)
        other["y"] = 1
        await at.commit(other)
        scope["session"]["x"] = 2
        await send(start())
        await send(BODY)

    await at.serve(app, token)
    assert (at.status, at.header("retry-after"), at.token) == (409, [], None)
    assert await at.data(token) == {"x": 1, "y": 1}
