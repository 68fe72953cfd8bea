"""Records in this process: for tests and development, with the semantics of the Redis store."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

from redis_sessions.record import HEADER_SIZE
from redis_sessions.stores.protocols import Commit, checked_prefix

__all__ = ["MemoryStore"]

_SWEEP = 20  # entries looked at by each write, so that expired ones go


class MemoryStore:
    """A store in memory, shared by the threads and event loops of one process."""

    def __init__(self, *, prefix: str = "session:", clock: Callable[[], float] = time.time) -> None:
        self.prefix = checked_prefix(prefix)
        self._clock = clock
        self._lock = Lock()
        self._records: dict[str, tuple[bytes, float]] = {}

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
            self._put(id, found if found is not None and standing else tombstone, ttl)
            return found is not None and (not standing or found == tombstone)

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
