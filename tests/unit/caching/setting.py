"""A cache over a store in memory, and loaders that count."""

# It looks into the store, and forges what is there.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis_sessions import Cache, Event
from redis_sessions.testing import Clock
from tests.support.stores import UnreliableStore
from tests.unit.setting import KEY


class Loads:
    """A loader that counts its calls, and that waits if the test says so."""

    def __init__(self, value: Any = "value") -> None:
        self.value = value
        self.calls = 0
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self) -> Any:
        self.calls += 1
        value = self.value
        self.began.set()
        await self.go_on.wait()
        if isinstance(value, BaseException):
            raise value
        return value


def paused(value: Any) -> Loads:
    """A loader that waits until `go_on` is set."""
    load = Loads(value)
    load.go_on.clear()
    return load


class Kept:
    """A cache and its store. Another process has a cache of its own on this store."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = UnreliableStore(clock=self.clock)
        self.events: list[Event] = []
        self.cache = self.another()

    def another(self, keys: Any = KEY, **options: Any) -> Cache:
        return Cache(self.store, keys, clock=self.clock, on_event=self.events.append, **options)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the event loop turn until it is true."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)

    def entries(self) -> dict[str, bytes]:
        """What is stored, by id."""
        return {id: value for id, (value, _) in self.store._records.items()}

    def put(self, id: str, value: bytes) -> None:
        self.store._put(id, value, 60_000)
