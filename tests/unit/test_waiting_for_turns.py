"""Whoever waits for a turn with a session gets it, however the one before came to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from redis_sessions import (
    Commit,
    Keyring,
    Session,
    SessionManager,
    StoreUnavailableError,
    Written,
)
from tests.support.stores import UnreliableStore
from tests.unit.setting import KEY, Setting

TICKS: Final = 200
"""Steps of the event loop, of which all of these acts together need a few."""


class Slow(UnreliableStore):
    """A store that takes some steps of the loop, and fails when it is told to."""

    fails = False

    async def load(self, id: str) -> bytes | None:
        await asyncio.sleep(0)
        return await super().load(id)

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        for _ in range(3):
            await asyncio.sleep(0)
        if self.fails:
            self.fails = False
            raise StoreUnavailableError("no reply")
        return await super().commit(id, expected, value, ttl)


class Slowly(Setting):
    """A setting with such a store."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = Slow(clock=self.clock)
        self.store = self.slow
        self.manager = SessionManager(self.slow, Keyring(KEY), clock=self.clock)


@pytest.fixture
def at() -> Slowly:
    return Slowly()


def commit(at: Slowly, session: Session) -> Awaitable[object]:
    session["commit"] = 1
    return at.commit(session)


def save(at: Slowly, session: Session) -> Awaitable[object]:
    session["save"] = 1
    return session.save()


def refresh(at: Slowly, session: Session) -> Awaitable[object]:
    return session.refresh()


def update(at: Slowly, session: Session) -> Awaitable[object]:
    return at.manager.update(session, lambda data: data.update(update=1))


Act = Callable[[Slowly, Session], Awaitable[object]]
ACTS: Final[list[Act]] = [commit, save, refresh, update]


async def over(*tasks: asyncio.Future[Any]) -> list[bool]:
    """Which of them are done after so many steps; the others are cancelled."""
    for _ in range(TICKS):
        await asyncio.sleep(0)
    done = [task.done() for task in tasks]
    for task in tasks:
        task.cancel()
    return done


@pytest.mark.parametrize("first", ACTS)
@pytest.mark.parametrize("second", ACTS)
async def test_one_after_the_other(at: Slowly, first: Act, second: Act) -> None:
    """Each comes to its end, and so does one that comes when both are over."""
    token = await at.begin({"x": 1})
    session = await at.load(token)
    tasks = [asyncio.ensure_future(act(at, session)) for act in (first, second, first)]
    assert await over(*tasks) == [True] * 3
    assert all(task.exception() is None for task in tasks)
    assert await over(asyncio.ensure_future(save(at, session))) == [True]
    written = {act.__name__: 1 for act in (first, second, save) if act is not refresh}
    assert await at.data(token) == {"x": 1, **written}


@pytest.mark.parametrize("how", ["failed", "cancelled"])
@pytest.mark.parametrize("first", [commit, save, update])
@pytest.mark.parametrize("second", ACTS)
async def test_after_one_that_came_to_grief(at: Slowly, first: Act, second: Act, how: str) -> None:
    """Who waits goes on after a store's failure, and after a cancellation."""
    session = await at.load(await at.begin({"x": 1}))
    at.slow.fails = how == "failed"
    one = asyncio.ensure_future(first(at, session))
    await asyncio.sleep(0)
    other = asyncio.ensure_future(second(at, session))
    await asyncio.sleep(0)
    if how == "cancelled":
        one.cancel()
    assert await over(one, other) == [True] * 2
    assert one.cancelled() or isinstance(one.exception(), StoreUnavailableError)
    assert other.exception() is None


async def test_a_lock_after_one_that_came_to_grief(at: Slowly) -> None:
    """exclusive() gives its session's lock back, whatever happens inside."""
    token = await at.begin({"x": 1})

    async def hold(fails: bool) -> None:
        session = await at.load(token)
        async with session.exclusive():
            if fails:
                raise KeyError
            session["held"] = 1

    tasks = [asyncio.ensure_future(hold(fails)) for fails in (True, False, True, False)]
    assert await over(*tasks) == [True] * 4
    assert [type(task.exception()) for task in tasks] == [KeyError, type(None)] * 2
    assert await at.data(token) == {"x": 1, "held": 1}
