"""Records and indexes in this process: for tests and development, as the Redis store has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final

from redis_sessions.record import HEADER_SIZE
from redis_sessions.stores.locks import Locks
from redis_sessions.stores.loops import PerLoop
from redis_sessions.stores.protocols import Commit, Entered, Entry, Seat, checked_prefix

__all__ = ["MemoryStore"]

_SWEEP: Final = 20  # entries looked at by each write, so that expired ones go
_HOUR: Final = 3_600_000


@dataclass(slots=True)
class _Index:
    """One principal's. Times in milliseconds."""

    live: dict[str, Entry] = field(default_factory=dict[str, Entry])
    ended: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """expires, marked"""
    revoked: int = -1
    kept: str | None = None
    last: int = 0

    def prune(self, now: int) -> None:
        self.live = {id: entry for id, entry in self.live.items() if entry.expires > now}
        self.ended = {id: mark for id, mark in self.ended.items() if mark[0] > now}


class MemoryStore:
    """A store in memory, shared by the threads and event loops of one process."""

    def __init__(self, *, prefix: str = "session:", clock: Callable[[], float] = time.time) -> None:
        self.prefix = checked_prefix(prefix)
        self._clock = clock
        self._lock = Lock()
        self._records: dict[str, tuple[bytes, float]] = {}
        self._indexes: dict[str, _Index] = {}
        self._locks: dict[str, tuple[str, float]] = {}
        self._lines = PerLoop(lambda: Locks(self._ask_for))

    # -- records

    async def load(self, id: str) -> bytes | None:
        with self._lock:
            return self._get(id)

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
        with self._lock:
            found = self._get(id)
            version = None if found is None else found[:HEADER_SIZE]
            if version == value[:HEADER_SIZE]:
                pass  # our own write, repeated
            elif found is None:
                if expected is not None:
                    return Commit.GONE
            elif len(found) == HEADER_SIZE:
                return Commit.GONE
            elif version != expected:
                return Commit.CONFLICT
            self._put(id, value, ttl)
            return Commit.STORED

    async def end(self, id: str, tombstone: bytes, ttl: int) -> bool:
        with self._lock:
            found = self._get(id)
            standing = found is not None and len(found) == HEADER_SIZE
            if found is None:  # to a retry it is another's, so that it answers the same
                self._put(id, tombstone[:-1] + bytes([(tombstone[-1] + 1) % 256]), ttl)
            else:
                self._put(id, found if standing else tombstone, ttl)
            return found is not None and (not standing or found == tombstone)

    def lock(self, id: str, *, wait: float, hold: float) -> AbstractAsyncContextManager[None]:
        return self._lines.get().lock(id, wait=wait, hold=hold)

    async def _ask_for(self, id: str, value: str, milliseconds: int) -> bool:
        with self._lock:
            now = time.monotonic()
            holder, until = self._locks.get(id, ("", 0.0))
            if until > now and holder != value:
                return False
            if milliseconds:
                self._locks[id] = value, now + milliseconds / 1000
            else:
                self._locks.pop(id, None)
            return True

    # -- indexes

    async def enter(
        self, key: str, id: str, *, age: int, own: int, ttl: int, descriptor: bytes
    ) -> Entered:
        with self._lock:
            index, now = self._index(key)
            at = max(now - age, own + 1)
            if id in index.ended:
                return Entered(Seat.ENDED, 0, 0, 0, 0)
            if index.revoked >= at and index.revoked > own:
                return Entered(Seat.REFUSED, 0, 0, 0, 0)
            index.last = max(now, index.last + 1)
            index.live[id] = Entry(id, at, index.last, now + ttl, descriptor)
            return Entered(Seat.LIVE, at, len(index.live), now, index.revoked)

    async def touch(
        self,
        key: str,
        id: str,
        *,
        authenticated: int,
        ttl: int,
        descriptor: bytes,
        vouched: bool = False,
        overtaken: bool = False,
        age: int | None = None,
    ) -> tuple[Seat, int]:
        with self._lock:
            index, now = self._index(key)
            entry, over = index.live.get(id), index.revoked >= authenticated
            if id in index.ended:
                return Seat.ENDED, 0
            kept = index.kept == id
            if ttl == 0:
                missing = Seat.OVERTAKEN if over else Seat.MISSING
                return Seat.LIVE if entry else Seat.KEPT if kept else missing, 0
            if entry is None and (over or overtaken) and not (vouched or kept):
                return Seat.ENDED, 0
            at = authenticated if age is None else now - age
            shown = descriptor or (entry.descriptor if entry else b"")
            index.live[id] = Entry(id, at, now, now + ttl, shown)
            return Seat.LIVE, at

    async def mark(self, key: str, id: str, *, ttl: int) -> bool:
        with self._lock:
            index, now = self._index(key)
            entry = index.live.pop(id, None)
            index.ended.setdefault(id, (entry.expires if entry else now + ttl, now))
            return entry is not None

    async def end_all(
        self, key: str, *, keep: str | None, memory: int
    ) -> tuple[int, Sequence[str], Sequence[str]]:
        with self._lock:
            index, now = self._index(key)
            again = [i for i, (_, at) in index.ended.items() if i != keep and now - at <= _HOUR]
            ended = [id for id in index.live if id != keep]
            for id in ended:
                index.ended[id] = index.live.pop(id).expires, now
            index.revoked, index.kept = now, keep
            return now, ended, again

    async def entries(self, key: str) -> Sequence[Entry]:
        with self._lock:
            return [replace(entry) for entry in self._index(key)[0].live.values()]

    # -- the store

    async def connect(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def __bool__(self) -> bool:
        return True  # an empty store is a store

    def __len__(self) -> int:
        """How many records and tombstones are alive."""
        with self._lock:
            self._sweep(len(self._records))
            return len(self._records)

    def _index(self, key: str) -> tuple[_Index, int]:
        now = int(self._clock() * 1000)
        index = self._indexes.setdefault(key, _Index())
        index.prune(now)
        return index, now

    def _get(self, id: str) -> bytes | None:
        value, expires = self._records.get(id, (None, 0.0))
        return value if expires > self._clock() else None

    def _put(self, id: str, value: bytes, ttl: int) -> None:
        self._sweep(_SWEEP)
        # Last in, last out: the sweep always looks at the longest untouched.
        self._records.pop(id, None)
        self._records[id] = (value, self._clock() + ttl / 1000)

    def _sweep(self, count: int) -> None:
        now = self._clock()
        for id in [id for id, _ in zip(self._records, range(count), strict=False)]:
            entry = self._records.pop(id)
            if entry[1] > now:
                self._records[id] = entry
