"""lazy=True: a session is loaded where somebody asks for it, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import SessionError, SessionMiddleware, get_session
from tests.unit.edge.edge import BODY, Act, Edge, responding, setting, start


async def refreshing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that loads its session, and counts in it."""
    session = get_session(HTTPConnection(scope))
    await session.refresh()
    session["n"] = session.get("n", 0) + 1
    assert scope["session"] is session
    await send(start())
    await send(BODY)


async def test_nobody_asks(at: Edge) -> None:
    """The store isn't asked either, and the response doesn't depend on the session."""
    token = await at.begin({"n": 1})
    at.away.away = True
    await at.serve(responding(id), token, lazy=True)
    assert (at.status, at.header("vary"), at.token) == (200, [], None)
    assert at.reported("unavailable") == []


@pytest.mark.parametrize("act", [len, dict, setting(n=2)], ids=["len", "dict", "update"])
async def test_it_is_used_without_being_loaded(at: Edge, act: Act) -> None:
    """That is a mistake of the application's: an error says what to do."""
    token = await at.begin({"n": 1})
    with pytest.raises(SessionError, match="lazy=True"):
        await at.serve(responding(act), token, lazy=True)
    assert await at.data(token) == {"n": 1}


async def test_it_is_loaded(at: Edge) -> None:
    """From then on it is like any other."""
    token = await at.begin({"n": 1})
    await at.serve(refreshing, token, lazy=True)
    assert (at.header("vary"), at.token) == (["Cookie"], None)
    assert await at.data(token) == {"n": 2}


async def test_an_inner_one_that_is_not_lazy(at: Edge) -> None:
    """Where the same middleware is inside, and isn't lazy, it loads the session."""
    token = await at.begin({"n": 1})
    inner = SessionMiddleware(responding(setting(n=2)), manager=at.manager)
    await at.serve(inner, token, lazy=True)
    assert (at.status, await at.data(token)) == (200, {"n": 2})


async def test_there_is_nothing_to_load(at: Edge) -> None:
    """Without a token an empty session is there at once."""
    seen: list[Any] = []
    at.away.away = True
    await at.serve(responding(lambda session: seen.append(dict(session))), lazy=True)
    assert seen == [{}]
    at.away.away = False
    await at.serve(refreshing, lazy=True)
    assert await at.data(at.token) == {"n": 1}


async def test_the_store_is_away(at: Edge) -> None:
    """Who loads it gets the 503."""
    token = await at.begin({"n": 1})
    at.away.away = True
    await at.serve(refreshing, token, lazy=True)
    assert (at.status, at.header("retry-after"), at.token) == (503, ["1"], None)


async def test_a_token_that_opens_nothing(at: Edge) -> None:
    """Is like none, once that is known."""
    await at.serve(refreshing, "A" * 64, lazy=True)
    assert await at.data(at.token) == {"n": 1}
