"""With cross_site="allow" another site's request may do all but begin an anonymous session."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from redis_sessions import CookieTransport, HeaderTransport
from redis_sessions.session.session import state_of
from tests.unit.edge.edge import Edge, responding, setting

CROSS = (b"sec-fetch-site", b"cross-site")
POST = {"method": "POST"}


async def serve(at: Edge, *args: Any, **options: Any) -> None:
    await at.serve(*args, cross_site="allow", **options)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
async def test_an_unsafe_request_of_another_site(at: Edge, method: str) -> None:
    """It is dropped and reported: else any page could fill the store, or replace a cookie."""
    await serve(at, responding(setting(x=1)), headers=[CROSS], scope={"method": method})
    assert at.token is None
    assert len(at.away) == 0
    assert at.reported("dropped") == ["no session begins here"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "QUERY"])
async def test_a_safe_request_of_another_site(at: Edge, method: str) -> None:
    """A link leads here from anywhere."""
    await serve(at, responding(setting(x=1)), headers=[CROSS], scope={"method": method})
    assert at.token is not None


@pytest.mark.parametrize("site", [b"same-origin", b"same-site", b"none", None])
async def test_a_request_of_our_own(at: Edge, site: bytes | None) -> None:
    """A form of our own, or a client that doesn't say where it comes from."""
    headers = [] if site is None else [(b"sec-fetch-site", site)]
    await serve(at, responding(setting(x=1)), headers=headers, scope=POST)
    assert at.token is not None


async def test_another_header_of_that_value(at: Edge) -> None:
    """Sec-Fetch-Site alone says it."""
    await serve(at, responding(setting(x=1)), headers=[(b"x-site", b"cross-site")], scope=POST)
    assert at.token is not None


async def test_a_sign_in_from_another_site(at: Edge) -> None:
    """An identity provider posts its answer from its own site."""
    await serve(at, responding(setting(user_id="alice")), headers=[CROSS], scope=POST)
    assert await at.data(at.token) == {"user_id": "alice"}


async def test_a_session_that_is_there(at: Edge) -> None:
    """Is changed as by any other request."""
    token = await at.begin({"x": 1})
    await serve(at, responding(setting(x=2)), token, headers=[CROSS], scope=POST)
    assert (at.token, await at.data(token)) == (None, {"x": 2})


async def test_a_session_that_ends_while_the_response_waits_for_a_save(at: Edge) -> None:
    """Another one doesn't begin in its place, though it lived when the response was sent."""
    token, saving, cleared = await at.begin({"x": 1}), asyncio.Event(), asyncio.Event()

    async def committed(*_: Any) -> None:
        saving.set()
        await cleared.wait()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["session"]

        async def clear_later() -> None:
            while not state_of(session).waiting:  # noqa: ASYNC110 - the response, of this very loop
                await asyncio.sleep(0)
            session.clear()
            session["x"] = 3
            cleared.set()

        session["x"], at.away.committed = 2, committed
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(session.save())
            await saving.wait()
            at.away.committed = None
            tasks.create_task(clear_later())
            await responding()(scope, receive, send)

    await serve(at, app, token, headers=[CROSS], scope=POST)
    assert at.token == "null"
    assert at.reported("dropped") == ["no session begins here"]


@pytest.mark.parametrize(
    ("transport", "begins"),
    [
        (CookieTransport(same_site="none"), True),
        (CookieTransport(same_site="lax"), False),
        (CookieTransport(same_site="strict"), False),
        (HeaderTransport(), False),
    ],
    ids=["none", "lax", "strict", "header"],
)
async def test_the_transport_decides(at: Edge, transport: Any, begins: bool) -> None:
    """SameSite=None says that other sites are to use the session."""
    await serve(at, responding(setting(x=1)), headers=[CROSS], scope=POST, transport=transport)
    assert (len(at.away) == 1) is begins
