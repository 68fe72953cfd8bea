"""A copy is served only as long as the server's silence means that nothing has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from redis_sessions import RedisStore, StoreUnavailableError
from redis_sessions.stores import tracking
from tests.support import LOOPS
from tests.support.deployments import until
from tests.support.near import LONG, copy, kept, new_id, soon, store_on, stored
from tests.support.proxy import FAILURES, Proxy
from tests.support.redis_wire import Monitor, Wire
from tests.support.servers import Server, as_app

pytestmark = pytest.mark.anyio

BOUND = 0.2


@pytest.fixture
async def store(proxy: Proxy) -> AsyncIterator[RedisStore]:
    async with store_on(as_app(proxy.url), client_cache=BOUND) as store:
        yield store


@pytest.fixture
async def other(behind: Server) -> AsyncIterator[RedisStore]:
    """Another process, whose network is whole."""
    async with store_on(behind.url) as store:
        yield store


async def test_a_copy_is_served_beyond_the_bound(
    store: RedisStore, other: RedisStore, behind: Server
) -> None:
    """As long as the server answers, nobody asks it for the record again."""
    id = new_id()
    await stored(other, id)
    value = await kept(store, id)
    then = time.monotonic() + 2 * BOUND
    with Monitor(behind.port) as monitor:
        await soon(lambda: time.monotonic() > then and copy(store, id) == value)
        assert set(monitor.names()) == {"INFO", "ROLE"}


@pytest.mark.parametrize("fails", FAILURES)
async def test_the_network_fails(
    store: RedisStore, other: RedisStore, proxy: Proxy, fails: str
) -> None:
    """Another process changes the record: the copy isn't served later than the bound allows."""
    id = new_id()
    await stored(other, id)
    value = await kept(store, id)
    FAILURES[fails](proxy)
    await stored(other, id, value)
    # What was sent before the change may have been answered. So the bound begins no later.
    changed = time.monotonic()
    served = changed
    while served + 2 * BOUND > time.monotonic():
        now = time.monotonic()
        if copy(store, id) is not None:
            served = now
        await asyncio.sleep(0.005)
    assert served <= changed + BOUND
    proxy.cut()


async def test_a_copy_is_there_again(store: RedisStore, other: RedisStore, proxy: Proxy) -> None:
    """A pause that is longer than the bound, and no change: it is served again without a read."""
    id = new_id()
    await stored(other, id)
    value = await kept(store, id)
    proxy.freeze(requests=False)
    await soon(lambda: copy(store, id) is None)
    proxy.heal()
    await soon(lambda: copy(store, id) == value)


async def test_a_change_during_a_pause(store: RedisStore, other: RedisStore, proxy: Proxy) -> None:
    """Nothing is believed before all notices have been read, however late they come."""
    id = new_id()
    await stored(other, id)
    value = await kept(store, id)
    proxy.freeze(requests=False)
    await soon(lambda: copy(store, id) is None)
    newer = await stored(other, id, value)
    proxy.heal()
    assert await store.load(id) == newer
    assert copy(store, id) in (newer, None)


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_a_blocked_loop(behind: Server) -> None:
    """Whoever had this loop wait longer than the bound isn't served what was read before."""
    async with store_on(behind.url, client_cache=BOUND) as store:
        id = new_id()
        await stored(store, id)
        value = await kept(store, id)
        time.sleep(2 * BOUND)  # noqa: ASYNC251 - that is what is tested
        assert copy(store, id) is None
        await soon(lambda: copy(store, id) == value)


async def test_37_a_killed_connection(behind: Server) -> None:
    """Copies go with their connection, at once, and what is read later is kept again."""
    async with store_on(behind.url, client_cache=LONG) as store:
        id = new_id()
        await stored(store, id)
        await kept(store, id)
        with Wire(behind.port) as redis:
            redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await soon(lambda: copy(store, id) is None)
        await kept(store, id)


async def test_37_a_connection_that_was_replaced(behind: Server) -> None:
    """Copies of the connection before are gone, though the new one is answered in time."""
    async with (
        store_on(behind.url) as other,
        store_on(behind.url, client_cache=LONG) as store,
    ):
        id = new_id()
        await stored(store, id)
        value = await kept(store, id)
        with Wire(behind.port) as redis:
            redis.ask("REPLICAOF", "127.0.0.1", 1)
            with pytest.raises(StoreUnavailableError, match="read only"):
                await stored(store, new_id())  # so the connection isn't used any more
            redis.ask("REPLICAOF", "NO", "ONE")
            await soon(lambda: redis.clients() == 0)
        await stored(other, id, value)
        await kept(store, await filled(other))
        assert copy(store, id) is None


async def filled(other: RedisStore) -> str:
    """The id of a new record."""
    id = new_id()
    await stored(other, id)
    return id


async def test_38_a_demoted_primary(behind: Server) -> None:
    """It answers on the same connection, and isn't believed."""
    async with store_on(behind.url, client_cache=BOUND) as store:
        id = new_id()
        await stored(store, id)
        await kept(store, id)
        with Wire(behind.port) as redis:
            redis.ask("REPLICAOF", "127.0.0.1", 1)
            await soon(lambda: copy(store, id) is None)
            assert await store.load(id) is not None
            assert copy(store, id) is None
            redis.ask("REPLICAOF", "NO", "ONE")

        async def read() -> bool:
            await store.load(id)
            return copy(store, id) is not None

        await until(read)


async def test_the_heartbeat_stops(behind: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that nobody uses are dropped after a while, and then the server is asked nothing."""
    async with store_on(behind.url, client_cache=0.1) as store:
        id = new_id()
        await stored(store, id)
        with Monitor(behind.port) as monitor:
            await kept(store, id)
            monkeypatch.setattr(tracking, "_IDLE", 0.05)

            async def silent() -> bool:
                monitor.commands()
                await asyncio.sleep(0.2)
                return monitor.commands() == []

            await until(silent)
            assert copy(store, id) is None
            monkeypatch.undo()
            await kept(store, id)
            assert "HELLO" not in monitor.names()
