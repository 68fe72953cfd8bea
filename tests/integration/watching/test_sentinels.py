"""Another server becomes the primary, and the one of before goes on answering."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from redis_sessions import RedisStore, StoreError
from redis_sessions.messages import Messages
from redis_sessions.testing import topology
from tests.support.asgi import KEY
from tests.support.leading import Candidates
from tests.support.listening import said, until, until_heard
from tests.support.near import Told, copy, kept, new_id, served_at_most, soon, store_on, stored
from tests.support.servers import app_user, as_app

pytestmark = pytest.mark.anyio

BOUND = 0.3


@pytest.fixture(scope="module")
def running(server_binary: Path) -> Iterator[topology.SentinelTopology]:
    """A primary, a replica and three Sentinels, which these tests change."""
    options = app_user(replicas=True)
    with topology.sentinel(
        replicas=1, down_after_ms=500, server=server_binary, options=options
    ) as running:
        yield running


@pytest.fixture
async def store(running: topology.SentinelTopology, prefix: str) -> AsyncIterator[RedisStore]:
    async with store_on(as_app(running.url), prefix, client_cache=BOUND, timeout=1) as store:
        yield store


@pytest.fixture
async def other(running: topology.SentinelTopology, prefix: str) -> AsyncIterator[RedisStore]:
    """Another process."""
    async with store_on(as_app(running.url), prefix, timeout=1) as store:
        yield store


async def changed(other: RedisStore, id: str, value: bytes) -> bytes:
    """A newer record, as soon as the other process can store one."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await stored(other, id, value)
            except StoreError:
                await asyncio.sleep(0.05)


async def told_and_kept(store: RedisStore, other: RedisStore) -> tuple[str, bytes, Told]:
    """A session of another process, which this one watches and has a copy of."""
    id = new_id()
    value = await stored(other, id)
    told = Told(store, id)
    await told.until(value)
    await kept(store, id)
    return id, value, told


async def test_38_a_failover(
    running: topology.SentinelTopology, store: RedisStore, other: RedisStore
) -> None:
    """The Sentinels promote the replica while all connections live."""
    id, value, told = await told_and_kept(store, other)
    await asyncio.to_thread(running.failover)
    for _ in range(2):
        value = await changed(other, id, value)
        await told.until(value)
        await served_at_most(store, id, value)
        assert await kept(store, id) == value


def test_a_leader(running: topology.SentinelTopology, prefix: str) -> None:
    """No token is given twice over a failover, and what a fence lets pass is in order."""
    with Candidates(as_app(running.url), prefix) as candidates:

        def fail_over() -> None:
            running.failover()

        candidates.without_a_leader(fail_over)
        candidates.stopped_by_the_fence()


async def test_38_a_primary_that_was_frozen(
    running: topology.SentinelTopology, store: RedisStore, other: RedisStore
) -> None:
    """When it comes back, it still believes that it is the primary, and nobody else does."""
    id, value, told = await told_and_kept(store, other)
    before = running.primary
    before.pause()
    await soon(lambda: copy(store, id) is None)
    await asyncio.to_thread(running.wait_promoted, before)
    newer = await changed(other, id, value)
    await soon(lambda: copy(store, id) != value)  # it may have read it from the new primary before
    before.resume()
    seen = set[bytes | None]()

    def follows() -> bool:
        seen.add(copy(store, id))
        with suppress(RedisError):  # the Sentinels have it close its connections
            return before.role() == "replica"
        return False

    await soon(follows)
    assert value not in seen
    await told.until(newer)
    assert await kept(store, id) == newer


@pytest.mark.parametrize("frozen", [False, True])
async def test_messages_over_a_failover(running: topology.SentinelTopology, frozen: bool) -> None:
    """Who listens is told of the gap, and hears what is sent to the new primary."""
    url = as_app(running.url)
    async with store_on(url, timeout=1) as here, store_on(url, timeout=1) as there:
        messages, other = Messages(here, KEY), Messages(there, KEY)
        async with messages.listen(all=True) as heard:
            assert await until(heard, n := await said(other)) == [n]
            before = running.primary
            if frozen:
                before.pause()
                await asyncio.to_thread(running.wait_promoted, before)
            else:
                await asyncio.to_thread(running.failover)
            assert None in await until_heard(heard, other)
            if frozen:
                before.resume()
            n = await said(other)
            items = await until(heard, n)
            numbers = [item for item in items if item is not None]
            assert len(numbers) == len(set(numbers))
