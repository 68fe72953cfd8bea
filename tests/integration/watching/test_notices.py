"""What `watch` tells, on every server that is here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from redis_sessions import RedisStore
from tests.support import LOOPS
from tests.support.near import MINUTE, Told, ended, new_id, soon, store_on, stored
from tests.support.redis_wire import Wire
from tests.support.servers import Server

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(server: Server, prefix: str) -> AsyncIterator[RedisStore]:
    async with store_on(server.url, prefix) as store:
        yield store


@pytest.fixture
async def other(server: Server, prefix: str) -> AsyncIterator[RedisStore]:
    """Another process."""
    async with store_on(server.url, prefix) as store:
        yield store


async def test_what_is_stored_is_told_soon(store: RedisStore, other: RedisStore) -> None:
    """Once, by the event loop, and never by `watch` itself."""
    id = new_id()
    value = await stored(other, id)
    told, nothing = Told(store, id), Told(store, new_id())
    assert told.values == []
    await told.until(value)
    await nothing.until(None)
    assert (told.values, nothing.values) == ([value], [None])


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_changes_of_another_process(store: RedisStore, other: RedisStore) -> None:
    """Each change, also the second and third; a deletion and a creation are changes."""
    id = new_id()
    told = Told(store, id)
    await told.until(None)
    value = await stored(other, id)
    for _ in range(3):
        await told.until(value)
        value = await stored(other, id, value)
    await told.until(value)
    tombstone = ended()
    await other.end(id, tombstone, MINUTE)
    await told.until(tombstone)


async def test_several_changes(store: RedisStore, other: RedisStore) -> None:
    """They may be told as one; the last of them is told in any case."""
    id = new_id()
    value = await stored(other, id)
    told = Told(store, id)
    for _ in range(50):
        value = await stored(other, id, value)
    await told.until(value)
    assert len(told.values) <= 52


async def test_changes_of_this_process(store: RedisStore) -> None:
    """No notice comes of them, and they are told all the same."""
    id = new_id()
    told = Told(store, id)
    value = await stored(store, id)
    await told.until(value)
    value = await stored(store, id, value)
    await told.until(value)
    tombstone = ended()
    assert (await store.end(id, tombstone, MINUTE)).result
    await told.until(tombstone)


async def test_changes_after_those_of_this_process(store: RedisStore, other: RedisStore) -> None:
    """What it has written is watched on."""
    id = new_id()
    told = Told(store, id)
    value = await stored(store, id)
    await told.until(value)
    await told.until(await stored(other, id, value))


@pytest.mark.parametrize("how", ["del", "expiry"])
async def test_a_key_goes(store: RedisStore, server: Server, how: str) -> None:
    """Whoever removes it: nothing is stored any more."""
    id = new_id()
    value = await stored(store, id)
    told = Told(store, id)
    await told.until(value)
    with Wire(server.port) as redis:
        if how == "del":
            redis.ask("DEL", store.prefix + id)
        else:
            redis.ask("PEXPIRE", store.prefix + id, 1)
            await soon(lambda: redis.ask("EXISTS", store.prefix + id) == 0)
        await told.until(None)


async def test_all_keys_go(server: Server, prefix: str) -> None:
    """FLUSHDB tells everybody."""
    url = f"{server.url.removesuffix('0')}6"
    async with store_on(url, prefix) as store:
        values = {id: await stored(store, id) for id in (new_id(), new_id())}
        told = {id: Told(store, id) for id in values}
        for id, value in values.items():
            await told[id].until(value)
        with Wire(server.port) as redis:
            redis.ask("SELECT", 6)
            redis.ask("FLUSHDB")
        for id in values:
            await told[id].until(None)


async def test_several_watch_one_id(store: RedisStore, other: RedisStore, server: Server) -> None:
    """All are told, by one read; who has stopped isn't, and may stop twice."""
    id = new_id()
    value = await stored(other, id)
    told = [Told(store, id) for _ in range(3)]
    for each in told:
        await each.until(value)
    told[0].stop()
    told[0].stop()
    before = list(told[0].values)
    with Wire(server.port) as redis:
        redis.ask("CONFIG", "RESETSTAT")
        newer = await stored(other, id, value)
        for each in told[1:]:
            await each.until(newer)
        assert redis.ask("INFO", "commandstats").count(b"cmdstat_mget:calls=1,") == 1
    assert told[0].values == before


async def test_who_stops_while_it_is_read(store: RedisStore, other: RedisStore) -> None:
    """Isn't told anything any more."""
    id = new_id()
    told = Told(store, id)
    told.stop()
    assert await store.load(id) is None
    await stored(other, id)
    await store.load(id)
    assert told.values == []


async def test_two_loops(store: RedisStore, other: RedisStore) -> None:
    """Each is told what it watches, and nothing of the other."""
    id = new_id()
    told = Told(store, id)
    await told.until(None)

    async def elsewhere() -> bytes:
        told = Told(store, id)
        await told.until(None)
        value = await stored(store, id)
        await told.until(value)
        await store.close()
        return value

    value = await asyncio.to_thread(asyncio.run, elsewhere())
    await told.until(value)
    await told.until(await stored(other, id, value))
