"""SWAPDB: the server puts another database into the place of one, and tells of no key."""

from __future__ import annotations

from functools import partial

import pytest

from redis_sessions import RedisStore
from tests.support.near import Told, copy, kept, new_id, soon, store_on, stored
from tests.support.redis_wire import Wire
from tests.support.servers import SERVERS, StartServer

pytestmark = pytest.mark.anyio


def has_none(store: RedisStore, id: str) -> bool:
    return copy(store, id) is None


@pytest.mark.parametrize("kind", SERVERS)
async def test_databases_are_swapped(start_server: StartServer, kind: str) -> None:
    """No copy of the former database is served any more, each time anew."""
    server = start_server(kind=kind)
    async with store_on(server.url, client_cache=0.3) as store:
        with Wire(server.port) as redis:
            for _ in range(3):
                await stored(store, id := new_id())
                await kept(store, id)
                redis.ask("SWAPDB", 0, 1)
                await soon(partial(has_none, store, id))
                assert await store.load(id) is None


@pytest.mark.parametrize("kind", SERVERS)
async def test_databases_are_swapped_under_those_who_watch(
    start_server: StartServer, kind: str
) -> None:
    """They are told what the other database has."""
    server, id = start_server(kind=kind), new_id()
    async with store_on(server.url, client_cache=0.3) as store:
        value = await stored(store, id)
        told = Told(store, id)
        await told.until(value)
        with Wire(server.port) as redis:
            redis.ask("SWAPDB", 0, 1)
            await told.until(None)
            redis.ask("SWAPDB", 0, 1)
            await told.until(value)


async def test_a_user_who_may_not_ask(start_server: StartServer) -> None:
    """There are copies and notices as ever: that INFO is refused is no reason to drop any."""
    server, id = start_server(), new_id()
    with Wire(server.port) as redis:
        redis.ask("ACL", "SETUSER", "app", "-info")
        async with store_on(server.url, client_cache=0.3) as store:
            told = Told(store, id)
            value = await stored(store, id)
            await told.until(value)
            asked = denials(redis)
            await soon(lambda: denials(redis) > asked)
            assert await kept(store, id) == value


def denials(redis: Wire) -> int:
    """How often the server has refused INFO."""
    (entry,) = redis.ask("ACL", "LOG")
    return int(entry[entry.index(b"count") + 1])
