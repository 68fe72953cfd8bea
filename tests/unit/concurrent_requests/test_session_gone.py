"""What a request may still do after a save() or refresh() that found its session gone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from redis_sessions import Answer, Session, SessionGoneError, SessionMiddleware
from redis_sessions.session.outcome import Outcome
from tests.unit.concurrent_requests.principals import either
from tests.unit.setting import Setting, token_of


@dataclass
class Gone:
    """A session of A's that was found gone, and the token under which it lives on, if it does."""

    session: Session
    elsewhere: str | None


@pytest.fixture(params=["save", "refresh"])
def first(request: pytest.FixtureRequest) -> str:
    """What raises SessionGoneError first."""
    name: str = request.param
    return name


async def found_gone(
    at: Setting, first: str, *, rotated: bool, data: Mapping[str, Any] | None = None
) -> Gone:
    token = await at.begin({"user_id": "A", "x": 1} if data is None else data)
    session, other = await at.load(token), await at.load(token)
    if rotated:
        other.rotate()
    else:
        other.clear()
    answer = await at.commit(other)
    session["x"] = 2
    with pytest.raises(SessionGoneError):
        await getattr(session, first)()
    at.events.clear()
    return Gone(session, token_of(answer) if rotated else None)


async def test_clear_after_a_rotation(at: Setting, first: str) -> None:
    """clear() signs out though save() or refresh() has found the session rotated."""
    gone = await found_gone(at, first, rotated=True)
    gone.session.clear()
    assert await at.commit(gone.session) == Answer(Outcome.CLEAR, expire=True)
    assert at.reported("ended") == ["cleared"]
    assert await at.data(gone.elsewhere) == {}


async def test_clear_after_an_end(at: Setting, first: str) -> None:
    """clear() of a session that another request has ended leaves the browser to that request."""
    gone = await found_gone(at, first, rotated=False)
    gone.session.clear()
    assert await at.commit(gone.session) == Answer(Outcome.NOTHING)
    assert at.reported("ended") == []


async def test_removed_principal_after_a_rotation(at: Setting, first: str) -> None:
    """Removing the principal signs out though save() or refresh() has found it rotated."""
    gone = await found_gone(at, first, rotated=True)
    del gone.session["user_id"]
    answer = await at.commit(gone.session)
    assert answer.outcome is Outcome.LOSE
    left = await at.load(token_of(answer))
    assert (dict(left), left.principal) == ({"x": 2}, None)
    assert at.reported("ended") == ["signed out"]
    assert await at.data(gone.elsewhere) == {}


async def test_removed_principal_after_an_end(at: Setting, first: str) -> None:
    """Removing the principal of what another request has ended keeps nothing."""
    gone = await found_gone(at, first, rotated=False)
    del gone.session["user_id"]
    assert await at.commit(gone.session) == Answer(Outcome.DROP)
    assert at.reported("dropped") == ["ended elsewhere"]
    assert at.reported("created") == []


@pytest.mark.parametrize("rotated", [True, False], ids=["rotated", "ended"])
@pytest.mark.parametrize(
    ("principal", "data"),
    [
        ("user_id", {"user_id": "A"}),
        ("user.sub", {"user": {"sub": "A"}}),
        (either, {"user": "A"}),
    ],
    ids=["key", "path", "callable"],
)
async def test_authenticated_after_gone(
    principal: Any, data: dict[str, Any], first: str, rotated: bool
) -> None:
    """Who proves who they are in a session that was found gone is signed in to a new one."""
    at = Setting(principal=principal)
    gone = await found_gone(at, first, rotated=rotated, data=data)
    gone.session.authenticated()
    answer = await at.commit(gone.session)
    assert answer.outcome is Outcome.GAIN
    new = await at.load(token_of(answer))
    assert new.authenticated_at is not None
    assert (dict(new), new.principal) == ({**data, "x": 2}, "A")
    assert await at.data(gone.elsewhere) == ({**data} if rotated else {})


@pytest.mark.parametrize("rotated", [True, False], ids=["rotated", "ended"])
async def test_somebody_else_after_gone(at: Setting, first: str, rotated: bool) -> None:
    """A sign-in of another over a session that was found gone ends it, wherever it lives on."""
    gone = await found_gone(at, first, rotated=rotated)
    gone.session["user_id"] = "B"
    answer = await at.commit(gone.session)
    assert answer.outcome is Outcome.SWITCH
    assert await at.data(token_of(answer)) == {"user_id": "B", "x": 2}
    assert await at.data(gone.elsewhere) == {}


@pytest.mark.parametrize("rotated", [True, False], ids=["rotated", "ended"])
async def test_gone_stays_gone(at: Setting, first: str, rotated: bool) -> None:
    """Each further save() of changes and each refresh() of a session found gone says so again."""
    gone = await found_gone(at, first, rotated=rotated)
    with pytest.raises(SessionGoneError):
        await gone.session.refresh()
    with pytest.raises(SessionGoneError):
        await gone.session.save()
    with pytest.raises(SessionGoneError):
        await gone.session.refresh()
    assert at.reported("created") == []


async def test_sign_out_page_after_a_rotation(at: Setting) -> None:
    """A browser whose sign-out crossed a rotation, and whose page saves first, is signed out."""
    arrived, rotated = asyncio.Event(), asyncio.Event()

    async def login(request: Request) -> PlainTextResponse:
        request.session["user_id"] = "A"
        return PlainTextResponse("in")

    async def rotate(request: Request) -> PlainTextResponse:
        session = request.session
        assert isinstance(session, Session)
        session.rotate()
        return PlainTextResponse("rotated")

    async def me(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.session.get("user_id")))

    async def logout(request: Request) -> PlainTextResponse:
        session = request.session
        assert isinstance(session, Session)
        arrived.set()
        await rotated.wait()
        session["last_seen"] = "logout page"
        with pytest.raises(SessionGoneError):
            await session.save()
        session.clear()
        return PlainTextResponse("out")

    app = Starlette(
        routes=[Route(f"/{page.__name__}", page) for page in (login, rotate, me, logout)]
    )
    app.add_middleware(SessionMiddleware, manager=at.manager)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://testserver") as browser:
        await browser.get("/login")
        leaving = asyncio.create_task(browser.get("/logout"))
        await arrived.wait()
        assert (await browser.get("/rotate")).text == "rotated"
        rotated.set()
        assert "=null;" in (await leaving).headers["set-cookie"]
        assert (await browser.get("/me")).text == "None"
    assert at.reported("ended") == ["cleared"]
