"""Which connection a command goes over after one was left, and how often it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import pytest
from redis.asyncio import Connection, Redis

from redis_sessions import RedisStore, StoreUnavailableError
from tests.support.deployments import until
from tests.support.proxy import Proxy
from tests.support.redis_wire import Wire
from tests.support.servers import StartServer, as_app

ONE, OTHER = "A" * 20, "B" * 20


class Lasting(Connection):
    """A connection that a cancelled read doesn't close, as redis-py's own does."""

    async def read_response(self, *args: Any, **named: Any) -> Any:
        named["disconnect_on_error"] = False
        return cast("Any", await super().read_response(*args, **named))


@pytest.mark.parametrize("kind", [Connection, Lasting])
async def test_a_reply_that_nobody_reads(start_server: StartServer, kind: type[Connection]) -> None:
    """A read that was cancelled leaves its connection: what comes next gets a reply of its own."""
    server = start_server()
    with Wire.of(server.url) as redis, Proxy(server.port) as way:
        store = RedisStore(Redis.from_url(as_app(way.url), connection_class=kind))

        def reads() -> int:
            said = redis.ask("INFO", "commandstats").decode().partition("cmdstat_mget:calls=")[2]
            return int(said.partition(",")[0] or 0)

        async def sent(before: int) -> bool:
            return reads() > before

        for number, id in enumerate((ONE, OTHER)):
            await store.commit(id, None, bytes([number]) * 64, 60_000)
        for _ in range(3):
            await store.load(ONE)  # by itself
        before = reads()
        way.freeze(requests=False)
        reading = asyncio.ensure_future(store.load(ONE))
        await until(lambda: sent(before))
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        before, known = reads(), way.connections
        other = asyncio.ensure_future(store.load(OTHER))

        async def is_on_its_way() -> bool:
            return way.connections > known or await sent(before)

        await until(is_on_its_way)
        way.heal()
        assert await other == bytes([1]) * 64
        assert await store.load(ONE) == bytes([0]) * 64
        await store.close()


def load(store: RedisStore) -> Awaitable[object]:
    return store.load(ONE)


def commit(store: RedisStore) -> Awaitable[object]:
    return store.commit(ONE, None, bytes(64), 60_000)


def mark(store: RedisStore) -> Awaitable[object]:
    return store.mark("index", ONE, ttl=60_000)


@pytest.mark.parametrize(
    ("word", "act"), [(b"MGET", load), (b"EVALSHA", commit), (b"EVALSHA", mark)]
)
async def test_one_retry(
    start_server: StartServer, word: bytes, act: Callable[[RedisStore], Awaitable[object]]
) -> None:
    """What fails with its connection is sent once more, and not a third time."""
    with Proxy(start_server().port, refuses=word) as way:
        store = RedisStore(as_app(way.url))
        for number in (1, 2):
            with pytest.raises(StoreUnavailableError):
                await act(store)
            assert way.refused == 2 * number
        await store.close()
