"""Servers, proxies and users that can't tell what changes: all goes on, and all keys are polled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from redis_sessions import RedisStore
from redis_sessions.stores import tracking, watching
from tests.support.near import LONG, Told, copy, kept, new_id, soon, store_on, stored
from tests.support.proxy import Proxy
from tests.support.redis_wire import Monitor, Wire
from tests.support.servers import SERVERS, Server, StartServer, as_app

pytestmark = pytest.mark.anyio

POLL = 0.1


@pytest.fixture
async def other(behind: Server) -> AsyncIterator[RedisStore]:
    """Another process."""
    async with store_on(behind.url) as store:
        yield store


@pytest.fixture(autouse=True)
def _polls_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL", POLL)


@pytest.fixture
def warned_once(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The log says once that keys aren't told of, and nothing else."""
    yield
    messages = [record.message for record in caplog.get_records("call")]
    assert len(messages) == 1
    assert "doesn't say which keys change" in messages[0]


@pytest.mark.usefixtures("warned_once")
async def test_a_proxy_that_closes_at_hello(behind: Server, other: RedisStore) -> None:
    """No request fails, and no more than three connections are lost."""
    with Proxy(behind.port, refuses=b"HELLO") as proxy:
        async with store_on(as_app(proxy.url), client_cache=0.3) as store:
            told = Told(store, id := new_id())
            value = await stored(store, id)
            async with asyncio.timeout(20):
                while proxy.refused < 3:
                    assert await store.load(id) == value
            connections = proxy.connections
            await told.until(value)
            for _ in range(3):
                value = await stored(other, id, value)
                await told.until(value)
            assert await store.load(id) == value
            assert copy(store, id) is None
            assert (proxy.refused, proxy.connections) == (3, connections)


@pytest.mark.usefixtures("warned_once")
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_server_that_does_not_know_hello(start_server: StartServer, kind: str) -> None:
    """As a server before RESP3, or some that only speak like Redis."""
    server = start_server("--rename-command", "HELLO", "", kind=kind)
    async with (
        store_on(server.url) as other,
        store_on(server.url, client_cache=LONG) as store,
    ):
        told = Told(store, id := new_id())
        value = await stored(store, id)
        await told.until(value)
        assert await store.load(id) == value
        assert copy(store, id) is None
        value = await stored(other, id, value)
        await told.until(value)


@pytest.mark.usefixtures("warned_once")
@pytest.mark.parametrize("rule", ["-role", "-client"])
async def test_a_user_who_may_not(behind: Server, other: RedisStore, rule: str) -> None:
    """It is asked once in a while. Nothing is kept, and changes are found out by reading."""
    with Wire(behind.port) as redis:
        redis.ask("ACL", "SETUSER", "app", rule)
        async with store_on(behind.url, client_cache=LONG) as store:
            told = Told(store, id := new_id())
            value = await stored(store, id)
            await told.until(value)
            await store.load(id)
            assert copy(store, id) is None
            value = await stored(other, id, value)
            await told.until(value)
            with Monitor(behind.port) as monitor:
                await told.until(await stored(other, id, value))
                assert "HELLO" not in [words[0] for words in monitor.everything()]


@pytest.mark.usefixtures("warned_once")
async def test_rights_are_given_later(
    behind: Server, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same connection is asked again: then there are copies, and what is watched is told."""
    monkeypatch.setattr(tracking, "_PAUSE", 0.05)
    monkeypatch.setattr(watching, "POLL", LONG)
    with Wire(behind.port) as redis:
        redis.ask("ACL", "SETUSER", "app", "-role")
        async with store_on(behind.url, client_cache=LONG) as store:
            told = Told(store, id := new_id())
            value = await stored(other, id)
            read = await stored(other, another := new_id())
            assert await store.load(another) == read
            assert copy(store, another) is None
            clients = redis.clients()
            redis.ask("ACL", "SETUSER", "app", "+role")
            async with asyncio.timeout(20):
                while copy(store, another) is None:
                    await store.load(another)
            await told.until(value)
            await told.until(await stored(other, id, value))
            assert redis.clients() == clients


async def test_rights_are_taken_away(behind: Server) -> None:
    """A server that refuses to tell its role proves nothing: its copies aren't served."""
    async with store_on(behind.url, client_cache=0.2) as store:
        id = new_id()
        await stored(store, id)
        await kept(store, id)
        with Wire(behind.port) as redis:
            redis.ask("ACL", "SETUSER", "app", "-role")
            await soon(lambda: copy(store, id) is None)
            await store.load(id)
            assert copy(store, id) is None
            redis.ask("ACL", "SETUSER", "app", "+role")
            await soon(lambda: copy(store, id) is not None)


async def test_the_right_is_enough(behind: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The user that `redis-sessions acl` makes may do all that copies and watching need."""
    async with store_on(behind.url, client_cache=0.2) as store:
        told = Told(store, id := new_id())
        value = await stored(store, id)
        await told.until(value)
        await kept(store, id)
    assert caplog.records == []
    with Wire(behind.port) as redis:
        assert redis.ask("ACL", "LOG") == []
