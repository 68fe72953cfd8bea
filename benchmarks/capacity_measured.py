"""The figures of benchmarks/capacity.py, measured: bytes and CPU on a private server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.capacity import Figures
from redis_sessions import Keyring, RedisStore, SessionManager, SessionMiddleware, generate_key
from redis_sessions.session.values import Values
from redis_sessions.testing import store_session
from redis_sessions.testing.topology import Node, single


def measured(sessions: int) -> Figures:
    """With so many sessions for each figure of bytes; it takes half a minute for 30,000."""
    with single() as topology:
        return asyncio.run(_measure(topology.primary, sessions))


class _Meter:
    """The CPU of a server and of this process, for each of `count` requests."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def redis_cpu(self) -> float:
        found = self._node.ask("INFO", "cpu")
        return 1e6 * sum(float(found[f"used_cpu_{kind}_main_thread"]) for kind in ("sys", "user"))

    def memory(self) -> int:
        return int(self._node.ask("INFO", "memory")["used_memory"])

    async def cost(
        self, one: Callable[[int], Awaitable[object]], count: int, lanes: int
    ) -> tuple[float, float]:
        """Microseconds of the server, and of this process, for each `one(number)`."""
        numbers = iter(range(count))

        async def lane() -> None:
            for number in numbers:
                await one(number)

        before, own = self.redis_cpu(), time.process_time()
        await asyncio.gather(*(lane() for _ in range(lanes)))
        own = time.process_time() - own
        return (self.redis_cpu() - before) / count, own * 1e6 / count


def _session(size: int, user: int | None) -> dict[str, Any]:
    """A session of about `size` bytes of encoded data."""
    data: dict[str, Any] = {"n": 1} if user is None else {"n": 1, "user_id": user}
    data["text"] = "x" * (size - len(Values(max_size=size).encode(data)) - 8)
    return data


async def _grown(meter: _Meter, make: Callable[[int], Awaitable[object]], count: int) -> float:
    before = meter.memory()
    lanes = iter(range(count))

    async def lane() -> None:
        for number in lanes:
            await make(number)

    await asyncio.gather(*(lane() for _ in range(64)))
    return (meter.memory() - before) / count


async def _bytes(meter: _Meter, manager: SessionManager, count: int) -> list[float]:
    """`record`, `data`, `index` and `entry` of the figures."""

    async def new(size: int, first: int, principals: int, number: int) -> None:
        user = first + number % principals if principals else None
        await store_session(manager, _session(size, user))

    small = await _grown(meter, partial(new, 300, 0, 0), count)
    large = await _grown(meter, partial(new, 2_000, 0, 0), count)
    one = await _grown(meter, partial(new, 300, 10**9, count), count)
    hundred = await _grown(meter, partial(new, 300, 2 * 10**9, count // 100), count)
    data = (large - small) / 1_700
    return [small - 300 * data, data, one - small, hundred - small]


async def _measure(node: Node, count: int) -> Figures:
    meter, later = _Meter(node), 0.0
    store = RedisStore(node.url)
    manager = SessionManager(store, Keyring(generate_key()), clock=lambda: time.time() + later)
    sizes = await _bytes(meter, manager, count)
    node.ask("FLUSHALL", "SYNC")
    tokens = [await store_session(manager, _session(300, number)) for number in range(2_000)]
    middleware = SessionMiddleware(_application, manager=manager)

    async def read(number: int) -> None:
        await manager.load(tokens[number % len(tokens)])

    async def change(number: int) -> None:
        session = await manager.load(tokens[number % len(tokens)])
        session["n"] = number
        await manager.commit(session)

    async def touch(number: int) -> None:
        await manager.commit(await manager.load(tokens[number]))

    async def sign_in(number: int) -> None:
        await store_session(manager, _session(300, 10**9 + number))

    async def request(number: int) -> None:
        cookie = b"__Host-session=" + tokens[number % len(tokens)].encode()
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"cookie", cookie)]}
        await middleware(scope, _receive, _send)

    await meter.cost(read, 20_000, 64)  # warms up
    alone, _ = await meter.cost(read, 10_000, 1)
    of_many, _ = await meter.cost(read, 40_000, 64)
    changing, _ = await meter.cost(change, 10_000, 1)
    touching = list[float]()
    for _ in range(5):
        later += 600  # seconds: longer than between two touches
        touching.append((await meter.cost(touch, len(tokens), 1))[0])
    signing, _ = await meter.cost(sign_in, 10_000, 1)
    _, worker = await meter.cost(request, 40_000, 64)
    ending = await _end_all(store, meter)
    await manager.close()
    record, data, index, entry = sizes
    return Figures(
        record=record,
        data=data,
        index=index,
        entry=entry,
        read=alone,
        read_of_many=of_many,
        change=changing - alone,
        touch=fmean(touching) - alone,
        sign_in=signing,
        worker=worker,
        end_all=ending,
    )


async def _end_all(store: RedisStore, meter: _Meter, entries: int = 50_000) -> float:
    async def enter(number: int) -> None:
        id = f"{number:020}"
        await store.enter("e" * 32, id, age=0, own=-1, ttl=10**9, descriptor=b"x" * 90)

    await meter.cost(enter, entries, 64)
    before = meter.redis_cpu()
    cursor = -1
    revoked, _ = await store.revoke("e" * 32, keep=None, memory=10**9)
    while cursor != 0:
        cursor, page = await store.entries("e" * 32, max(0, cursor))
        await store.remove("e" * 32, [entry.id for entry in page], until=revoked)
    return (meter.redis_cpu() - before) / entries


async def _application(scope: Any, _: Any, send: Any) -> None:
    assert scope["session"]["user_id"] is not None
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _receive() -> Any:
    return {"type": "http.request"}


async def _send(message: Any) -> None:
    pass
