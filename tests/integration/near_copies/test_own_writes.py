"""What this process itself changes over other connections counts for its copies at once."""

from __future__ import annotations

import asyncio

import pytest

from redis_sessions.session.record import is_tombstone
from redis_sessions.stores.protocols import Commit
from redis_sessions.testing import topology
from tests.support.near import (
    LONG,
    MINUTE,
    Told,
    copy,
    ended,
    kept,
    new_id,
    record,
    soon,
    store_on,
    stored,
)
from tests.support.proxy import Proxy
from tests.support.redis_wire import Wire
from tests.support.servers import StartServer, as_app

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("how", ["end", "rotation"])
async def test_36_writes_that_wait_for_replicas(
    replicas_topology: topology.Topology, prefix: str, how: str
) -> None:
    """They go over a connection of their own, and still count at their reply."""
    url = as_app(replicas_topology.primary.url)
    async with store_on(url, prefix, client_cache=LONG, wait_replicas=1) as store:
        id = new_id()
        value = await stored(store, id)
        await kept(store, id)
        if how == "end":
            assert (await store.end(id, ended(), MINUTE)).result
        else:
            written = await store.commit(id, value[:33], record(1), MINUTE)
            assert written.result is Commit.STORED
        assert copy(store, id) is None


async def test_39_an_older_read_is_under_way(
    replicas_topology: topology.Topology, prefix: str
) -> None:
    """The reply of a read that came before the end is no copy, even if no notice has come yet."""
    primary = replicas_topology.primary
    with Proxy(primary.port) as proxy:
        url = as_app(proxy.url)
        async with (
            store_on(as_app(primary.url), prefix) as other,
            store_on(url, prefix, client_cache=LONG, wait_replicas=1) as store,
        ):
            id = new_id()
            value = await stored(other, id)
            await store.load(new_id())
            proxy.hold(value)
            proxy.hold(b"invalidate")
            reading = asyncio.ensure_future(store.load(id))
            await soon(lambda: proxy.holds)
            assert (await store.end(id, ended(), MINUTE)).result
            proxy.release(value)
            assert await reading == value
            assert copy(store, id) is None


async def test_39_a_read_is_under_way_when_the_notice_comes(start_server: StartServer) -> None:
    """Replies and notices come in one order: a reply that comes before its notice goes with it."""
    server = start_server()
    with Proxy(server.port) as proxy:
        async with (
            store_on(server.url) as other,
            store_on(as_app(proxy.url), client_cache=LONG) as store,
        ):
            id = new_id()
            value = await stored(other, id)
            await store.load(new_id())
            proxy.hold(value)
            reading = asyncio.ensure_future(store.load(id))
            await soon(lambda: proxy.holds)
            await stored(other, id, value)
            proxy.release(value)
            assert await reading == value
            await soon(lambda: copy(store, id) is None)


async def test_36_an_end_that_is_repeated(start_server: StartServer) -> None:
    """A server lost an end, and is sent it again: no notice comes of that, and the copy goes."""
    server = start_server()
    async with store_on(server.url, client_cache=LONG) as store:
        id = new_id()
        value = await stored(store, id)
        assert (await store.end(id, ended(), MINUTE)).result
        server.kill()
        server.start()
        with Wire(server.port) as redis:
            redis.ask("SET", store.prefix + id, value, "PX", MINUTE)
            redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
            told = Told(store, id)
            await told.until(value)  # the end is refused
            assert await kept(store, id) == value
            redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")
            await store.load(new_id())
            assert copy(store, id) is None
            await soon(lambda: is_tombstone(told.values[-1] or b""))


async def test_two_loops(start_server: StartServer) -> None:
    """Each loop of a process has copies of its own, and is told of the other's changes."""
    server = start_server()
    async with store_on(server.url, client_cache=LONG) as store:
        id = new_id()
        value = await stored(store, id)
        await kept(store, id)

        async def elsewhere() -> None:
            assert copy(store, id) is None
            await kept(store, id)
            await stored(store, id, value)
            await store.close()

        await asyncio.to_thread(asyncio.run, elsewhere())
        await soon(lambda: copy(store, id) is None)
