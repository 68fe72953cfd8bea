"""What open sockets cost while nothing changes."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis

from redis_sessions import Keyring, RedisStore, SessionManager
from redis_sessions.testing import store_session
from tests.support.asgi import KEY
from tests.support.servers import as_owner
from tests.torture.soak import resident
from tests.torture.sockets.application import application
from tests.torture.sockets.figures import Fact
from tests.torture.sockets.fleet import each
from tests.torture.sockets.inside import Inside

_SETTLES: Final = 1.0
_ALLOWED: Final = 3
"""How many commands more than with one socket there may be, since heartbeats come now and then."""


class Cost(NamedTuple):
    """What so many open sockets take in some seconds."""

    sockets: int
    seconds: float
    cpu: float
    commands: int
    memory: int


async def costs(url: str, sockets: int, seconds: float = 5.0) -> list[Cost]:
    """With no watched session, with one, and with so many. Nobody asks Redis for more of them."""
    store = RedisStore(url, prefix="session:idle:")
    manager = SessionManager(store, Keyring(KEY))
    app = application(manager)

    async def begin(number: int) -> Inside:
        token = await store_session(manager, {"user_id": f"user-{number}"})
        socket = Inside(app, "/socket", token)
        await socket.opened.wait()
        return socket

    none = await _measure(url, 0, seconds)
    opened = [await begin(0)]
    one = await _measure(url, 1, seconds)
    opened += await each(range(1, sockets), begin)
    many = await _measure(url, sockets, seconds)
    assert not any(socket.task.done() for socket in opened)
    assert many.commands <= one.commands + _ALLOWED, (one, many)
    for socket in opened:
        socket.leave()
    await asyncio.gather(*(socket.task for socket in opened))
    await store.close()
    return [none, one, many]


def facts(costs: Sequence[Cost], where: str) -> list[Fact]:
    """The same as rows of a table."""
    rows = [
        Fact(
            f"{each.seconds:g} s with {each.sockets} open sockets, in which nothing changes",
            where,
            f"{each.cpu * 1000:.1f} ms of CPU, {each.commands} commands",
        )
        for each in costs
    ]
    _, one, many = costs
    size = (many.memory - one.memory) / 1024 / max(1, many.sockets - one.sockets)
    return [*rows, Fact("memory of an open socket, in process", where, f"{size:.1f} KiB")]


async def _measure(url: str, sockets: int, seconds: float) -> Cost:
    async with Redis.from_url(as_owner(url)) as redis:
        await asyncio.sleep(min(seconds, _SETTLES))
        gc.collect()
        commands, began = await _commands(redis), time.process_time()
        await asyncio.sleep(seconds)
        used = time.process_time() - began
        sent = await _commands(redis) - commands - 1  # the question itself
        return Cost(sockets, seconds, used, sent, resident())


async def _commands(redis: Redis) -> int:
    info: Any = await redis.info("stats")
    return int(info["total_commands_processed"])
