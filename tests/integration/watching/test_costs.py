"""What watching costs while nothing changes, and what is left when it ends."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, cast

import pytest

from redis_sessions import RedisStore, StoreError
from redis_sessions.stores import tracking
from tests.support.near import Told, copy, kept, new_id, soon, store_on, stored, timers
from tests.support.proxy import Proxy
from tests.support.redis_wire import Monitor, Wire
from tests.support.servers import Server, as_app

pytestmark = pytest.mark.anyio


def calls(redis: Wire) -> dict[str, int]:
    """How often the server was sent which command."""
    lines = redis.ask("INFO", "commandstats").decode().splitlines()[1:]
    counted = (line.removeprefix("cmdstat_").split(":calls=") for line in lines)
    return {name: int(rest.partition(",")[0]) for name, rest in counted}


async def test_ten_thousand_watched_ids(behind: Server, proxy: Proxy) -> None:
    """While nothing changes the server is asked for its role, and nothing else."""
    # After a second without an answer all are read again: a busy machine is rarely so late.
    async with store_on(as_app(proxy.url), client_cache=1.0) as store:
        told = [Told(store, new_id()) for _ in range(10_000)]
        await soon(lambda: all(each.values for each in told))
        with Wire(behind.port) as redis:
            redis.ask("CONFIG", "RESETSTAT")
            await soon(lambda: calls(redis).get("role", 0) > 3)
            assert calls(redis).keys() <= {"role", "info", "config|resetstat", "config"}
            assert {len(each.values) for each in told} == {1}
        proxy.strand()  # all are read again, and a request needn't wait until they are
        await soon(lambda: all(len(each.values) > 1 for each in told))


async def test_requests_do_not_wait_behind_those_who_watch(behind: Server) -> None:
    """When all that is watched is read again, a load overtakes most of it."""
    async with store_on(behind.url) as store:
        told = [Told(store, new_id()) for _ in range(5_000)]
        await soon(lambda: all(each.values for each in told))
        with Wire(behind.port) as redis:
            redis.ask("FLUSHALL")
        await soon(lambda: any(len(each.values) > 1 for each in told))
        await store.load(new_id())
        assert sum(len(each.values) == 1 for each in told) > 2_500
        await soon(lambda: all(len(each.values) > 1 for each in told))


async def test_the_last_who_watched_stops(behind: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the heartbeat ends, and the server need not track what is read any more."""
    monkeypatch.setattr(tracking, "_IDLE", 0.05)
    monkeypatch.setattr("redis_sessions.stores.watching.BOUND", 0.1)
    async with store_on(behind.url) as store:
        told = Told(store, id := new_id())
        await told.until(None)
        told.stop()
        await soon(lambda: not timers())
        with Monitor(behind.port) as monitor:
            await store.load(id)
            assert "CLIENT" not in [words[0] for words in monitor.everything()]
            again = Told(store, id)
            await again.until(None)
        async with store_on(behind.url) as other:
            await again.until(await stored(other, id))


async def test_a_store_is_closed(behind: Server) -> None:
    """No timer, task or connection is left, though somebody watches; nothing is told any more."""
    tasks = asyncio.all_tasks()
    store = RedisStore(behind.url, client_cache=0.1)
    id = new_id()
    told = Told(store, id)
    await told.until(None)
    await told.until(await stored(store, id))
    await kept(store, id)
    await store.close()
    assert timers() == []
    assert asyncio.all_tasks() == tasks
    with Wire(behind.port) as redis:
        await soon(lambda: redis.clients() == 0)
        redis.ask("DEL", store.prefix + id)
    before = list(told.values)
    told.stop()
    # It can be used again.
    again = Told(store, id)
    await again.until(None)
    await again.until(await stored(store, id))
    assert told.values == before
    await store.close()


async def test_a_store_is_closed_while_the_server_is_away(behind: Server) -> None:
    """What couldn't be read isn't tried again."""
    tasks = asyncio.all_tasks()
    store = RedisStore(behind.url, client_cache=0.1, timeout=0.5)
    told = Told(store, new_id())
    await told.until(None)
    behind.kill()
    with pytest.raises(StoreError):
        await store.load(new_id())
    await store.close()
    assert timers() == []
    assert asyncio.all_tasks() == tasks


async def test_a_store_is_collected(behind: Server) -> None:
    """Its heartbeat keeps it from nothing: its connections are closed, and no timer is left."""
    store = RedisStore(behind.url, client_cache=0.1)
    id = new_id()
    await stored(store, id)
    await kept(store, id)
    collected = weakref.ref(cast("Any", store)._servers.get())
    del store

    def gone() -> bool:
        gc.collect()
        return collected() is None and not timers()

    await soon(gone)
    with Wire(behind.port) as redis:
        await soon(lambda: redis.clients() == 0)


async def test_a_server_that_is_asked_for_copies_and_has_none(behind: Server) -> None:
    """Reading what is absent keeps the connection: it isn't replaced again and again."""
    async with store_on(behind.url, client_cache=0.1) as store:
        with Wire(behind.port) as redis:
            async with asyncio.timeout(20):
                while calls(redis).get("role", 0) < 4:
                    await store.load(new_id())
            assert calls(redis)["hello"] == 1
            assert copy(store, new_id()) is None
