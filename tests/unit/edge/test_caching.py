"""What caches are told: which responses depend on the session, and which nobody may store."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import CookieTransport, HeaderTransport, Session, get_session
from tests.unit.edge.edge import BODY, Act, Edge, responding, setting, start
from tests.unit.setting import DUE

PUBLIC = (b"cache-control", b"public, max-age=60")


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that asks for the session."""
    get_session(HTTPConnection(scope))
    await send(start())
    await send(BODY)


async def test_vary_where_the_session_was_asked_for(at: Edge) -> None:
    """Although there is none, and nothing comes of it."""
    await at.serve(reading)
    assert at.header("vary") == ["Cookie"]


async def test_vary_where_a_token_opened(at: Edge) -> None:
    """The application may read it from the scope, which nothing notes."""
    await at.serve(responding(), await at.begin({"x": 1}))
    assert at.header("vary") == ["Cookie"]


@pytest.mark.parametrize("act", [setting(x=1), Session.mark_accessed])
async def test_vary_where_a_session_begins(at: Edge, act: Act) -> None:
    """Or where the application says that the response depends on it."""
    await at.serve(responding(act))
    assert at.header("vary") == ["Cookie"]


async def test_vary_where_a_session_ends(at: Edge) -> None:
    """Although none is left."""
    await at.serve(responding(Session.clear), await at.begin({"x": 1}))
    assert (at.token, at.header("vary")) == ("null", ["Cookie"])


@pytest.mark.parametrize("token", [None, "A" * 64, "malformed"])
async def test_no_vary_where_nobody_asked(at: Edge, token: str | None) -> None:
    """A page without a session is one page for all."""
    await at.serve(responding(len, PUBLIC), token)
    assert at.header("vary") == []
    assert at.header("cache-control") == ["public, max-age=60"]


async def test_vary_is_added_to_the_applications(at: Edge) -> None:
    """Its own headers stay, and what it gave us to send stays as it was."""
    headers = [(b"vary", b"Accept"), (b"x-of", b"app")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["x"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(BODY)

    await at.serve(app)
    assert (at.header("vary"), at.header("x-of")) == (["Accept, Cookie"], ["app"])
    assert headers == [(b"vary", b"Accept"), (b"x-of", b"app")]


async def test_vary_names_each_transport(at: Edge) -> None:
    """With several, the response depends on each of their headers."""
    await at.serve(reading, transport=[CookieTransport(), HeaderTransport("X-Token")])
    assert at.header("vary") == ["Cookie, X-Token"]


# -- no-store


@pytest.mark.parametrize(
    "act",
    [Session.clear, Session.rotate, setting(user_id="alice"), setting(user_id="bob")],
    ids=["clear", "rotate", "sign in", "switch"],
)
@pytest.mark.parametrize("name", [b"cache-control", b"Cache-Control", b"CDN-Cache-Control"])
async def test_nobody_stores_a_token(at: Edge, act: Act, name: bytes) -> None:
    """Whenever the cookie is sent or expired; the application's own policy is replaced."""
    token = await at.begin({"x": 1})
    await at.serve(responding(act, (name, b"public, max-age=60")), token)
    assert at.token is not None
    assert at.header("cache-control") == ["no-store"]
    assert at.header("cdn-cache-control") == []
    assert at.reported("cache_control_replaced") == [None]


async def test_a_policy_that_forbids_is_left_alone(at: Edge) -> None:
    """It says what is needed, and is nothing to report."""
    await at.serve(responding(setting(x=1), (b"cache-control", b"private, no-store")))
    assert at.token is not None
    assert at.header("cache-control") == ["private, no-store"]
    assert at.reported("cache_control_replaced") == []


async def test_a_change_without_a_token_may_be_stored(at: Edge) -> None:
    """As the application says: the browser's cookie stays, and so does its policy."""
    token = await at.begin({"x": 1})
    await at.serve(responding(setting(x=2), PUBLIC), token)
    assert (at.token, at.header("cache-control")) == (None, ["public, max-age=60"])
    at.clock.advance(DUE)
    await at.serve(responding(len, PUBLIC), token)  # which is touched
    assert at.reported("touched") == [None]
    assert (at.token, at.header("cache-control")) == (None, ["public, max-age=60"])


async def test_nobody_stores_a_page_of_an_outage(at: Edge) -> None:
    """A page that was made without the session isn't the page of those who have one."""
    token = await at.begin({"x": 1})
    at.away.away = True
    await at.serve(responding(len, PUBLIC), token, on_unavailable="anonymous")
    assert (at.status, at.token, at.header("cache-control")) == (200, None, ["no-store"])
