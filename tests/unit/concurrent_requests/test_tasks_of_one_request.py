"""Tasks of one request take turns with its session, also with the commit of a plain change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redis_sessions import Commit, Session, SessionError, StoreUnavailableError
from redis_sessions.lifecycle.loading import unloaded
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import Outcome
from tests.unit.setting import DAY, Setting, token_of


class Held(Setting):
    """The answer to the first change waits until it is let go, or is an error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.stored, self.go_on = asyncio.Event(), asyncio.Event()
        self.results = list[Commit]()
        self.error: Exception | None = None
        self.store.committed = self.committed

    async def committed(self, expected: bytes | None, result: Commit) -> None:
        self.results.append(result)
        if expected is not None and not self.stored.is_set():
            self.stored.set()
            await self.go_on.wait()
            if self.error is not None:
                raise self.error

    async def changing(self) -> tuple[str, Session, asyncio.Task[Any]]:
        """A token, its session, and the commit of its change, which is on its way."""
        token = await self.begin({"x": 0})
        session = await self.load(token)
        session["a"] = 1
        task = asyncio.create_task(self.commit(session))
        await self.stored.wait()
        return token, session, task

    def go_on_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self.go_on.set)  # once the second task has begun


def save(at: Held, session: Session) -> Awaitable[object]:
    session["b"] = 2
    return session.save()


def refresh(at: Held, session: Session) -> Awaitable[object]:
    return session.refresh()


def update(at: Held, session: Session) -> Awaitable[object]:
    return at.manager.update(session, lambda data: data.update(b=2))


Act = Callable[[Held, Session], Awaitable[object]]


@pytest.mark.parametrize(
    ("act", "after"),
    [
        (save, {"x": 0, "a": 1, "b": 2}),
        (refresh, {"x": 0, "a": 1}),
        (update, {"x": 0, "a": 1, "b": 2}),
    ],
)
async def test_wait_for_a_plain_change(act: Act, after: dict[str, int]) -> None:
    """What comes meanwhile finds it stored: no request conflicts with itself."""
    at = Held(on_conflict="error")
    token, session, committing = await at.changing()
    acting = asyncio.ensure_future(act(at, session))
    at.go_on_soon()
    await asyncio.gather(committing, acting)
    assert at.results == [Commit.STORED] * len(at.results)
    assert await at.data(token) == dict(session) == after
    await session.refresh()  # whose turn it is now


async def test_change_that_fails_gives_its_turn_up() -> None:
    """Where its outcome is unknown, the next one finds out: the change is stored once."""
    at = Held()
    at.error = StoreUnavailableError("the reply was lost")
    token, session, committing = await at.changing()
    acting = asyncio.ensure_future(save(at, session))
    at.go_on_soon()
    with pytest.raises(StoreUnavailableError, match="the reply was lost"):
        await committing
    await acting
    assert await at.data(token) == dict(session) == {"x": 0, "a": 1, "b": 2}


async def test_change_that_is_cancelled_gives_its_turn_up() -> None:
    """A request that was cancelled holds nobody up; what it wrote is written."""
    at = Held()
    token, session, committing = await at.changing()
    acting = asyncio.ensure_future(save(at, session))
    asyncio.get_running_loop().call_soon(committing.cancel)
    with pytest.raises(asyncio.CancelledError):
        await committing
    await acting
    assert await at.data(token) == dict(session) == {"x": 0, "a": 1, "b": 2}
    await session.refresh()  # whose turn it is now


async def test_waiting_for_a_turn_may_be_cancelled() -> None:
    """The commit that it waited for goes on."""
    at = Held()
    token, session, committing = await at.changing()
    waiting = asyncio.ensure_future(save(at, session))
    asyncio.get_running_loop().call_soon(waiting.cancel)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not committing.done()
    at.go_on.set()
    await committing
    assert await at.data(token) == {"x": 0, "a": 1}


async def test_waiting_for_a_turn_is_not_the_stores_time() -> None:
    """A commit's deadline counts from when it begins to write."""
    at = Held(deadline=0.05)
    token = await at.begin({"x": 0})
    session = await at.load(token)
    session["a"] = 1
    saving = asyncio.create_task(session.save())
    await at.stored.wait()
    session["b"] = 2
    committing = asyncio.create_task(at.commit(session))
    asyncio.get_running_loop().call_later(0.1, at.go_on.set)
    await asyncio.gather(saving, committing)
    assert await at.data(token) == {"x": 0, "a": 1, "b": 2}


def remember(session: Session) -> None:
    session.expire_in(100 * DAY)


@pytest.mark.parametrize(
    ("wish", "outcome"),
    [
        (Session.rotate, Outcome.ROTATE),
        (Session.authenticated, Outcome.REAUTHENTICATE),
        (remember, Outcome.ROTATE),
        (Session.clear, Outcome.CLEAR),
    ],
)
async def test_wishes_during_a_save(wish: Callable[[Session], None], outcome: Outcome) -> None:
    """What a task asks for while another one saves is left for the response."""
    at = Held()
    token = await at.begin({"user_id": "A"})
    session = await at.load(token)
    session["a"] = 1
    saving = asyncio.create_task(session.save())
    await at.stored.wait()
    wish(session)
    at.go_on.set()
    await saving
    assert (await at.commit(session)).outcome is outcome
    assert await at.data(token) == {}


async def test_clear_during_a_refresh() -> None:
    """What others stored in the session that ended doesn't show in the one that comes after."""
    at = Setting()
    token = await at.begin({"x": 0})
    session = await at.load(token)
    await at.put(token, {"others": 1})

    async def cleared() -> None:
        session.clear()

    at.store.loaded = cleared
    await session.refresh()
    assert session == {}
    session["y"] = 1
    answer = await at.commit(session)
    assert await at.data(token_of(answer)) == {"y": 1}


async def test_signing_in_during_a_refresh() -> None:
    """No request crosses itself: what is loaded is compared with what there was before."""
    at = Setting()
    session = await at.load(await at.begin({"x": 0}))

    async def signed_in() -> None:
        session["user_id"] = "A"

    at.store.loaded = signed_in
    await session.refresh()
    at.store.loaded = None
    assert (await at.commit(session)).outcome is Outcome.GAIN


async def test_two_first_loads() -> None:
    """A session that isn't loaded yet is loaded once: what a task then changes stays."""
    at, began, answers = Setting(), asyncio.Event(), [asyncio.Event(), asyncio.Event()]
    session = unloaded(
        backend_of(at.manager), [await at.begin({"x": 0})], SessionError("not loaded yet")
    )
    waiting = iter(answers)

    async def loaded() -> None:
        began.set()
        await next(waiting).wait()

    at.store.loaded = loaded
    first = asyncio.create_task(session.refresh())
    await began.wait()
    second = asyncio.create_task(session.refresh())
    asyncio.get_running_loop().call_soon(answers[0].set)  # once the second task has begun
    await first
    session["y"] = 1
    answers[1].set()
    await second
    assert dict(session) == {"x": 0, "y": 1}
