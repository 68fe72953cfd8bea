"""When each session ends unless it is touched: a schedule in 16 shards, beside the records.

It is kept for `on_expired=` only. It never decides whether a session is over: the record does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from heapq import nsmallest
from math import ceil
from operator import itemgetter
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakKeyDictionary, ref
from zlib import crc32

from redis_sessions.errors import ConfigurationError
from redis_sessions.stores.commands import SCHEDULE, IndexCommand
from redis_sessions.stores.index_replies import checked
from redis_sessions.stores.memory import MemoryStore
from redis_sessions.stores.protocols import Store
from redis_sessions.stores.redis import RedisStore, servers_of

__all__ = ["SHARDS", "Due", "Schedule", "schedule_of", "shard_of", "try_schedule"]

SHARDS: Final = tuple("0123456789abcdef")

_TRIED: Final = 500
"""How many entries `try_schedule` asks for."""
_MARKED: Final = 60_000
"""How many milliseconds it is known that a session has ended in another way."""
_KEPT: Final = 30 * 24 * 3600 * 1000
"""How many milliseconds an end is kept that nobody asks for."""
_NO_TTL: Final = 24 * 3600 * 1000
"""When somebody has taken a record's time to live away, it is looked at again after a day."""


class Due(NamedTuple):
    """One session that may have run out."""

    id: str
    at: int
    """When it was to end, in milliseconds since the epoch on the server's clock."""
    about: bytes
    """What was noted with it. It is sealed, and nobody has checked it yet."""


class Schedule(Protocol):
    """When sessions end. Each operation is atomic, may be repeated, and raises `StoreError`."""

    def note(self, id: str, ttl: int, about: bytes) -> Awaitable[Any]:
        """Note that a session ends in `ttl` milliseconds. This replaces what was noted before.

        `about` has at least one byte. The call has no effect if `end` was called for this id in the
        last minute.
        """
        ...

    def end(self, id: str) -> Awaitable[Any]:
        """Note that a session has ended in another way, so that it isn't told as run out.

        The call has no effect if nothing is noted in its shard.
        """
        ...

    async def due(self, shard: str, count: int) -> tuple[list[Due], bool]:
        """Up to `count` entries whose time has come, and whether there may be more.

        They stay in the schedule until `remove`.
        """
        ...

    async def remove(self, shard: str, entries: Sequence[Due]) -> None:
        """Remove these, at most 500, unless something else was noted since they were due."""
        ...

    async def left(self, id: str) -> int | None:
        """Milliseconds until what is stored under an id expires. None: nothing is stored."""
        ...


def shard_of(id: str) -> str:
    """Which of the `SHARDS` has this id."""
    return SHARDS[crc32(id.encode()) % len(SHARDS)]


def schedule_of(store: Store) -> Schedule:
    """The schedule of a store; `ConfigurationError` if it is none of this library."""
    if isinstance(store, RedisStore):
        return _RedisSchedule(store)
    if isinstance(store, MemoryStore):
        with _lock:
            return _in_memory.setdefault(store, _MemorySchedule(store))
    raise ConfigurationError(
        f"store={store!r}: on_expired= needs a RedisStore, or a MemoryStore in tests"
    )


async def try_schedule(schedule: Schedule, name: str) -> None:
    """Do in each shard what a schedule does, and leave nothing. Raises `StoreError`."""
    ids = {shard_of(id): id for id in (f"{name}:{n}" for n in range(200))}
    for shard, id in ids.items():
        await schedule.note(id, 0, b"")  # this is a mark, of which nobody is told
        await schedule.due(shard, _TRIED)
        await schedule.remove(shard, [Due(id, 0, b"")])


class _RedisSchedule:
    """A schedule in Redis: a sorted set and a hash for each shard."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def note(self, id: str, ttl: int, about: bytes) -> Awaitable[Any]:
        return self._call(shard_of(id), "note", id, ttl, about)

    def end(self, id: str) -> Awaitable[Any]:
        return self._call(shard_of(id), "end", id)

    async def due(self, shard: str, count: int) -> tuple[list[Due], bool]:
        return _due(await self._call(shard, "due", count))

    async def remove(self, shard: str, entries: Sequence[Due]) -> None:
        pairs = [part for due in entries for part in (due.id.encode("latin-1"), due.at)]
        if pairs:
            await self._call(shard, "remove", *pairs)

    async def left(self, id: str) -> int | None:
        key = self._store.prefix + id
        return _left(await self._send(IndexCommand(key, ("PTTL", key))))

    def _call(self, shard: str, *arguments: Any) -> Awaitable[Any]:
        # The braces are a Cluster's hash tag, so that one node has both keys. If the prefix has a
        # hash tag itself, that one counts, for both.
        ends = f"{self._store.prefix}due:{{{shard}}}"
        keys = [ends, f"{ends}:about"]
        return self._send(IndexCommand(ends, SCHEDULE.call(keys, arguments)))

    def _send(self, command: IndexCommand) -> Awaitable[Any]:
        return servers_of(self._store).index_commands.submit(command, 512)


@checked
def _due(reply: Any) -> tuple[list[Due], bool]:
    more, *parts = reply
    triples = zip(*(iter(parts),) * 3, strict=True)
    found = [Due(id.decode("latin-1"), int(at), about + b"") for id, at, about in triples]
    return found, more == 1


@checked
def _left(reply: Any) -> int | None:
    milliseconds = int(reply)
    return None if milliseconds == -2 else _NO_TTL if milliseconds < 0 else milliseconds


class _MemorySchedule:
    """A schedule in this process.

    It has noted everything when a call returns, so that a test may move its clock then.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._clock = store._clock  # pyright: ignore[reportPrivateUsage] - by which records expire
        self._store = ref(store)
        self._lock = Lock()
        self._shards: dict[str, dict[str, tuple[int, bytes]]] = {shard: {} for shard in SHARDS}

    def note(self, id: str, ttl: int, about: bytes) -> Awaitable[None]:
        shard = self._shards[shard_of(id)]
        with self._lock:
            if shard.get(id, (0, None))[1] != b"":
                shard[id] = self._now() + ttl, about
        return _done()

    def end(self, id: str) -> Awaitable[None]:
        shard = self._shards[shard_of(id)]
        with self._lock:
            if shard:
                shard[id] = self._now() + _MARKED, b""
        return _done()

    async def due(self, shard: str, count: int) -> tuple[list[Due], bool]:
        entries, now = self._shards[shard], self._now()
        with self._lock:
            found = [Due(id, at, about) for id, (at, about) in entries.items() if at <= now]
            first = nsmallest(count, found, key=itemgetter(1))
            for due in first:
                if not due.about or due.at < now - _KEPT:
                    del entries[due.id]
        return [due for due in first if due.id in entries], len(found) >= count

    async def remove(self, shard: str, entries: Sequence[Due]) -> None:
        kept = self._shards[shard]
        with self._lock:
            for due in entries:
                if kept.get(due.id, (None, None))[0] == due.at:
                    del kept[due.id]

    async def left(self, id: str) -> int | None:
        store = self._store()
        if store is None:
            return None
        _, seconds = store._look(id)  # pyright: ignore[reportPrivateUsage] - in this room
        return ceil(seconds * 1000) if seconds > 0 else None

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _done() -> Awaitable[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


_in_memory: WeakKeyDictionary[MemoryStore, _MemorySchedule] = WeakKeyDictionary()
_lock = Lock()
