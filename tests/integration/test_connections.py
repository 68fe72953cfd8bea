"""Connections that can't be had, and those that have to go."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redis_sessions import (
    ConfigurationError,
    RedisStore,
    SessionConflictError,
    StoreUnavailableError,
)
from redis_sessions.stores import Commit
from redis_sessions.testing import topology
from tests.support.redis_wire import Wire
from tests.support.servers import SERVERS, StartServer, as_user, free_port

ID = "A" * 20


def ids(redis: Wire) -> set[str]:
    """The connections of others, as the server numbers them."""
    own = f"id={redis.ask('CLIENT', 'ID')} "
    lines = redis.ask("CLIENT", "LIST").decode().splitlines()
    return {line.split()[0] for line in lines if not line.startswith(own)}


async def test_a_server_that_takes_no_more(start_server: StartServer) -> None:
    """What needs another connection may fail; the one that is there stays, and serves."""
    server = start_server()
    store = RedisStore(server.url)
    with Wire.of(server.url) as redis:
        await store.load(ID)
        held = ids(redis)
        assert len(held) == 1
        redis.ask("CONFIG", "SET", "maxclients", 2)
        for _ in range(5):
            several = (store.load(ID), store.commit(ID, None, bytes(64), 1000), store.entries("x"))
            for result in await asyncio.gather(*several, return_exceptions=True):
                assert not isinstance(result, Exception) or type(result) is StoreUnavailableError
            assert ids(redis) == held
        assert await store.load(ID) == bytes(64)
    await store.close()


async def test_locks_that_are_waited_for_while_it_closes(start_server: StartServer) -> None:
    """They may get theirs still; in the end there is no connection left."""
    server = start_server()
    store = RedisStore(server.url)

    async def take(taken: asyncio.Event) -> None:
        with suppress(StoreUnavailableError, SessionConflictError):
            async with store.lock(ID, wait=0.5, hold=5):
                taken.set()
                await asyncio.wait([closing])

    taken = asyncio.Event()
    closing = asyncio.ensure_future(taken.wait())
    tasks = [asyncio.create_task(take(taken)) for _ in range(6)]
    await taken.wait()
    with Wire.of(server.url) as redis:
        while len(ids(redis)) < 2:  # the others wait for it
            await store.load(ID)
        await store.close()
        await asyncio.gather(*tasks)
        assert ids(redis) == set()


async def test_locks_while_a_server_hangs(start_server: StartServer) -> None:
    """Once that is known, one that is asked for waits, and the others are refused at once."""
    server = start_server()
    store = RedisStore(server.url)

    async def take(number: int) -> None:
        async with store.lock(f"{number:020d}", wait=1, hold=5):
            pass

    await store.load(ID)
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailableError):
        await store.load(ID)
    locks = [asyncio.create_task(take(number)) for number in range(10)]
    _, waiting = await asyncio.wait(locks, timeout=store.timeout / 2)
    assert len(waiting) == 1
    server.process.send_signal(signal.SIGCONT)
    found = await asyncio.gather(*locks, return_exceptions=True)
    assert sum(isinstance(each, StoreUnavailableError) for each in found) == 9
    await take(0)
    await store.close()


async def test_closing_while_sentinels_are_asked(sentinel_topology: topology.Topology) -> None:
    """Whoever takes a lock meanwhile gets it, or hears of it as of any connection's end."""
    ends = (type(None), SessionConflictError, StoreUnavailableError)

    async def take(number: int) -> None:
        async with store.lock(f"{number:020d}", wait=0.1, hold=5):
            pass

    for ticks in range(25):  # at each of the first steps
        store = RedisStore(sentinel_topology.url)
        locks = [asyncio.create_task(take(number)) for number in range(6)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        await store.close()
        found = await asyncio.gather(*locks, return_exceptions=True)
        assert not [each for each in found if not isinstance(each, ends)]
        await store.close()


@pytest.mark.parametrize("kind", [topology.tls, partial(topology.sentinel, tls=True)])
async def test_closing_while_a_server_hangs_over_tls(server_binary: Path, kind: Any) -> None:
    """It says no goodbye; that is waited for, but no error."""
    with kind(server=server_binary) as running:
        store = RedisStore(running.url, timeout=0.5)
        await store.load(ID)
        for node in running.nodes:
            node.pause()
        await store.close()
        for node in running.nodes:
            node.resume()


async def test_a_request_that_was_cancelled(start_server: StartServer) -> None:
    """It takes its own connection with it, and not those that others may not get again."""
    server = start_server()
    store = RedisStore(server.url)
    with Wire.of(server.url) as redis:
        await store.load(ID)
        await asyncio.gather(store.load(ID), store.commit(ID, None, bytes(64), 60_000))
        await store.load(ID)  # alone
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.load(ID), 0.1)
        server.process.send_signal(signal.SIGCONT)
        assert await store.load(ID) == bytes(64)
        held = ids(redis)
        redis.ask("CONFIG", "SET", "maxclients", 1 + len(held))
        await asyncio.gather(store.load(ID), store.entries("x"), return_exceptions=True)
        assert ids(redis) == held
    await store.close()


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("what", ["record", "index"])
async def test_a_primary_that_was_demoted(start_server: StartServer, kind: str, what: str) -> None:
    """Nobody keeps a connection to it: its name may lead to another server by now."""
    server = start_server(kind=kind)
    store = RedisStore(server.url)
    with Wire.of(server.url) as redis:
        await asyncio.gather(  # records and indexes have a connection each
            store.load(ID),
            store.commit("B" * 20, None, bytes(64), 60_000),
            store.mark("other", ID, ttl=60_000),
        )
        redis.ask("REPLICAOF", "127.0.0.1", free_port())
        await store.load(ID)
        known = ids(redis)
        assert len(known) == 2
        with pytest.raises(StoreUnavailableError, match="read only") as refused:
            if what == "record":
                await store.commit(ID, None, bytes(64), 60_000)
            else:
                await store.mark("index", ID, ttl=60_000)
        assert refused.value.reason == "server"
        await store.load(ID)
        assert not known & ids(redis)
    await store.close()


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),  # all of a batch
        (  # each write by itself
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
        ),
    ],
)
async def test_refused_writes_are_logged_once(
    start_server: StartServer,
    caplog: pytest.LogCaptureFixture,
    begin: tuple[str, ...],
    end: tuple[str, ...],
) -> None:
    """Reading goes on meanwhile, which doesn't end the trouble; the first write does."""
    server = start_server()
    store = RedisStore(server.url)
    with Wire.of(server.url) as redis, caplog.at_level(logging.WARNING, "redis_sessions"):
        redis.ask(*begin)
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await store.commit(ID, None, bytes(64), 60_000)
            await asyncio.gather(store.load(ID), store.load(ID), store.entries("index"))
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        redis.ask(*end)
        assert (await store.commit(ID, None, bytes(64), 60_000)).result is Commit.STORED
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    await store.close()


async def test_a_script_that_may_not_be_loaded(start_server: StartServer) -> None:
    """What is refused is the right to load it, and that is what one is told."""
    server = start_server()
    with Wire.of(server.url) as redis:
        redis.ask("ACL", "SETUSER", "other", "on", ">sesame", "~*", "+@all", "-script")
    store = RedisStore(as_user(server.url, "other:sesame"))
    with pytest.raises(StoreUnavailableError, match="script") as refused:
        await store.commit(ID, None, bytes(64), 60_000)
    assert refused.value.reason == "refused"
    with pytest.raises(ConfigurationError, match="give the user the rights"):
        await store.connect()
    await store.close()
