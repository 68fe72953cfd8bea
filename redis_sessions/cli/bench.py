"""The command `bench`: how fast sessions are here, and what would make them faster."""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from secrets import token_hex
from textwrap import fill
from typing import Any, Final

from redis_sessions.cli.output import table, tell, write_json
from redis_sessions.cli.parser import Commands, positive
from redis_sessions.cli.setting import add_json, add_store, prefix_of, url_of
from redis_sessions.lifecycle.manager import SessionManager, backend_of
from redis_sessions.session.keyring import generate_key
from redis_sessions.session.record import tombstone
from redis_sessions.session.token import ID
from redis_sessions.stores.commands import IndexCommand
from redis_sessions.stores.redis import RedisStore, servers_of

__all__ = ["Figures", "add", "advice"]

_FAR: Final = 0.001  # seconds
_NEAR_COPIES: Final = 0.0005
_BUSY: Final = 0.9


def add(commands: Commands) -> None:
    """Add the command."""
    bench = commands.add(
        "bench",
        _bench,
        "Measure how fast sessions are here, and say what would make them faster.",
        """
        It reads and changes sessions of its own, under a prefix of its own below
        yours, with a secret key of its own, and removes them at the end (or their
        time to live does, within minutes). It opens no session of yours. It asks
        as much as one process can, so others on that Redis may notice it.

            redis-sessions bench
            redis-sessions bench --seconds 60 --at-once 200

        Run it where the application runs. It needs the rights of `redis-sessions
        acl --role admin`, or the application's.

        Exit status: 0; 2 if the store can't be used.
        """,
    )
    add_store(bench, argument=True)
    bench.add_argument(
        "--seconds", type=_seconds, default=10.0, help="how long, in all; default: 10"
    )
    bench.add_argument(
        "--at-once", type=positive, default=50, metavar="N", help="requests at once; default: 50"
    )
    bench.add_argument(
        "--size", type=positive, default=500, metavar="N", help="bytes of data; default: 500"
    )
    add_json(bench)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 3600:
        raise ArgumentTypeError("write seconds, above 0 and up to 3600")
    return seconds


@dataclass(frozen=True)
class Figures:
    """What was measured of one kind of work. Times are in seconds."""

    work: str
    at_once: int
    p50: float
    p99: float
    per_second: float
    busy: float
    """How much of the time this process' processor worked: 1.0 is all of it."""


def _bench(args: Namespace) -> int:
    loop = "uvloop" if find_spec("uvloop") else "asyncio"
    factory: Any = None
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        figures = runner.run(_measure_all(args))
    said = advice(figures, has_uvloop=loop == "uvloop")
    if args.json:
        write_json({"loop": loop, "figures": [vars(each) for each in figures], "advice": said})
        return 0
    table(["", "at once", "half within", "99 of 100 within", "per second"], map(_row, figures))
    tell("")
    for line in said:
        tell(fill(line, 88))
    return 0


def _row(each: Figures) -> list[str]:
    times = (f"{each.p50 * 1000:.2f} ms", f"{each.p99 * 1000:.2f} ms")
    return [each.work, str(each.at_once), *times, f"{each.per_second:,.0f}"]


def advice(figures: list[Figures], *, has_uvloop: bool) -> list[str]:
    """What would make it faster, in whole sentences."""
    ping, alone, *many = figures
    said: list[str] = []
    if ping.p50 > _FAR:
        said.append(
            f"A round trip to Redis takes {ping.p50 * 1000:.1f} ms, and each request that uses its "
            "session waits for at least one. Put both into one zone of one data center, or use a "
            "Unix socket on one machine."
        )
    if alone.p50 > _NEAR_COPIES:
        said.append(
            f"With near copies (client_cache=1.0) a process serves what it has read lately without "
            f"these {alone.p50 * 1000:.1f} ms: docs/near-copies.md."
        )
    if not has_uvloop:
        said.append("uvloop isn't installed. It is faster, and servers use it where it is.")
    if any(each.busy > _BUSY for each in many):
        said.append(
            "With many requests at once this process was the limit, and not Redis: it had one "
            "processor, and used all of it. Several workers do more."
        )
    elif many:
        said.append(
            "With many requests at once this process waited for Redis or for the network part of "
            "the time. `redis-sessions check` says more about the server."
        )
    return said


# -- measuring


async def _measure_all(args: Namespace) -> list[Figures]:
    async with _sessions(args) as (manager, tokens):
        store, seconds = backend_of(manager).store, args.seconds / 8
        assert isinstance(store, RedisStore)
        key = f"{store.prefix}ping"

        async def ping(_: str) -> float:
            began = time.perf_counter()
            await servers_of(store).index_commands.submit(IndexCommand(key, ("PING",)), 64)
            return time.perf_counter() - began

        async def read(token: str) -> float:
            began = time.perf_counter()
            await manager.load(token)
            return time.perf_counter() - began

        async def change(token: str) -> float:
            session = await manager.load(token)
            session["n"] += 1
            began = time.perf_counter()
            await manager.commit(session)
            return time.perf_counter() - began

        return [
            await _measure("PING", ping, tokens[:1], seconds),
            await _measure("read", read, tokens[:1], seconds),
            await _measure("read", read, tokens, 3 * seconds),
            await _measure("change", change, tokens, 3 * seconds),
        ]


async def _measure(
    work: str, once: Callable[[str], Awaitable[float]], tokens: list[str], seconds: float
) -> Figures:
    """How long it takes, if for each of these tokens it is done again and again."""
    times: list[float] = []
    for token in tokens:
        await once(token)  # the first one connects
    processor, began = time.process_time(), time.perf_counter()
    until = began + seconds

    async def repeat(token: str) -> None:
        while time.perf_counter() < until or not times:
            times.append(await once(token))

    await asyncio.gather(*map(repeat, tokens))
    took, busy = time.perf_counter() - began, time.process_time() - processor
    times.sort()
    last = len(times) - 1
    return Figures(
        work,
        len(tokens),
        p50=times[last // 2],
        p99=times[last * 99 // 100],
        per_second=len(times) / took,
        busy=busy / took,
    )


@asynccontextmanager
async def _sessions(args: Namespace) -> AsyncGenerator[tuple[SessionManager, list[str]]]:
    """As many sessions as there are requests at once; they are removed at the end."""
    prefix = f"{prefix_of(args)}bench:{token_hex(4)}:"
    store = RedisStore(url_of(args), prefix=prefix)
    manager = SessionManager(store, generate_key(), max_age=int(args.seconds) + 300)
    tokens: list[str] = []
    try:
        for _ in range(args.at_once):
            session = await manager.load()
            session.update(n=0, data="x" * args.size)
            answer = await manager.commit(session)
            assert answer.token is not None
            tokens.append(answer.token.value)
        yield manager, tokens
    finally:
        await asyncio.gather(*(store.end(token[ID], tombstone(0), 1) for token in tokens))
        name = f"{prefix}keys"
        for key in backend_of(manager).keyring.keys:
            forget = IndexCommand(name, ("HDEL", name, key.id.hex()))
            await servers_of(store).index_commands.submit(forget, 64)
        await store.close()
