"""Connections that can't be had, and those that have to go."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from redis_sessions import RedisStore, SessionConflictError, StoreUnavailableError
from tests.integration.apps import Wire
from tests.support import StartServer

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
