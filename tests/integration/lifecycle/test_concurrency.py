"""Many requests at once on one session: keys, counters, one-time values, and the lock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redis_sessions import Commit, RedisStore, SessionConflictError, SessionManager, SessionToken
from redis_sessions.testing import store_session
from tests.support.apps import client_of, doing, manager_on, token_in
from tests.support.redis_wire import Wire

# -- many at once


@pytest.mark.standard(7)
async def test_creating_is_atomic(redis_url: str, prefix: str) -> None:
    """Of many that create one id at once, over several connections, exactly one does."""
    stores = [RedisStore(redis_url, prefix=prefix) for _ in range(8)]
    id = SessionToken.generate().id
    values = [bytes([1, *range(n, n + 40)]) for n in range(len(stores))]
    written = await asyncio.gather(
        *(s.commit(id, None, v, 10_000) for s, v in zip(stores, values, strict=True))
    )
    done = [each.result for each in written]
    assert sorted(done, key=str) == [*[Commit.CONFLICT] * 7, Commit.STORED]
    assert await stores[0].load(id) == values[done.index(Commit.STORED)]
    for store in stores:
        await store.close()


def count(data: dict[str, Any]) -> int:
    data["n"] += 1
    return int(data["n"])


@pytest.mark.everywhere
async def test_64_keys(workers: list[SessionManager]) -> None:
    """64 parallel requests that each set their own key on one session: all 64 are there."""
    token = await store_session(workers[0], {"user_id": "alice"})
    apps = [doing(manager=worker) for worker in workers]

    async def change(number: int) -> None:
        async with client_of(apps[number % 4], token) as browser:
            response = await browser.get(f"/do?set=k{number}:{number}")
            assert (response.status_code, token_in(response)) == (200, None)

    await asyncio.gather(*(change(number) for number in range(64)))
    data = dict(await workers[0].load(token))
    assert data == {"user_id": "alice", **{f"k{number}": str(number) for number in range(64)}}


@pytest.mark.everywhere
async def test_64_increments(workers: list[SessionManager]) -> None:
    """64 parallel increments by update(), through several processes: the counter is 64."""
    token = await store_session(workers[0], {"n": 0})

    async def increment(number: int) -> int:
        worker = workers[number % 4]
        return await worker.update(await worker.load(token), count)

    results = await asyncio.gather(*(increment(number) for number in range(64)))
    assert sorted(results) == list(range(1, 65))
    assert dict(await workers[0].load(token)) == {"n": 64}


async def test_64_under_the_lock(workers: list[SessionManager], redis: Wire, prefix: str) -> None:
    """64 parallel blocks under exclusive(), through several processes: the counter is 64."""
    token = await store_session(workers[0], {"n": 0})
    inside = 0

    async def increment(number: int) -> None:
        nonlocal inside
        session = await workers[number % 4].load(token)
        async with session.exclusive(timeout=30):
            inside += 1
            assert inside == 1
            session["n"] += 1
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(increment(number) for number in range(64)))
    assert dict(await workers[0].load(token)) == {"n": 64}
    assert redis.keys(f"{prefix}lock:") == []


@pytest.mark.everywhere
async def test_a_value_is_taken_once(workers: list[SessionManager]) -> None:
    """Of 16 requests that take a one-time value one gets it."""
    token = await store_session(workers[0], {"otp": "1"})

    async def take(worker: SessionManager) -> object:
        return await worker.update(await worker.load(token), lambda data: data.pop("otp", None))

    taken = await asyncio.gather(*(take(worker) for worker in workers * 4))
    assert [value for value in taken if value is not None] == ["1"]


# -- the lock


async def test_the_lock_is_a_key_with_an_end(
    manager: SessionManager, redis: Wire, prefix: str
) -> None:
    """The lock's key has a TTL, should its process die; released, it is gone."""
    token = await store_session(manager, {"n": 0})
    session = await manager.load(token)
    async with session.exclusive():
        assert redis.keys(f"{prefix}lock:") == [f"{prefix}lock:{token[:20]}"]
        assert 0 < redis.ask("PTTL", f"{prefix}lock:{token[:20]}") <= 30_000
    assert redis.keys(f"{prefix}lock:") == []


@pytest.mark.everywhere
async def test_another_process_holds_the_lock(workers: list[SessionManager]) -> None:
    """The lock counts across processes: who can't have it in time is told so."""
    token = await store_session(workers[0], {"n": 0})
    one, other = [await worker.load(token) for worker in workers[:2]]
    async with one.exclusive():
        with pytest.raises(SessionConflictError, match="locked"):
            async with other.exclusive(timeout=0.05):
                raise AssertionError("it isn't free")
    async with other.exclusive(timeout=0.05):
        pass


async def test_a_lock_that_lapsed_is_anothers(
    workers: list[SessionManager], redis: Wire, prefix: str
) -> None:
    """Whose lock lapsed doesn't release the lock of who has it now; its change is merged."""
    token = await store_session(workers[0], {"n": 0})
    one, other = [await worker.load(token) for worker in workers[:2]]
    async with one.exclusive():
        one["a"] = 1
        redis.ask("DEL", f"{prefix}lock:{token[:20]}")  # as if 30 seconds had passed
        async with other.exclusive(timeout=0.05):
            other["b"] = 2
            held = redis.ask("GET", f"{prefix}lock:{token[:20]}")
            await one.save()
            assert redis.ask("GET", f"{prefix}lock:{token[:20]}") == held
    assert dict(await workers[2].load(token)) == {"n": 0, "a": 1, "b": 2}


async def test_a_cancelled_waiter_holds_nobody_up(
    workers: list[SessionManager], redis: Wire, prefix: str
) -> None:
    """Requests cancelled while they wait for the lock, or take it: the next one gets it."""
    token = await store_session(workers[0], {"n": 0})
    holder = await workers[0].load(token)

    async def take(worker: SessionManager) -> None:
        async with (await worker.load(token)).exclusive():
            pass

    async with holder.exclusive():
        tasks = [asyncio.create_task(take(worker)) for worker in workers]
        await asyncio.sleep(0.03)  # some polls of the lock: whenever they are cancelled
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert redis.keys(f"{prefix}lock:") == []
    await take(workers[1])


@pytest.mark.parametrize("steps", range(1, 13))
async def test_a_request_cancelled_at_any_step_leaves_no_lock(
    redis_url: str, prefix: str, redis: Wire, steps: int
) -> None:
    """exclusive() cancelled after any number of the loop's turns: the lock is free again."""
    manager = manager_on(redis_url, prefix)
    token = await store_session(manager, {"n": 0})
    session = await manager.load(token)

    async def hold() -> None:
        async with session.exclusive():
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    async with (await manager.load(token)).exclusive(timeout=0.5):
        pass
    assert redis.keys(f"{prefix}lock:") == []
    await manager.close()
