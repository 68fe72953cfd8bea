"""What a request does to its session after its response has started, or before it fails."""

from __future__ import annotations

from operator import methodcaller
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from redis_sessions import Session, SessionError, StoreUnavailableError
from tests.unit.edge.edge import BODY, Act, Edge, setting, sign_out, start


def late(act: Act, first: Act = len) -> Any:
    """An application that does the one before its response, and the other after it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        first(scope["session"])
        await send(start())
        await send(BODY)
        act(scope["session"])

    return app


async def test_a_late_change_is_stored(at: Edge) -> None:
    """On top of what the response has stored, when the application returns."""
    token = await at.begin({"x": 1})
    await at.serve(late(setting(z=3), setting(y=2)), token)
    assert (at.types, at.token) == (["start", "body"], None)
    assert await at.data(token) == {"x": 1, "y": 2, "z": 3}


async def test_a_late_change_of_a_session_that_began(at: Edge) -> None:
    """Its token has gone out, so it can be stored."""
    await at.serve(late(setting(z=3), setting(y=2)))
    assert await at.data(at.token) == {"y": 2, "z": 3}


async def test_a_late_change_of_an_ended_response(at: Edge) -> None:
    """The status of the response counts for it, too: of a 500 no data are stored."""
    token = await at.begin({"x": 1})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(status=500))
        await send(BODY)
        scope["session"]["x"] = 2

    await at.serve(app, token)
    assert await at.data(token) == {"x": 1}


@pytest.mark.parametrize("act", [Session.clear, sign_out], ids=["clear", "sign out"])
async def test_a_late_end(at: Edge, act: Act) -> None:
    """It ends the session; the browser can't be told, and begins anew with its next request."""
    token = await at.begin({"user_id": "alice"})
    await at.serve(late(act), token)
    assert (at.types, at.token) == (["start", "body"], None)
    assert await at.data(token) == {}
    await at.serve(late(len, setting(x=1)), token)
    assert at.token is not None


@pytest.mark.parametrize(
    "act",
    [setting(user_id="alice"), Session.rotate, methodcaller("expire_in", 90 * 86400)],
    ids=["sign in", "rotate", "remember me"],
)
async def test_a_late_token(at: Edge, act: Act) -> None:
    """The browser could never learn it: an error says so, and the session stays as it is."""
    token = await at.begin({"x": 1})
    with pytest.raises(SessionError, match="the response has started"):
        await at.serve(late(act), token)
    assert (at.types, at.token) == (["start", "body"], None)
    assert await at.data(token) == {"x": 1}


async def test_a_late_session(at: Edge) -> None:
    """The same where there was none."""
    with pytest.raises(SessionError, match="the response has started"):
        await at.serve(late(setting(x=1)))
    assert len(at.away) == 0


async def test_a_store_that_is_away_later(at: Edge) -> None:
    """The response is out, so the error is the server's to log."""
    token = await at.begin({"x": 1})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(BODY)
        at.away.away = True
        scope["session"]["x"] = 2

    with pytest.raises(StoreUnavailableError):
        await at.serve(app, token)
    assert at.types == ["start", "body"]


# -- an exception


@pytest.mark.parametrize("when", ["before", "held", "after"])
async def test_an_exception_stores_nothing(at: Edge, when: str) -> None:
    """Neither before the response starts, nor while its start is held, nor later."""
    token = await at.begin({"x": 1})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if when != "before":
            await send(start())
        if when == "after":
            await send(BODY)
        scope["session"].update(x=2, user_id="alice")
        raise KeyError(when)

    with pytest.raises(KeyError):
        await at.serve(app, token)
    assert at.types == (["start", "body"] if when == "after" else [])
    assert await at.data(token) == {"x": 1}


@pytest.mark.parametrize("when", ["before", "held", "after"])
@pytest.mark.parametrize("act", [Session.clear, sign_out], ids=["clear", "sign out"])
async def test_an_exception_undoes_no_end(at: Edge, when: str, act: Act) -> None:
    """Who signed out is signed out, though the response is an error."""
    token = await at.begin({"user_id": "alice"})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if when != "before":
            await send(start())
        if when == "after":
            await send(BODY)
        act(scope["session"])
        raise KeyError(when)

    with pytest.raises(KeyError):
        await at.serve(app, token)
    assert await at.data(token) == {}
    assert at.reported("ended") in (["cleared"], ["signed out"])
    await at.serve(late(len, setting(x=1)), token)
    assert at.token is not None  # its tombstone lets the browser begin anew
