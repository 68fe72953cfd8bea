"""The connection is lost by which a server would have told, or it only seems to be there."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator

import pytest

from redis_sessions import RedisStore, StoreError
from redis_sessions.stores import watching
from tests.support.near import Told, copy, kept, new_id, soon, store_on, stored, timers
from tests.support.proxy import FAILURES, Proxy
from tests.support.redis_wire import Wire
from tests.support.servers import Server, as_app

pytestmark = pytest.mark.anyio

BOUND = 0.2


@pytest.fixture
async def store(proxy: Proxy) -> AsyncIterator[RedisStore]:
    async with store_on(as_app(proxy.url), client_cache=BOUND, timeout=0.5) as store:
        yield store


@pytest.fixture
async def other(behind: Server) -> AsyncIterator[RedisStore]:
    """Another process, whose network is whole."""
    async with store_on(behind.url) as store:
        yield store


@pytest.mark.parametrize("fails", ["frozen", "cut"])
async def test_changes_while_the_server_is_away(
    store: RedisStore, other: RedisStore, proxy: Proxy, fails: str
) -> None:
    """Nothing is told meanwhile; once it is back, what has changed is."""
    ids = [new_id() for _ in range(5)]
    values = [await stored(other, id) for id in ids]
    told = [Told(store, id) for id in ids]
    for each, value in zip(told, values, strict=True):
        await each.until(value)
    FAILURES[fails](proxy)
    newer = [await stored(other, id, value) for id, value in zip(ids, values, strict=True)]
    with pytest.raises(StoreError):
        while True:
            await store.load(new_id())
    assert [each.values[-1] for each in told] == values
    proxy.heal()
    for each, value in zip(told, newer, strict=True):
        await each.until(value)
    await told[0].until(await stored(other, ids[0], newer[0]))


@pytest.mark.parametrize("fails", ["half-open", "notices-held"])
@pytest.mark.parametrize("cached", [True, False])
async def test_a_connection_seems_to_be_there(
    proxy: Proxy,
    other: RedisStore,
    fails: str,
    cached: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is left for another one, long before the time-out, and what has changed is told."""
    monkeypatch.setattr(watching, "BOUND", BOUND)
    async with store_on(as_app(proxy.url), client_cache=BOUND if cached else 0.0) as store:
        id = new_id()
        value = await stored(other, id)
        told = Told(store, id)
        await told.until(value)
        before = proxy.connections
        FAILURES[fails](proxy)
        value = await stored(other, id, value)
        await told.until(value)
        assert proxy.connections == before + 1
        proxy.heal()
        await told.until(await stored(other, id, value))


async def test_a_killed_connection(behind: Server, other: RedisStore) -> None:
    """What was changed before the next one tells is told as well."""
    async with store_on(behind.url) as store:
        id = new_id()
        told = Told(store, id)
        await told.until(None)
        value = await stored(other, id)
        await told.until(value)
        for _ in range(2):
            with Wire(behind.port) as redis:
                redis.ask("MULTI")
                redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                redis.ask("SET", store.prefix + id, value + b"+")
                redis.ask("EXEC")
            await told.until(value + b"+")
            with Wire(behind.port) as redis:
                redis.ask("SET", store.prefix + id, value)
            await told.until(value)


async def test_a_server_that_lost_everything(
    store: RedisStore, other: RedisStore, behind: Server
) -> None:
    """It restarts empty: nothing is stored any more, and later changes are told."""
    id = new_id()
    told = Told(store, id)
    await told.until(None)
    await told.until(await stored(other, id))
    behind.kill()
    behind.start()
    await told.until(None)
    await told.until(await stored(other, id))


async def test_attempts_are_bounded(
    store: RedisStore, behind: Server, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is away one key is tried three times within the bound, and the log says it once."""
    told = [Told(store, new_id()) for _ in range(100)]
    for each in told:
        await each.until(None)
    with caplog.at_level(logging.WARNING):
        before, since = proxy.connections, time.monotonic()
        behind.kill()
        await soon(lambda: proxy.connections > before + 8)
        attempts = proxy.connections - before
        # Each attempt connects twice, as a server that has restarted may refuse the first.
        assert attempts <= 2 * ((time.monotonic() - since) / (BOUND / 3) + 3)
        assert [each.values for each in told] == [[None]] * 100
        assert len(caplog.records) == 1
        assert "can't be reached" in caplog.text
        behind.start()
        await soon(lambda: all(len(each.values) > 1 for each in told))
    assert "serves again" in caplog.records[-1].message
    assert len(caplog.records) == 2


async def test_38_a_demoted_primary(behind: Server, other: RedisStore) -> None:
    """What is watched is read again, and changes are told once it is a primary again."""
    async with store_on(behind.url, client_cache=BOUND) as store:
        id = new_id()
        value = await stored(store, id)
        told = Told(store, id)
        await told.until(value)
        await kept(store, id)
        with Wire(behind.port) as redis:
            redis.ask("REPLICAOF", "127.0.0.1", 1)
            await soon(lambda: copy(store, id) is None)
            redis.ask("REPLICAOF", "NO", "ONE")
        await told.until(await stored(other, id, value))


async def test_stopping_while_the_server_is_away(store: RedisStore, behind: Server) -> None:
    """Who has stopped isn't tried for any more: nothing is."""
    told = Told(store, new_id())
    await told.until(None)
    behind.kill()
    with pytest.raises(StoreError):
        await store.load(new_id())
    told.stop()
    await soon(lambda: not timers())
