"""When each session ends unless it is touched: a schedule in 16 shards, beside the records.

It is kept for `on_expired=` only. It never decides whether a session is over: the record does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from heapq import nsmallest
from math import ceil
from operator import itemgetter
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable
from zlib import crc32

from redis_sessions.connect.resp import UNEXPECTED_REPLY
from redis_sessions.errors import StoreUnavailableError
from redis_sessions.session.token import is_id
from redis_sessions.stores.commands import SCHEDULE, IndexCommand

__all__ = ["SHARDS", "Due", "MemorySchedule", "RedisSchedule", "Schedule", "Scheduling", "shard_of"]

SHARDS: Final = tuple("0123456789abcdef")

_MARKED: Final = 60_000
_KEPT: Final = 30 * 24 * 3600 * 1000
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
        """A session ends in `ttl` milliseconds unless it is touched. This replaces what was noted.

        `about`: at least one byte. It has no effect if `end` was called for this id in the last
        minute.
        """
        ...

    def end(self, id: str) -> Awaitable[Any]:
        """A session has ended in another way. So it never runs out."""
        ...

    async def due(self, shard: str, count: int) -> tuple[list[Due], bool]:
        """Those whose time has come, up to `count`, and whether there may be more. All stay."""
        ...

    async def remove(self, shard: str, entries: Sequence[Due]) -> None:
        """Remove these, at most 500, unless something else was noted since they were due."""
        ...

    async def left(self, id: str) -> int | None:
        """Milliseconds until what is stored under an id expires. None: nothing is stored."""
        ...


@runtime_checkable
class Scheduling(Protocol):
    """What a store adds that can keep a schedule."""

    @property
    def schedule(self) -> Schedule: ...


def shard_of(id: str) -> str:
    """Which of the `SHARDS` has this id."""
    return SHARDS[crc32(id.encode()) % len(SHARDS)]


class RedisSchedule:
    """A schedule in Redis: a sorted set and a hash for each shard. `send`: to the server."""

    def __init__(self, prefix: str, send: Callable[[IndexCommand], Awaitable[Any]]) -> None:
        self._prefix = prefix
        self._send = send

    def note(self, id: str, ttl: int, about: bytes) -> Awaitable[Any]:
        return self._call(shard_of(id), "note", id, ttl, about)

    def end(self, id: str) -> Awaitable[Any]:
        return self._call(shard_of(id), "end", id)

    async def due(self, shard: str, count: int) -> tuple[list[Due], bool]:
        reply = await self._call(shard, "due", count)
        try:
            seen, *parts = reply
            triples = zip(*(iter(parts),) * 3, strict=True)
            found = [Due(id.decode("latin-1"), int(at), about + b"") for id, at, about in triples]
            more = int(seen) >= count
        except UNEXPECTED_REPLY as exc:
            raise _unexpected() from exc
        return found, more

    async def remove(self, shard: str, entries: Sequence[Due]) -> None:
        pairs = [part for due in entries for part in (due.id.encode("latin-1"), due.at)]
        if pairs:
            await self._call(shard, "remove", *pairs)

    async def left(self, id: str) -> int | None:
        if not is_id(id):
            return None
        key = self._prefix + id
        reply = await self._send(IndexCommand(key, ("PTTL", key)))
        try:
            milliseconds = int(reply)
        except UNEXPECTED_REPLY as exc:
            raise _unexpected() from exc
        return None if milliseconds == -2 else _NO_TTL if milliseconds < 0 else milliseconds

    def _call(self, shard: str, *arguments: Any) -> Awaitable[Any]:
        # The braces are a Cluster's hash tag, so that one node has both keys. If the prefix has a
        # hash tag itself, that one counts, for both.
        ends = f"{self._prefix}due:{{{shard}}}"
        keys = [ends, f"{ends}:about"]
        return self._send(IndexCommand(ends, SCHEDULE.call(keys, arguments), "touch"))


class MemorySchedule:
    """A schedule in this process. `left`: as the protocol has it, for the store's records."""

    def __init__(self, clock: Callable[[], float], left: Callable[[str], float]) -> None:
        self._clock = clock
        self._left = left
        self._lock = Lock()
        self._shards: dict[str, dict[str, tuple[int, bytes]]] = {shard: {} for shard in SHARDS}

    async def note(self, id: str, ttl: int, about: bytes) -> None:
        shard = self._shards[shard_of(id)]
        with self._lock:
            if shard.get(id, (0, None))[1] != b"":
                shard[id] = self._now() + ttl, about

    async def end(self, id: str) -> None:
        with self._lock:
            self._shards[shard_of(id)][id] = self._now() + _MARKED, b""

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
        seconds = self._left(id)
        return ceil(seconds * 1000) if seconds > 0 else None

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _unexpected() -> StoreUnavailableError:
    return StoreUnavailableError("the store answered what no Redis does", reason="protocol")
