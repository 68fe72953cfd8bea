"""Stores in memory: one fails, waits or forgets when a test says so, and one keeps near copies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis_sessions import Commit, MemoryStore, StoreUnavailableError
from redis_sessions.session.record import is_record
from redis_sessions.stores.protocols import (
    STORED,
    Entered,
    Entry,
    EntryStatus,
    NearCopy,
    Touched,
    Written,
)


class UnreliableStore(MemoryStore):
    """A store in memory, which does what a store on a server may do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.failing = set[str]()
        """The methods that raise `StoreUnavailableError`, by name."""
        self.asked = list[str]()
        """The writes that were carried out, by the method's name."""
        self.given = list[bytes]()
        """All records that it was to store."""
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        """Runs once, before the next call."""
        self.loaded: Callable[[], Awaitable[None]] | None = None
        """Runs before each load is answered."""
        self.committed: Callable[[bytes | None, Commit], Awaitable[None]] | None = None
        """Runs before each commit is answered, with what was expected and with the answer."""

    @property
    def away(self) -> bool:
        """Whether sessions can be neither loaded nor stored."""
        return {"load", "commit"} <= self.failing

    @away.setter
    def away(self, away: bool) -> None:
        self.failing = {"load", "commit"} if away else set()

    async def _begin(self, method: str) -> None:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        if method in self.failing:
            raise StoreUnavailableError(f"{method} fails, says the test", reason="server")
        if method not in ("load", "ask", "entries"):
            self.asked.append(method)

    async def load(self, id: str) -> bytes | None:
        await self._begin("load")
        found = await super().load(id)
        if self.loaded is not None:
            await self.loaded()
        return found

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        self.given.append(bytes(value))
        await self._begin("commit")
        written = await super().commit(id, expected, value, ttl)
        if self.committed is not None:
            await self.committed(expected, written.result)
        return written

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        await self._begin("end")
        return await super().end(id, tombstone, ttl)

    def discard(self, ids: Sequence[str]) -> None:
        if "discard" in self.failing:
            raise StoreUnavailableError("discard fails, says the test", reason="server")
        super().discard(ids)

    async def enter(self, *arguments: Any, **named: Any) -> Written[Entered]:
        await self._begin("enter")
        return await super().enter(*arguments, **named)

    async def touch(self, *arguments: Any, **named: Any) -> Written[Touched]:
        await self._begin("touch")
        return await super().touch(*arguments, **named)

    async def authenticated(self, *arguments: Any, **named: Any) -> Written[None]:
        await self._begin("authenticated")
        return await super().authenticated(*arguments, **named)

    async def mark(self, key: str, id: str, *, ttl: int) -> Written[bool]:
        await self._begin("mark")
        return await super().mark(key, id, ttl=ttl)

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> Written[float]:
        await self._begin("revoke")
        return await super().revoke(key, keep=keep, memory=memory)

    async def remove(self, key: str, ids: Sequence[str], *, until: float) -> Written[None]:
        await self._begin("remove")
        return await super().remove(key, ids, until=until)

    async def ask(self, *arguments: Any, **named: Any) -> EntryStatus:
        await self._begin("ask")
        return await super().ask(*arguments, **named)

    async def entries(self, *arguments: Any, **named: Any) -> tuple[int, Sequence[Entry]]:
        await self._begin("entries")
        return await super().entries(*arguments, **named)

    # -- what a failover may do

    def lose_record(self, id: str) -> None:
        """Forget a session's record."""
        self._records.pop(id, None)
        self._changed(id)

    def put_back(self, id: str, record: bytes, ttl: int) -> None:
        """Have a record again as it was before."""
        self._put(id, record, ttl)

    def lose_indexes(self, *keys: str) -> None:
        """Forget these indexes; without a name, all of them."""
        for key in keys or list(self._indexes):
            self._indexes.pop(key, None)


class NearStore(MemoryStore):
    """What one process has: records that others share, and near copies of what it read or wrote.

    Nobody tells it of what other processes write. So its copies are as old as a test wants.
    """

    client_cache = 1.0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.copies = dict[str, NearCopy]()
        self.loads = 0

    def beside(self) -> NearStore:
        """Another process with the same records."""
        other = NearStore(prefix=self.prefix, clock=self._clock)
        other._records, other._indexes, other._lock = self._records, self._indexes, self._lock
        return other

    def near_copy(self, id: str) -> NearCopy | None:
        return self.copies.get(id)

    async def load(self, id: str) -> bytes | None:
        self.loads += 1
        found = await super().load(id)
        self._keep(id, found)
        return found

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        written = await super().commit(id, expected, value, ttl)
        self._keep(id, value if written is STORED else None)
        return written

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        self.copies.pop(id, None)
        return await super().end(id, tombstone, ttl)

    def _keep(self, id: str, value: bytes | None) -> None:
        if is_record(value):
            self.copies[id] = NearCopy(bytes(value or b""))
        else:
            self.copies.pop(id, None)
