"""The session's lock: exclusive()."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from redis_sessions import Session, SessionConflictError, SessionGoneError, get_session
from redis_sessions.lifecycle import exclusive
from redis_sessions.lifecycle.exclusive import MAX_WAITING
from tests.support.apps import app_of, client_of
from tests.unit.setting import Setting, count, token_of


async def add_one(session: Session, **options: Any) -> None:
    async with session.exclusive(**options):
        session["n"] += 1
        await asyncio.sleep(0)  # where another would come between


async def test_exclusive(at: Setting) -> None:
    """Blocks of one session don't interleave; each begins with the newest data and stores."""
    token = await at.begin({"n": 0})
    sessions = await asyncio.gather(*(at.load(token) for _ in range(MAX_WAITING)))
    await asyncio.gather(*(add_one(session) for session in sessions))
    assert await at.data(token) == {"n": MAX_WAITING}


async def test_exclusive_keeps_what_was_changed_before(at: Setting) -> None:
    """Changes that the request made before the block are kept, on top of the newest data."""
    token = await at.begin({"n": 0})
    session = await at.load(token)
    session["mine"] = 1
    await at.manager.update(await at.load(token), count)
    await add_one(session)
    assert await at.data(token) == {"n": 2, "mine": 1}


async def test_a_new_session_needs_no_lock(at: Setting) -> None:
    """Nobody else has a session that isn't stored."""
    session = await at.load(None)
    session["n"] = 0
    await add_one(session)
    assert session == {"n": 1}
    assert await at.data(token_of(await at.commit(session))) == {"n": 1}


async def test_sessions_do_not_wait_for_each_other(at: Setting) -> None:
    """The lock is one session's."""
    one, other = [await at.load(await at.begin({"n": 0})) for _ in range(2)]
    async with one.exclusive(), other.exclusive(timeout=0.01):
        pass


async def test_waiting_has_an_end(at: Setting) -> None:
    """After `timeout` seconds: SessionConflictError, and the block doesn't run."""
    token = await at.begin({"n": 0})
    one, other = [await at.load(token) for _ in range(2)]
    async with one.exclusive():
        with pytest.raises(SessionConflictError, match="locked"):
            await add_one(other, timeout=0.02)
    assert await at.data(token) == {"n": 0}
    await add_one(other)


async def test_too_many_wait(at: Setting) -> None:
    """Where many wait already, the next is told at once; the others get their turn."""
    token = await at.begin({"n": 0})
    first, *others = [await at.load(token) for _ in range(MAX_WAITING + 1)]
    async with first.exclusive():
        tasks = [asyncio.create_task(add_one(session)) for session in others[:-1]]
        await asyncio.sleep(0)
        with pytest.raises(SessionConflictError, match="wait"):
            await add_one(others[-1])
    await asyncio.gather(*tasks)
    await add_one(others[-1])
    assert await at.data(token) == {"n": MAX_WAITING}


async def test_each_session_has_its_share(at: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many sessions are waited for, fewer may wait for each; one always may."""
    monkeypatch.setattr(exclusive, "MAX_WAITING_IN_ALL", 6)
    tokens = [await at.begin({"n": 0}) for _ in range(4)]
    async with AsyncExitStack() as held:
        for token in tokens:
            await held.enter_async_context((await at.load(token)).exclusive())
        tasks = [asyncio.create_task(add_one(await at.load(token))) for token in tokens]
        await asyncio.sleep(0)
        for token in tokens:
            with pytest.raises(SessionConflictError, match="2 requests"):
                await add_one(await at.load(token))
    await asyncio.gather(*tasks)
    assert [await at.data(token) for token in tokens] == [{"n": 1}] * 4


async def test_an_exception_releases_the_lock(at: Setting) -> None:
    """Where the block fails nothing is stored, and the next one needn't wait."""
    token = await at.begin({"n": 0})
    session = await at.load(token)
    with pytest.raises(ZeroDivisionError):
        async with session.exclusive():
            session["n"] = 1 // 0
    await add_one(await at.load(token), timeout=0.01)
    assert await at.data(token) == {"n": 1}


@pytest.mark.parametrize("holds", [False, True], ids=["waiting", "holding"])
async def test_a_cancelled_request_releases_the_lock(at: Setting, holds: bool) -> None:
    """A request that is cancelled while it waits, or while it holds, blocks nobody."""
    token = await at.begin({"n": 0})
    inside, forever = asyncio.Event(), asyncio.Event()

    async def hold(session: Session) -> None:
        async with session.exclusive():
            inside.set()
            await forever.wait()

    for _ in range(MAX_WAITING + 1):  # so many that places which stay taken would be missing
        inside.clear()
        if holds:
            task = asyncio.create_task(hold(await at.load(token)))
            await inside.wait()
            task.cancel()
            await asyncio.wait([task])
        else:
            async with (await at.load(token)).exclusive():
                task = asyncio.create_task(hold(await at.load(token)))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
        assert task.cancelled()
    await add_one(await at.load(token), timeout=0.01)


async def test_a_lock_is_409_over_http(at: Setting) -> None:
    """A request that can't get the lock in time is answered 409, without a cookie."""
    token = await at.begin({"n": 0})

    async def endpoint(request: Request) -> JSONResponse:
        await add_one(get_session(request), timeout=0.01)
        return JSONResponse("done")

    async with client_of(app_of(Route("/", endpoint), manager=at.manager), token) as browser:
        async with (await at.load(token)).exclusive():
            response = await browser.get("/")
        assert response.status_code == 409
        assert "set-cookie" not in response.headers
        assert (await browser.get("/")).json() == "done"


async def test_a_session_that_ended_while_one_waited(at: Setting) -> None:
    """exclusive() on a session that ended: SessionGoneError, and the lock is free."""
    token = await at.begin({"n": 0})
    one, other = [await at.load(token) for _ in range(2)]
    one.clear()
    await at.commit(one)
    with pytest.raises(SessionGoneError):
        await add_one(other)
    assert await at.data(token) == {}
