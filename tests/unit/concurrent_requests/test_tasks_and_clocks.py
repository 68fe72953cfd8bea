"""What tasks that share a session, repeated commits and clocks may not do to it."""

from __future__ import annotations

import asyncio

import pytest

from redis_sessions import (
    Answer,
    Commit,
    Keyring,
    Session,
    SessionManager,
)
from redis_sessions.session.outcome import Outcome
from redis_sessions.testing import Clock
from tests.unit.setting import DAY, KEY, Setting, token_of

# -- tasks that share a session


async def test_two_saves_at_once(at: Setting) -> None:
    """Two tasks that save one session at once lose nothing of another request's."""
    token = await at.begin({"x": 0})
    session = await at.load(token)
    await at.put(token, {"other": 1})
    merged, go_on = asyncio.Event(), asyncio.Event()
    results = list[Commit]()

    async def committed(expected: bytes | None, result: Commit) -> None:
        results.append(result)
        if len(results) == 2:  # the first task's merge is stored, and its answer on its way
            merged.set()
            await go_on.wait()
        elif len(results) == 3:  # the second task learns what it met after the first is done
            await asyncio.wait([one])

    at.store.committed = committed
    session["a"] = 1
    one = asyncio.create_task(session.save())
    await merged.wait()
    session["b"] = 2
    two = asyncio.create_task(session.save())
    asyncio.get_running_loop().call_soon(go_on.set)  # once the second task has begun
    await asyncio.gather(one, two)
    assert await at.data(token) == dict(session) == {"x": 0, "other": 1, "a": 1, "b": 2}
    assert results == [Commit.CONFLICT, Commit.STORED, Commit.STORED]


async def test_save_during_refresh(at: Setting) -> None:
    """A save() while a refresh() is under way takes nothing back, and loses nothing."""
    token = await at.begin({"x": 0})
    session = await at.load(token)
    read, go_on = asyncio.Event(), asyncio.Event()

    async def loaded() -> None:
        at.store.loaded = None
        read.set()
        await go_on.wait()

    at.store.loaded = loaded
    refreshing = asyncio.create_task(session.refresh())
    await read.wait()
    await at.put(token, {"other": 1})
    session["a"] = 1
    saving = asyncio.create_task(session.save())
    # Were save() not to wait for its turn, it would be done before refresh() goes on.
    asyncio.get_running_loop().call_soon(go_on.set)
    await asyncio.gather(refreshing, saving)
    assert await at.data(token) == dict(session) == {"x": 0, "other": 1, "a": 1}
    session["b"] = 2
    await at.commit(session)
    assert await at.data(token) == {"x": 0, "other": 1, "a": 1, "b": 2}


async def test_refresh_during_save(at: Setting) -> None:
    """A refresh() while a save() is under way loses nothing of either."""
    token = await at.begin({"x": 0})
    session = await at.load(token)
    await at.put(token, {"other": 1})
    stored, go_on = asyncio.Event(), asyncio.Event()

    async def committed(expected: bytes | None, result: Commit) -> None:
        if result is Commit.STORED:
            at.store.committed = None
            stored.set()
            await go_on.wait()

    at.store.committed = committed
    session["a"] = 1
    saving = asyncio.create_task(session.save())
    await stored.wait()
    await at.put(token, {"later": 2})
    refreshing = asyncio.create_task(session.refresh())
    asyncio.get_running_loop().call_soon(go_on.set)
    await asyncio.gather(saving, refreshing)
    assert await at.data(token) == dict(session) == {"x": 0, "other": 1, "a": 1, "later": 2}
    session["b"] = 2
    await at.commit(session)
    assert await at.data(token) == {"x": 0, "other": 1, "a": 1, "later": 2, "b": 2}


# -- several commits in one request


async def test_change_back_after_refresh(at: Setting) -> None:
    """A change back to what this request saved before, over another's, is stored."""
    token = await at.begin({"n": 0})
    session = await at.load(token)
    session["n"] = 1
    await session.save()
    await at.put(token, {"n": 2})
    await session.refresh()
    assert session["n"] == 2
    session["n"] = 1
    assert await at.commit(session) == Answer(Outcome.CHANGE)
    assert await at.data(token) == {"n": 1}


async def test_wished_lifetime_of_a_new_session(at: Setting) -> None:
    """expire_in() before a save() that waits for the response holds at the sign-in."""
    session = await at.load(None)
    session.expire_in(30 * DAY, persistent=True)
    await session.save()
    session["user_id"] = "A"
    answer = await at.commit(session)
    assert (answer.outcome, answer.max_age) == (Outcome.GAIN, 30 * DAY)
    at.clock.advance(29 * DAY)
    assert await at.data(token_of(answer)) == {"user_id": "A"}


async def test_late_sign_out_that_leaves_data(at: Setting) -> None:
    """save() of a late sign-out signs out, and isn't an error, though data are left."""
    token = await at.begin({"user_id": "A", "x": 1})

    async def sign_out(session: Session) -> None:
        del session["user_id"]
        await session.save()
        assert dict(session) == {}

    assert (await at.request(sign_out, token, late=True)).error is None
    assert at.reported("ended") == ["signed out"]
    assert at.reported("dropped") == ["signed out late"]
    assert await at.data(token) == {}


async def test_double_sign_in(at: Setting) -> None:
    """The later of two sign-ins from one anonymous session doesn't report its end again."""
    token = await at.begin({"x": 1})
    one, two = await at.load(token), await at.load(token)
    one["user_id"] = two["user_id"] = "A"
    await at.commit(one)
    await at.commit(two)
    assert at.reported("ended") == ["signed in"]


# -- time


@pytest.mark.parametrize("why", ["conflict", "refused"])
async def test_busy_socket_after_a_failed_touch(why: str) -> None:
    """A socket that saves changes regularly stays alive, though a touch of its failed once."""
    at = Setting(idle_timeout=1800)
    token = await at.begin({"user_id": "A", "n": 0})

    async def work(socket: Session) -> None:
        at.clock.advance(200)
        if why == "conflict":
            assert await at.commit(await at.load(token)) == Answer(Outcome.TOUCH)
        at.store.failing = {"commit"} if why == "refused" else set()
        await socket.save()
        at.store.failing = set()
        for n in range(1, 15):
            at.clock.advance(200)
            socket["n"] = n
            await socket.save()

    assert (await at.request(work, token, late=True)).error is None
    assert await at.data(token) == {"user_id": "A", "n": 14}


@pytest.mark.parametrize("ahead", [40, -40])
async def test_tombstone_under_clocks_that_differ(at: Setting, ahead: int) -> None:
    """A tombstone counts on a server whose clock differs by more than the tombstone lives."""
    other = SessionManager(at.store, Keyring(KEY), clock=Clock(at.clock.now + ahead))
    token = await at.begin({"user_id": "A"})
    leaving = await at.load(token)
    del leaving["user_id"]
    await at.commit(leaving)
    late = await other.load(token)
    late["x"] = 1
    assert await other.commit(late) == Answer(Outcome.DROP)
