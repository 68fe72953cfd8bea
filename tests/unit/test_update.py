"""Read-modify-write: update() runs a function on the newest data."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from redis_sessions import SessionEncodeError, SessionError, SessionGoneError, get_session
from redis_sessions.session.outcome import Outcome
from tests.support.apps import app_of, client_of
from tests.unit.setting import DAY, Setting, count, token_of


async def test_counting(at: Setting) -> None:
    """update() stores at once, returns what the function returns, and shows it in the session."""
    token = await at.begin({"n": 1})
    session = await at.load(token)
    assert await at.manager.update(session, count) == 2
    assert session == {"n": 2}
    assert await at.data(token) == {"n": 2}
    assert (await at.commit(session)).outcome is Outcome.NOTHING


async def test_counting_at_once(at: Setting) -> None:
    """64 requests that loaded the same session: each increment counts."""
    token = await at.begin({"n": 0})
    sessions = await asyncio.gather(*(at.load(token) for _ in range(64)))
    results = await asyncio.gather(*(at.manager.update(s, count) for s in sessions))
    assert sorted(results) == list(range(1, 65))
    assert await at.data(token) == {"n": 64}


async def test_a_one_time_value(at: Setting) -> None:
    """Of many requests that take a value one gets it."""
    token = await at.begin({"otp": "123456"})
    sessions = await asyncio.gather(*(at.load(token) for _ in range(16)))
    taken = await asyncio.gather(
        *(at.manager.update(s, lambda data: str(data.pop("otp", ""))) for s in sessions)
    )
    assert sorted(taken) == [""] * 15 + ["123456"]
    assert await at.data(token) == {}


async def test_local_changes_stay(at: Setting) -> None:
    """What the request changed itself is neither stored by update() nor lost."""
    token = await at.begin({"n": 0, "gone": 1})
    session = await at.load(token)
    session["mine"] = [1]
    del session["gone"]
    await at.manager.update(session, count)
    assert session == {"n": 1, "mine": [1]}
    assert await at.data(token) == {"n": 1, "gone": 1}
    session["mine"].append(2)
    await at.commit(session)
    assert await at.data(token) == {"n": 1, "mine": [1, 2]}


async def test_what_the_handler_holds_stays_the_same(at: Setting) -> None:
    """A nested value that the handler holds is still the session's after an update()."""
    token = await at.begin({"n": 0, "cart": []})
    session = await at.load(token)
    cart = session["cart"]
    await at.manager.update(session, count)
    cart.append("tea")
    await at.commit(session)
    assert await at.data(token) == {"n": 1, "cart": ["tea"]}


@pytest.mark.parametrize("data", [{"n": 0}, {"n": 0, "user_id": "alice"}])
async def test_signing_in_or_out_is_refused(at: Setting, data: dict[str, Any]) -> None:
    """The principal isn't update()'s to change: nothing is stored."""
    token = await at.begin(data)
    session = await at.load(token)

    def function(data: dict[str, Any]) -> None:
        data["n"] = 1
        if data.pop("user_id", None) is None:
            data["user_id"] = "alice"

    with pytest.raises(SessionError, match="sign in or out"):
        await at.manager.update(session, function)
    assert await at.data(token) == data


async def test_a_gone_session(at: Setting) -> None:
    """Ended or rotated elsewhere: SessionGoneError, and nothing comes back."""
    for how in ("clear", "rotate"):
        token = await at.begin({"n": 0})
        session, other = await at.load(token), await at.load(token)
        getattr(other, how)()
        answer = await at.commit(other)
        with pytest.raises(SessionGoneError):
            await at.manager.update(session, count)
        with pytest.raises(SessionGoneError):  # it stays so
            await at.manager.update(session, count)
        assert await at.data(token) == {}
        newer = answer.token.value if answer.token else None
        assert await at.data(newer) == ({} if how == "clear" else {"n": 0})
        assert (await at.commit(session)).token is None


async def test_a_session_that_is_not_stored(at: Setting) -> None:
    """A new session, or one after clear(): the function is applied, the response stores it."""
    session = await at.load(None)
    assert await at.manager.update(session, count) == 1
    token = token_of(await at.commit(session))
    assert await at.data(token) == {"n": 1}
    session = await at.load(token)
    session.clear()
    assert await at.manager.update(session, count) == 1
    assert await at.data(token_of(await at.commit(session))) == {"n": 1}


async def test_a_function_that_fails(at: Setting) -> None:
    """Its exception goes through, and nothing is stored; what can't be stored is named."""
    token = await at.begin({"n": 0})
    session = await at.load(token)
    with pytest.raises(ZeroDivisionError):
        await at.manager.update(session, lambda data: data.update(n=1 // 0))
    with pytest.raises(SessionEncodeError, match="odd"):
        await at.manager.update(session, lambda data: data.update(odd=object()))
    with pytest.raises(SessionEncodeError):
        await at.manager.update(session, lambda data: data.update(big="x" * 100_000))
    assert session == await at.data(token) == {"n": 0}


async def test_a_longer_life_beside_an_update(at: Setting) -> None:
    """expire_in() and update() in one request: the longer cookie goes out all the same."""
    token = await at.begin({"user_id": "alice"})
    at.clock.advance(10)
    session = await at.load(token)
    session.expire_in(30 * DAY, persistent=True)
    await at.manager.update(session, count)
    answer = await at.commit(session)
    assert (answer.token is not None, answer.max_age) == (True, 30 * DAY)


async def test_an_update_renews_the_time(at: Setting) -> None:
    """When a touch is due, update() renews the session as any change does."""
    token = await at.begin({"n": 0})
    for _ in range(4):
        at.clock.advance(3 * DAY)
        await at.manager.update(await at.load(token), count)
    assert await at.data(token) == {"n": 4}


async def test_an_unloaded_session(at: Setting) -> None:
    """lazy=True: update() of a session that isn't loaded says so, and how to load it."""
    token = await at.begin({"n": 0})
    caught: list[SessionError] = []

    async def endpoint(request: Request) -> JSONResponse:
        session = get_session(request)
        with pytest.raises(SessionError) as raised:
            await at.manager.update(session, count)
        caught.append(raised.value)
        await session.refresh()
        return JSONResponse(await at.manager.update(session, count))

    app = app_of(Route("/", endpoint), manager=at.manager, lazy=True)
    async with client_of(app, token) as browser:
        assert (await browser.get("/")).json() == 1
    assert "isn't loaded" in str(caught[0])
    assert not isinstance(caught[0], SessionEncodeError)


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("how", ["update", "exclusive", "refresh", "save"])
async def test_gone_is_409_over_http(at: Setting, how: str, mounted: bool) -> None:
    """What is awaited on a session that ended becomes a 409, inside a mounted application too."""
    token = await at.begin({"n": 0})

    async def endpoint(request: Request) -> JSONResponse:
        session = get_session(request)
        other = await at.load(token)
        other.clear()
        await at.commit(other)
        session["n"] = 7
        match how:
            case "update":
                await at.manager.update(session, count)
            case "exclusive":
                async with session.exclusive():
                    pass
            case _:
                await getattr(session, how)()
        return JSONResponse("done")

    routes = [Route("/x", endpoint)]
    inner = [Mount("/m", Starlette(routes=routes))] if mounted else routes
    async with client_of(app_of(*inner, manager=at.manager), token, raises=False) as browser:
        assert (await browser.get("/m/x" if mounted else "/x")).status_code == 409
