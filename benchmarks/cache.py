"""The cache beside aiocache and fastapi-cache2, in turns, over one Redis.

`python -m benchmarks.cache` needs both, without their extras, which bound redis-py:

    pip install 'aiocache>=0.12.3' 'fastapi-cache2>=0.2.2'

`python -m benchmarks.cache --stampede` has 4 processes miss one key at once, 1,000 times each, and
says how often it was loaded. `--quick` is a tiny run, to see that it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis

from benchmarks.figures import environment
from benchmarks.ratios import Rounds, ratio
from benchmarks.servers import serving
from redis_sessions import Cache, generate_key

KEY: Final = os.environ.get("BENCHMARK_KEY") or generate_key()
"""The processes of one run have the same."""
ROW: Final = {
    "id": 7,
    "name": "Ada Lovelace",
    "email": "ada@example.com",
    "role": "admin",
    **{f"setting-{n}": f"value-{n}" for n in range(10)},
}
OURS: Final = "redis-sessions"
LANES: Final = (1, 64)

Get = Callable[[int], Awaitable[Any]]
"""The value of this key, which is loaded if it is missing."""


async def load(_: int = 0) -> dict[str, Any]:
    return ROW


async def ours(url: str, stack: AsyncExitStack) -> Get:
    cache = Cache(url, KEY)
    stack.push_async_callback(cache.close)
    return lambda key: cache.get_or_set(f"row:{key}", load, ttl=3600)


async def aiocache(url: str, stack: AsyncExitStack) -> Get:
    library: Any = import_module("aiocache")
    at = urlsplit(url)
    get: Any = library.cached(
        ttl=3600,
        cache=library.Cache.REDIS,
        endpoint=at.hostname,
        port=at.port,
        key_builder=_row,
        serializer=import_module("aiocache.serializers").JsonSerializer(),
    )(load)
    stack.push_async_callback(get.cache.close)
    return cast("Get", get)


async def fastapi_cache(url: str, stack: AsyncExitStack) -> Get:
    client = Redis.from_url(url)
    stack.push_async_callback(client.aclose)
    backend: Any = import_module("fastapi_cache.backends.redis").RedisBackend(client)
    import_module("fastapi_cache").FastAPICache.init(backend, prefix="fastapi-cache")
    return cast("Get", import_module("fastapi_cache.decorator").cache(expire=3600)(load))


def _row(_: object, key: int) -> str:
    return f"row:{key}"


CONTENDERS: Final = {OURS: ours, "aiocache": aiocache, "fastapi-cache2": fastapi_cache}


class Spent(NamedTuple):
    """Microseconds for each call: of time, and of this process' CPU."""

    wall: float
    cpu: float


async def spent(get: Get, keys: list[int], lanes: int) -> Spent:
    """So many calls under way at any time."""
    left = iter(keys)

    async def lane() -> None:
        for key in left:
            assert (await get(key))["id"] == 7

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(lane() for _ in range(lanes)))
    spent = time.perf_counter() - wall, time.process_time() - cpu
    return Spent(*(1e6 * each / len(keys) for each in spent))


async def measure(url: str, rounds: int, calls: int) -> list[dict[str, Any]]:
    """One row for each round, contender, kind of call and number of calls under way."""
    rows, fresh = list[dict[str, Any]](), count(1000)
    async with AsyncExitStack() as stack:
        getters = {name: await make(url, stack) for name, make in CONTENDERS.items()}
        for get in getters.values():
            await spent(get, [*range(100)], 64)
        for number in range(rounds):
            for lanes in LANES:
                for name, get in getters.items():
                    hits = [n % 100 for n in range(calls)]
                    misses = [next(fresh) for _ in range(calls // 4)]
                    for kind, keys in (("hit", hits), ("miss", misses)):
                        each = await spent(get, keys, lanes)
                        row = {"round": number, "contender": name, "kind": kind, "lanes": lanes}
                        rows.append(row | each._asdict())
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The best round of each in µs, and ours divided by each of the others."""
    others = [name for name in CONTENDERS if name != OURS]
    head = ["", "in flight", "", *CONTENDERS, *(f"ours ÷ {name}" for name in others)]
    lines = [head, ["---"] * len(head)]
    for kind in ("hit", "miss"):
        for lanes in LANES:
            for measure in Spent._fields:
                wanted = [row for row in rows if (row["kind"], row["lanes"]) == (kind, lanes)]
                rounds = {
                    name: Rounds([row[measure] for row in wanted if row["contender"] == name])
                    for name in CONTENDERS
                }
                figures = [f"{each.best():.0f} µs" for each in rounds.values()]
                shares = [str(ratio(rounds[OURS], rounds[name])) for name in others]
                lines.append([kind, str(lanes), measure, *figures, *shares])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- one key, missed by many at once


async def miss(url: str, file: str, calls: int) -> None:
    """Say that this process is ready, wait for a line, and miss."""

    async def slow() -> dict[str, Any]:
        with Path(file).open("a") as loads:  # noqa: ASYNC230 - other processes write it, too
            loads.write("x")
        await asyncio.sleep(0.1)
        return ROW

    cache = Cache(url, KEY)
    await cache.get_or_set(f"warm:{os.getpid()}", load, ttl=60)
    print(flush=True)
    sys.stdin.readline()
    await asyncio.gather(*(cache.get_or_set("key", slow, ttl=60) for _ in range(calls)))
    await cache.close()


def stampede(url: str, processes: int, calls: int) -> int:
    """How often the value was loaded."""
    with TemporaryDirectory() as directory:
        file = Path(directory) / "loads"
        command = [sys.executable, "-m", "benchmarks.cache", "--miss", url, str(file), str(calls)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        pipes["env"] = {**os.environ, "BENCHMARK_KEY": KEY}
        running = [subprocess.Popen(command, **pipes) for _ in range(processes)]
        for each in running:
            assert each.stdout is not None
            each.stdout.readline()
        for each in running:
            each.communicate("\n")
            assert each.returncode == 0
        return len(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=4000, help="hits in each part of a round")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--stampede", action="store_true")
    parser.add_argument("--output", type=Path, help="a file for the figures, as JSON")
    parser.add_argument("--miss", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.miss:
        url, file, calls = options.miss
        asyncio.run(miss(url, file, int(calls)))
        return
    with serving("redis") as server:
        if options.stampede:
            processes, calls = (2, 50) if options.quick else (4, 1000)
            loads = stampede(server.url, processes, calls)
            print(f"{processes} processes, {calls} concurrent misses in each: loaded {loads} times")
            return
        rounds, calls = (2, 200) if options.quick else (options.rounds, options.calls)
        rows = asyncio.run(measure(server.url, rounds, calls))
        print(table(rows))
        if options.output is not None:
            options.output.write_text(json.dumps({**environment(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
