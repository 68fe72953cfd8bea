"""A store with near copies, or with watched ids, as a test looks at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from secrets import token_bytes
from typing import Any

from redis_sessions import RedisStore
from redis_sessions.session.record import tombstone
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import Commit

MINUTE = 60_000
LONG = 10.0
"""Such a bound plays no role: a copy that isn't there was removed."""


def new_id() -> str:
    return SessionToken.generate().id


def record(rotated_at: int = 0) -> bytes:
    """Bytes that begin and are as long as those of a record, with a version of their own."""
    return tombstone(rotated_at) + token_bytes(50)


def ended() -> bytes:
    return tombstone(0)


@asynccontextmanager
async def store_on(
    url: str, prefix: str = "session:", **options: Any
) -> AsyncGenerator[RedisStore]:
    """A store that is closed at the end."""
    store = RedisStore(url, prefix=prefix, **options)
    try:
        yield store
    finally:
        await store.close()


async def soon(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until it is true; asked again and again, since servers and networks decide when."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def copy(store: RedisStore, id: str) -> bytes | None:
    """The bytes of the near copy, if one would be served."""
    found = store.near_copy(id)
    return None if found is None else found.value


async def stored(store: RedisStore, id: str, expected: bytes | None = None) -> bytes:
    """A record that has just been stored."""
    value = record()
    version = None if expected is None else expected[:33]
    assert (await store.commit(id, version, value, MINUTE)).result is Commit.STORED
    return value


async def served_at_most(store: RedisStore, id: str, value: bytes) -> None:
    """Wait until no other copy than this record is served."""
    await soon(lambda: copy(store, id) in (None, value))


async def kept(store: RedisStore, id: str) -> bytes:
    """A record that this store has read, and has a copy of."""
    value = await store.load(id)
    assert value is not None
    await soon(lambda: copy(store, id) == value)
    return value


class Told:
    """All that a store tells of one id."""

    def __init__(self, store: RedisStore, id: str) -> None:
        self.values: list[bytes | None] = []
        self._news = asyncio.Event()
        self.stop = store.watch(id, self._note)

    def _note(self, value: bytes | None) -> None:
        self.values.append(value)
        self._news.set()

    async def until(self, value: bytes | None) -> None:
        """Wait until it is the last that was told."""
        async with asyncio.timeout(20):
            while self.values[-1:] != [value]:
                self._news.clear()
                await self._news.wait()


def timers() -> list[Any]:
    """What a store has the running loop call later."""
    scheduled: list[Any] = vars(asyncio.get_running_loop())["_scheduled"]
    return [
        timer
        for timer in scheduled
        if not timer.cancelled() and timer._callback.__module__.startswith("redis_sessions.")
    ]
