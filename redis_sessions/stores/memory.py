"""Records and indexes in this process, for tests. They behave as in the Redis store."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, inf
from threading import Lock
from typing import Final

from redis_sessions.connect.loops import PerLoop
from redis_sessions.session.record import TOMBSTONE_TTL, is_tombstone, other_tombstone, version
from redis_sessions.session.token import is_id
from redis_sessions.stores.enumeration import Found
from redis_sessions.stores.locks import Locks
from redis_sessions.stores.protocols import (
    CONFLICT,
    GONE,
    STORED,
    Commit,
    Entered,
    Entry,
    EntryStatus,
    Rotation,
    Touched,
    Written,
    checked_prefix,
)
from redis_sessions.stores.pubsub import MemoryPubSub, PubSub
from redis_sessions.stores.watcher import Watcher

__all__ = ["MemoryStore"]

_SWEEP: Final = 20
"""The records that each write looks at, to remove those that have expired."""
_MARKS: Final = 256
_NOBODYS: Final = 2**32 - 1
"""A `rotated_at` that no record has."""
_PAGE: Final = 250
_DEADLINE: Final = TOMBSTONE_TTL * 1000
"""Milliseconds after which the writes of a request are over."""


@dataclass(slots=True)
class _Index:
    """The index of one principal. Times are in milliseconds."""

    live: dict[str, Entry] = field(default_factory=dict[str, Entry])
    marks: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """When each session would have expired, and when it was marked; the oldest mark first."""
    revoked: float = -1
    """When all sessions were revoked; -1 if never. It is later than each time before."""
    happened: float = -1
    """When that was on the clock alone, or later if the clock has been set back."""
    keep: str | None = None
    """The session that the revocation excepted."""
    before: float = -1
    """The `revoked` of before, which holds for `keep`."""
    floor: float = -1
    """When the last mark was made that had to be removed; -1 if none was."""
    last: float = 0
    """The latest time that the index has given."""

    def advance(self, clock: float) -> float:
        """The time, later than all before; entries and marks that have expired are removed."""
        self.last = now = max(clock, self.last + 0.001)
        self.happened = min(self.happened, clock)
        self.live = {id: entry for id, entry in self.live.items() if entry.expires > now}
        self.marks = {id: mark for id, mark in self.marks.items() if mark[0] > now}
        return now

    def status(self, id: str, authenticated: int, rotated: int, clock: float) -> EntryStatus:
        """The status of a session with these times."""
        entry = self.live.get(id)
        revoked = self.before if id == self.keep else self.revoked
        if id in self.marks or authenticated <= revoked:
            return EntryStatus.ENDED
        if entry is None:
            unsure = authenticated <= self.floor
            return EntryStatus.UNSURE if unsure else EntryStatus.MISSING
        later = [entry.authenticated] if authenticated < entry.authenticated else []
        if rotated < entry.rotated:
            later.append(entry.rotated * 1000)
        outdated = any(abs(clock - at) >= _DEADLINE for at in later)
        return EntryStatus.OUTDATED if outdated else EntryStatus.LIVE


class MemoryStore:
    """A store in memory, shared by the threads and event loops of one process."""

    def __init__(self, *, prefix: str = "session:", clock: Callable[[], float] = time.time) -> None:
        self.prefix: str = checked_prefix(prefix)
        self._clock = clock
        self._lock = Lock()
        self._records: dict[str, tuple[bytes, float]] = {}
        self._indexes: dict[str, _Index] = {}
        self._locks: dict[str, tuple[str, float]] = {}
        self._watchers: dict[str, set[Watcher]] = {}
        self._waiting = PerLoop(lambda: Locks(self._set_lock))
        self._channels = MemoryPubSub()

    # -- records

    async def load(self, id: str) -> bytes | None:
        with self._lock:
            return self._get(id)

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        with self._lock:
            found = self._get(id)
            if found is None:
                if expected is not None:
                    return GONE
            elif version(found) == version(value):
                pass  # our own write, repeated
            elif is_tombstone(found):
                return GONE
            elif version(found) != expected:
                return CONFLICT
            self._put(id, value, ttl)
            return STORED

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        with self._lock:
            found = self._get(id)
            if found is None:
                self._put(id, other_tombstone(tombstone), ttl)  # so that a retry answers the same
                return Written(False)
            if is_tombstone(found):
                self._put(id, found, ttl)
                return Written(found == tombstone)
            self._put(id, tombstone, ttl)
            return Written(True)

    def discard(self, ids: Sequence[str]) -> None:
        """Remove what is stored, and leave no tombstones: entries of the cache need none."""
        with self._lock:
            for id in ids:
                if self._records.pop(id, None) is not None:
                    self._changed(id)

    def lock(self, id: str, *, wait: float, hold: float) -> AbstractAsyncContextManager[None]:
        return self._waiting.get().lock(id, wait=wait, hold=hold)

    async def _set_lock(self, id: str, value: str, milliseconds: int) -> bool:
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

    # -- who is told of changes

    def watch(self, id: str, notify: Callable[[bytes | None], None]) -> Callable[[], None]:
        watcher = Watcher(partial(self._look, id), notify)
        with self._lock:
            self._watchers.setdefault(id, set()).add(watcher)
        watcher.wake()
        return partial(self._unwatch, id, watcher)

    def _unwatch(self, id: str, watcher: Watcher) -> None:
        watcher.stop()
        with self._lock:
            watchers = self._watchers.get(id, set())
            watchers.discard(watcher)
            if not watchers:
                self._watchers.pop(id, None)

    def _look(self, id: str) -> tuple[bytes | None, float]:
        """What is stored, and for how many seconds."""
        with self._lock:
            value, expires = self._records.get(id, (None, 0.0))
            left = expires - self._clock()
            return (value, left) if left > 0 else (None, 0.0)

    def _changed(self, id: str) -> None:
        """Tell those who watch this id."""
        if id in self._watchers:
            left = {watcher for watcher in self._watchers.pop(id) if watcher.wake()}
            if left:
                self._watchers[id] = left

    # -- indexes

    async def enter(
        self, key: str, id: str, *, age: float, own: float, ttl: int, descriptor: bytes
    ) -> Written[Entered]:
        with self._lock:
            clock = self._clock() * 1000
            index, now = self._index(key, clock)
            at, revoked = max(clock - age, own + 0.001), index.revoked
            if id in index.marks:
                return Written(Entered(EntryStatus.ENDED, 0, 0, inf))
            if revoked > own and (own >= 0 or index.happened >= at):
                return Written(Entered(EntryStatus.REFUSED, 0, 0, inf))
            authenticated = max(ceil(at), int(max(revoked, own)) + 1)
            entry = index.live.get(id)
            if entry is not None and entry.authenticated > max(revoked, own):
                authenticated = entry.authenticated
            # A revocation that comes next has a later time.
            index.last = now = max(now, authenticated)
            rotated = entry.rotated if entry else 0
            index.live[id] = Entry(id, authenticated, now, int(now) + ttl, descriptor, rotated)
            since = clock - index.happened if revoked > own else inf
            return Written(Entered(EntryStatus.LIVE, authenticated, len(index.live), since))

    async def ask(self, key: str, id: str, *, authenticated: int, rotated: int = 0) -> EntryStatus:
        with self._lock:
            clock = self._clock() * 1000
            index, _ = self._index(key, clock)
            return index.status(id, authenticated, rotated, clock)

    async def touch(
        self,
        key: str,
        id: str,
        *,
        authenticated: int,
        ttl: int,
        descriptor: bytes,
        elsewhere: EntryStatus = EntryStatus.MISSING,
        rotated: int = 0,
    ) -> Written[Touched]:
        with self._lock:
            clock = self._clock() * 1000
            index, now = self._index(key, clock)
            entry, here = index.live.get(id), index.status(id, authenticated, rotated, clock)
            if here in (EntryStatus.ENDED, EntryStatus.OUTDATED):
                return Written(Touched(here, clock))
            unsure = EntryStatus.UNSURE in (here, elsewhere)
            if entry is None and unsure and elsewhere is not EntryStatus.LIVE:
                return Written(Touched(EntryStatus.ENDED, clock))
            if entry is not None:
                descriptor = _latest(descriptor, authenticated, entry)
                authenticated = max(authenticated, entry.authenticated)
                rotated = max(rotated, entry.rotated)
            index.last = max(index.last, authenticated)
            index.live[id] = Entry(id, authenticated, now, int(now) + ttl, descriptor, rotated)
            return Written(Touched(EntryStatus.LIVE, clock))

    async def authenticated(
        self, key: str, id: str, *, at: int, descriptor: bytes = b"", rotation: Rotation = (0, 0)
    ) -> Written[None]:
        with self._lock:
            index, _ = self._index(key)
            entry, (rotated, replaced) = index.live.get(id), rotation
            if entry is not None:
                latest = max(at, entry.authenticated)
                index.last = max(index.last, latest)
                if replaced < entry.rotated < rotated:
                    rotated = _NOBODYS
                index.live[id] = replace(
                    entry,
                    authenticated=latest,
                    descriptor=_latest(descriptor, at, entry),
                    rotated=max(rotated, entry.rotated),
                )
            return Written(None)

    async def mark(self, key: str, id: str, *, ttl: int) -> Written[bool]:
        with self._lock:
            index, now = self._index(key)
            if id in index.marks:
                return Written(False)
            if len(index.marks) >= _MARKS:
                _, marked = index.marks.pop(next(iter(index.marks)))
                index.floor = max(index.floor, marked)
            entry = index.live.pop(id, None)
            index.marks[id] = (entry.expires if entry else now + ttl, now)
            return Written(entry is not None)

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> Written[float]:
        with self._lock:
            index, now = self._index(key)
            if keep is None or keep != index.keep:
                index.before = index.revoked
            index.revoked, index.happened, index.keep = now, self._clock() * 1000, keep
            return Written(now)

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        with self._lock:
            return 0, list(self._index(key)[0].live.values())

    async def remove(self, key: str, ids: Sequence[str], *, until: float) -> Written[None]:
        with self._lock:
            index, _ = self._index(key)
            for id in ids:
                if id in index.live and index.live[id].authenticated <= until:
                    del index.live[id]
            if index.revoked < 0 and not index.live and not index.marks:
                del self._indexes[key]  # nothing is left that it has to know
            return Written(None)

    # -- all that is stored

    async def scan(self) -> AsyncGenerator[Sequence[Found], None]:
        with self._lock:
            ids = [id for id in self._records if is_id(id)]
        for start in range(0, len(ids), _PAGE):
            with self._lock:
                page = [found for id in ids[start : start + _PAGE] if (found := self._found(id))]
            if page:
                yield page

    def _found(self, id: str) -> Found | None:
        value = self._get(id)
        if value is None:
            return None
        left = ceil((self._records[id][1] - self._clock()) * 1000)
        return Found(id, version(value), len(value), left)

    def channels(self) -> PubSub:
        return self._channels

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

    def _index(self, key: str, clock: float | None = None) -> tuple[_Index, float]:
        """The index, and its time. `clock`: this store's, if that was asked already."""
        index = self._indexes.setdefault(key, _Index())
        return index, index.advance(self._clock() * 1000 if clock is None else clock)

    def _get(self, id: str) -> bytes | None:
        value, expires = self._records.get(id, (None, 0.0))
        if expires > self._clock():
            return value
        if value is not None:
            del self._records[id]
            self._changed(id)
        return None

    def _put(self, id: str, value: bytes, ttl: int) -> None:
        self._sweep(_SWEEP)
        # What is written goes to the end, so that the sweep looks at what was written longest ago.
        self._records.pop(id, None)
        self._records[id] = (value, self._clock() + ttl / 1000)
        self._changed(id)

    def _sweep(self, count: int) -> None:
        now = self._clock()
        for id in [id for id, _ in zip(self._records, range(count), strict=False)]:
            entry = self._records.pop(id)
            if entry[1] > now:
                self._records[id] = entry
            else:
                self._changed(id)


def _latest(descriptor: bytes, authenticated: int, entry: Entry) -> bytes:
    """The entry's descriptor, unless there is another one, and not of an earlier sign-in."""
    return (
        entry.descriptor if authenticated < entry.authenticated else descriptor or entry.descriptor
    )
