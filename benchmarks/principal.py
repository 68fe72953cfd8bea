"""python -m benchmarks.principal: one principal with up to a million sessions and ends.

What a sign-in, a list, a sign-out and `revoke_all` of that principal cost, and how long a read of
somebody else's session waits meanwhile, in another process.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final

from redis import Redis

from benchmarks.markdown import markdown
from benchmarks.servers import serving, version_of
from redis_sessions import Keyring, RedisStore, SessionManager, generate_key
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.token import SessionToken
from redis_sessions.testing import store_session

SIZES: Final = (10, 1_000, 100_000, 1_000_000)
AT_ONCE: Final = 500
DAY: Final = 24 * 3_600_000
RECORD: Final = b"\x01" * 250


@dataclass
class Reader:
    """Another process, which reads somebody else's session again and again."""

    url: str
    key: str
    waits: dict[str, float] = field(default_factory=dict[str, float])
    """The longest wait during each of what was measured, in ms."""

    def __post_init__(self) -> None:
        self._here, there = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_read, args=(self.url, self.key, there), daemon=True
        )
        self._process.start()
        self._here.recv()

    @asynccontextmanager
    async def during(self, what: str) -> AsyncGenerator[None]:
        self._ask()
        yield
        self.waits[what] = self._ask()

    def _ask(self) -> float:
        self._here.send("worst")
        worst: float = self._here.recv()
        return worst

    def stop(self) -> None:
        self._here.send("stop")
        self._process.join()


def _read(url: str, key: str, ask: Connection) -> None:
    client, worst = Redis.from_url(url), 0.0
    client.get(key)
    ask.send("ready")
    while True:
        start = time.perf_counter()
        client.get(key)
        worst = max(worst, (time.perf_counter() - start) * 1000)
        if ask.poll():
            if ask.recv() == "stop":
                return
            ask.send(worst)
            worst = 0.0


async def _fill(manager: SessionManager, count: int) -> None:
    """So many live sessions of alice's, and so many that she has signed out of."""
    store, key = manager.store, backend_of(manager).keyring.primary.index("alice")

    async def signed_in() -> None:
        id = SessionToken.generate().id
        await store.enter(key, id, age=0, own=-1, ttl=14 * DAY, descriptor=b"x" * 90)
        await store.commit(id, None, RECORD, DAY)

    async def signed_out() -> None:
        await store.mark(key, SessionToken.generate().id, ttl=14 * DAY)

    for each in (signed_in, signed_out):
        for start in range(0, count, AT_ONCE):
            await asyncio.gather(*(each() for _ in range(min(AT_ONCE, count - start))))


async def _sign_in(manager: SessionManager) -> str:
    session = await manager.load()
    session["user_id"] = "alice"
    token = (await manager.commit(session)).token
    assert token is not None
    return token.value


async def _sign_out(manager: SessionManager) -> None:
    session = await manager.load(await _sign_in(manager))
    session.clear()
    await manager.commit(session)


async def _mean(act: Callable[[], Awaitable[Any]], times: int = 200) -> float:
    start = time.perf_counter()
    for _ in range(times):
        await act()
    return (time.perf_counter() - start) * 1000 / times


async def measure(url: str, count: int) -> dict[str, str]:
    store = RedisStore(url)
    manager = SessionManager(store, Keyring(generate_key()))
    other = await store_session(manager, {"user_id": "bob"})
    await _fill(manager, count)
    index = f"{store.prefix}of:{backend_of(manager).keyring.primary.index('alice')}"
    reader = Reader(url, store.prefix + other[:20])
    try:
        async with reader.during("sign-in"):
            sign_in = await _mean(lambda: _sign_in(manager))
        async with reader.during("sign-out"):
            both = await _mean(lambda: _sign_out(manager))
        async with reader.during("list"):
            start = time.perf_counter()
            listed = len(await manager.sessions_of("alice"))
            list_ms = (time.perf_counter() - start) * 1000
        async with reader.during("first"):
            key = backend_of(manager).keyring.primary.index("alice")
            first = await _mean(lambda: store.revoke(key, keep=None, memory=DAY), 20)
        async with reader.during("all"):
            start = time.perf_counter()
            ended = await manager.revoke_all("alice")
            all_ms = (time.perf_counter() - start) * 1000
        with Redis.from_url(url) as client:
            left: Any = client.memory_usage(index, samples=0)
    finally:
        reader.stop()
        await manager.close()
    assert ended >= count
    return {
        "sessions, and ends": f"{count:,}",
        "sign-in": f"{sign_in:.2f} ms",
        "sign-in and sign-out": f"{both:.2f} ms",
        "list": f"{list_ms:,.0f} ms ({list_ms * 1000 / listed:.0f} µs each)",
        "`revoke_all`: takes effect": f"{first:.2f} ms",
        "has ended all": f"{all_ms:,.0f} ms ({all_ms * 1000 / ended:.0f} µs each)",
        "another's read waits at most, during these": " / ".join(
            f"{reader.waits[name]:.1f}" for name in ("sign-in", "sign-out", "list", "first", "all")
        )
        + " ms",
        "index afterwards": f"{left / 1024:.0f} kB",
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.principal", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    rows: list[dict[str, str]] = []
    for count in parser.parse_args().sizes:
        with serving("redis") as server:
            rows.append(asyncio.run(measure(server.url, count)))
            print(rows[-1], flush=True)
    table = markdown([list(rows[0]), *(list(row.values()) for row in rows)])
    print(f"\n{version_of('redis')}\n\n{table}")


if __name__ == "__main__":
    main()
