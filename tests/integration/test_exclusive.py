"""Locks on real servers: they are had in turn, and who waits for one costs nobody else anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from redis_sessions import RedisStore, SessionConflictError, get_session
from redis_sessions.stores.commands import LOCK
from redis_sessions.testing import store_session
from tests.support.apps import client_of, doing, manager_on
from tests.support.asgi import COOKIE
from tests.support.deployments import Deployment
from tests.support.redis_wire import Wire
from tests.support.servers import StartServer

ID = "A" * 20
SESSIONS = 10
EACH = 32


async def test_many_who_wait_starve_nobody(start_server: StartServer) -> None:
    """32 requests wait for each of 10 sessions: others are served, over a few connections."""
    server = start_server()
    manager = manager_on(f"{server.url}?max_connections=8")
    holds, release = asyncio.Semaphore(0), asyncio.Event()

    async def lock(request: Request) -> JSONResponse:
        async with get_session(request).exclusive(timeout=60):
            holds.release()
            await release.wait()
        return JSONResponse("done")

    tokens = [await store_session(manager, {"n": number}) for number in range(SESSIONS + 50)]
    async with client_of(doing(Route("/lock", lock), manager=manager)) as browser:

        async def status(path: str, token: str) -> int:
            response = await browser.get(path, headers={"Cookie": f"{COOKIE}={token}"})
            return response.status_code

        who = [token for token in tokens[:SESSIONS] for _ in range(EACH)]
        waiting = [asyncio.create_task(status("/lock", token)) for token in who]
        for _ in range(SESSIONS):
            await holds.acquire()
        for _ in range(3):
            read = await asyncio.gather(*(status("/do", token) for token in tokens))
            assert set(read) == {200}
        changed = await asyncio.gather(*(status("/do?set=a:b", t) for t in tokens[SESSIONS:]))
        assert set(changed) == {200}
        with Wire.of(server.url) as redis:
            assert redis.clients() <= 6
        release.set()
        found = await asyncio.gather(*waiting)
        assert set(found) == {200, 409}  # more than the process lets wait
        assert all(found[start : start + EACH].count(200) > 20 for start in range(0, 320, EACH))
    await manager.close()


async def test_first_come_first_served(deployment: Deployment, prefix: str) -> None:
    """Those who wait in one process get the lock in the order in which they asked."""
    store = RedisStore(deployment.url, prefix=prefix, **deployment.options)
    found: list[int] = []

    async def take(number: int) -> None:
        async with store.lock(ID, wait=20, hold=20):
            found.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*map(take, range(40)))
    assert found == list(range(40))
    await store.close()


async def test_a_busy_process_lets_others_in(deployment: Deployment, prefix: str) -> None:
    """However many want a lock in one process, another process gets its turn."""
    busy, other = (
        RedisStore(deployment.url, prefix=prefix, **deployment.options) for _ in range(2)
    )
    served = asyncio.Event()

    async def again_and_again() -> None:
        while not served.is_set():
            async with busy.lock(ID, wait=20, hold=20):
                await asyncio.sleep(0.002)

    async def once() -> None:
        async with other.lock(ID, wait=20, hold=20):
            served.set()

    await asyncio.gather(*(again_and_again() for _ in range(4)), once())
    await busy.close()
    await other.close()


@pytest.mark.parametrize("ticks", range(0, 12, 2))
async def test_who_gives_up_leaves_nothing(redis_url: str, prefix: str, ticks: int) -> None:
    """Whoever is cancelled, at any step, holds nobody up, and nothing is left in Redis."""
    store = RedisStore(redis_url, prefix=prefix)

    async def take() -> None:
        async with store.lock(ID, wait=20, hold=20):
            await asyncio.sleep(0)

    await store.load(ID)
    tasks = [asyncio.create_task(take()) for _ in range(4)]
    for _ in range(ticks):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with store.lock(ID, wait=5, hold=20):
        pass
    with Wire.of(redis_url) as redis:
        assert redis.keys(prefix) == []
    await store.close()


async def test_who_holds_it_too_long(redis_url: str, prefix: str) -> None:
    """After its time the lock is the next one's, in this process and in others."""
    one, other = (RedisStore(redis_url, prefix=prefix) for _ in range(2))
    for late in (one, other):
        async with one.lock(ID, wait=0, hold=0.05), late.lock(ID, wait=20, hold=20):
            inside = asyncio.create_task(_take(one, wait=0.05))
            with pytest.raises(SessionConflictError, match="locked"):
                await inside
    await _take(one, wait=0)  # and it didn't give back what was another's
    await one.close()
    await other.close()


async def test_a_process_that_ended_while_it_held(redis_url: str, prefix: str) -> None:
    """Its lock lapses, and who waits gets it then."""
    store = RedisStore(redis_url, prefix=prefix)
    with Wire.of(redis_url) as redis:
        redis.ask("SET", f"{prefix}lock:{ID}", "somebody's", "PX", 200)
        with pytest.raises(SessionConflictError, match="locked"):
            await _take(store, wait=0)
        await _take(store, wait=20)
    await store.close()


def test_an_answer_that_was_lost(redis_url: str, prefix: str) -> None:
    """Whoever asks again for the lock that it was given has it; nobody else does."""
    script = LOCK.text

    with Wire.of(redis_url) as redis:

        def ask(value: str, milliseconds: int) -> int:
            return int(redis.ask("EVAL", script, 1, f"{prefix}lock:{ID}", value, milliseconds))

        assert [ask("mine", 60_000), ask("mine", 60_000), ask("theirs", 60_000)] == [1, 1, 0]
        assert [ask("theirs", 0), ask("mine", 0), ask("mine", 0)] == [0, 1, 0]
        assert redis.keys(prefix) == []
        assert ask("theirs", 60_000) == 1
        assert 0 < redis.ask("PTTL", f"{prefix}lock:{ID}") <= 60_000


async def _take(store: RedisStore, **options: Any) -> None:
    async with store.lock(ID, **{"hold": 20, **options}):
        pass
