"""Many callers of three processes, in virtual time: whatever is late, cancelled or fails."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redis_sessions import Cache, Commit, MemoryStore, generate_key
from redis_sessions.stores.protocols import Written
from tests.support.virtual_time import VirtualLoop, run

KEY = generate_key()


class Network(MemoryStore):
    """A store whose answers, and what it is asked, are late."""

    def __init__(self, chance: random.Random, loop: VirtualLoop) -> None:
        super().__init__(clock=loop.time)
        self._chance = chance

    async def load(self, id: str) -> bytes | None:
        found: bytes | None = await self._late(lambda: MemoryStore.load(self, id))
        return found

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        written: Written[Commit] = await self._late(
            lambda: MemoryStore.commit(self, id, expected, value, ttl)
        )
        return written

    async def _late(self, act: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(self._chance.choice([0, 0, 0.0005, 0.002, 0.05]))
        answer = await act()
        await asyncio.sleep(self._chance.choice([0, 0, 0.0005, 0.002, 0.05]))
        return answer


@pytest.mark.parametrize("cancels", [0.0, 0.4])
@pytest.mark.parametrize("fails", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_interleavings(
    monkeypatch: pytest.MonkeyPatch, seed: int, cancels: float, fails: float
) -> None:
    """Nobody has a value that was forgotten before they asked, nor waits for a load that ended."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    monkeypatch.setattr("redis_sessions.stores.single_flight.random", chance)
    monkeypatch.setattr("redis_sessions.cache.random", chance)
    version, forgotten = Counter[str](), Counter[str]()

    async def test(loop: VirtualLoop) -> None:
        monkeypatch.setattr("redis_sessions.stores.single_flight.clock", loop.time)
        store, asked = Network(chance, loop), 0
        caches = [Cache(store, KEY, clock=loop.time) for _ in range(3)]

        def whose(key: str) -> Cache:
            cache = chance.choice(caches)
            return cache.of_principal("alice") if key == "hers" else cache

        async def read() -> None:
            nonlocal asked
            key = chance.choice(["all", "hers"])

            async def load() -> int:
                await asyncio.sleep(chance.choice([0, 0.01, 0.5]))
                found = version[key]
                await asyncio.sleep(chance.choice([0, 0.01, 0.1]))
                if chance.random() < fails:
                    raise LookupError
                return found

            floor, began = forgotten[key], loop.time()
            asking: Any = whose(key).get_or_set(
                key,
                load,
                ttl=chance.choice([0.5, 2, 60]),
                stale_if_error=5,
                lock=3600,
                beta=chance.choice([0, 1, 5]),
            )
            try:
                if chance.random() < cancels:
                    asking = asyncio.wait_for(asking, chance.choice([0.0005, 0.002, 0.1]))
                assert await asking >= floor
                asked += 1
            except (LookupError, TimeoutError):
                pass
            assert loop.time() < began + 10

        async def reads() -> None:
            for _ in range(40):
                await asyncio.sleep(chance.uniform(0, 0.3))
                await read()

        async def writes() -> None:
            for _ in range(30):
                await asyncio.sleep(chance.uniform(0, 0.5))
                key = chance.choice(["all", "hers"])
                version[key] = written = version[key] + 1
                if key == "hers" and chance.random() < 0.5:
                    await chance.choice(caches).forget_principal("alice")
                else:
                    await whose(key).forget(key)
                forgotten[key] = max(forgotten[key], written)

        await asyncio.gather(*(reads() for _ in range(6)), writes())
        assert asked > 100

    run(test)
