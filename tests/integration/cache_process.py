"""A process that misses a key of the cache many times at once, when it is told to."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from redis_sessions import Cache, RedisStore


async def miss(url: str, prefix: str, key: str, file: str) -> None:
    """50 concurrent misses. Each load is noted in a file."""

    async def load() -> str:
        with Path(file).open("a") as loads:  # noqa: ASYNC230 - other processes write it, too
            loads.write("x")
        await asyncio.sleep(0.05)  # as a database takes
        return "value"

    cache = Cache(RedisStore(url, prefix=prefix), key)
    asked = (cache.get_or_set("key", load, ttl=60) for _ in range(50))
    assert set(await asyncio.gather(*asked)) == {"value"}
    await cache.close()


if __name__ == "__main__":
    print(flush=True)
    sys.stdin.readline()
    asyncio.run(miss(*sys.argv[1:]))
