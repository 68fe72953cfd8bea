"""A store whose every operation waits for a scheduler's permission before it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from redis_sessions.stores import Commit, Entry, EntryStatus, Store
from redis_sessions.stores.protocols import Entered, Rotation, Touched, Written

__all__ = ["Call", "GatedStore"]

T = TypeVar("T")

READS: Final = frozenset({"load", "entries", "ask"})


@dataclass(eq=False)
class Call:
    """One operation that waits to be sent. `target`: a session's id, or an index's key."""

    name: str
    target: str
    send: Callable[[], Awaitable[Any]]
    answer: asyncio.Future[Any]
    value: bytes | None = None
    """What a commit or an end would store."""
    ids: Sequence[str] = ()
    """The session of an index's operation."""
    retried: bool = False
    began: float = field(default=0.0)

    @property
    def writes(self) -> bool:
        """Whether it may change what is stored."""
        return self.name not in READS

    @property
    def on_index(self) -> bool:
        """Whether it goes to an index, rather than to a record."""
        return self.name not in {"load", "commit", "end"}


class GatedStore:
    """The real store, as one request sees it: nothing is sent before the scheduler says so.

    Time may pass while an operation waits; `ages_in_transit` says whether a sign-in's age, which
    is measured before it is sent, misses that time (as it does on a slow network).
    """

    def __init__(
        self,
        real: Store,
        clock: Callable[[], float],
        posted: Callable[[Call], None],
        *,
        ages_in_transit: bool = False,
    ) -> None:
        self.prefix = real.prefix
        self._real = real
        self._clock = clock
        self._posted = posted
        self._in_transit = ages_in_transit

    async def _wait(
        self,
        name: str,
        target: str,
        send: Callable[[], Awaitable[T]],
        value: bytes | None = None,
        ids: Sequence[str] = (),
    ) -> T:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._posted(Call(name, target, send, answer, value, ids, began=self._clock()))
        return cast("T", await answer)

    def _waited(self, since: float) -> int:
        return 0 if self._in_transit else int((self._clock() - since) * 1000 + 0.5)

    # -- records

    async def load(self, id: str) -> bytes | None:
        return await self._wait("load", id, lambda: self._real.load(id))

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        def send() -> Awaitable[Written[Commit]]:
            return self._real.commit(id, expected, value, ttl)

        return await self._wait("commit", id, send, value)

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        def send() -> Awaitable[Written[bool]]:
            return self._real.end(id, tombstone, ttl)

        return await self._wait("end", id, send, tombstone)

    def lock(self, id: str, *, wait: float, hold: float) -> AbstractAsyncContextManager[None]:
        return self._real.lock(id, wait=wait, hold=hold)

    # -- indexes

    async def enter(
        self, key: str, id: str, *, age: float, own: float, ttl: int, descriptor: bytes
    ) -> Written[Entered]:
        since = self._clock()

        def send() -> Awaitable[Written[Entered]]:
            so_old = age + self._waited(since)
            return self._real.enter(key, id, age=so_old, own=own, ttl=ttl, descriptor=descriptor)

        return await self._wait("enter", key, send, None, (id,))

    async def ask(self, key: str, id: str, *, authenticated: int, rotated: int = 0) -> EntryStatus:
        def send() -> Awaitable[EntryStatus]:
            return self._real.ask(key, id, authenticated=authenticated, rotated=rotated)

        return await self._wait("ask", key, send, None, (id,))

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
        def send() -> Awaitable[Written[Touched]]:
            return self._real.touch(
                key,
                id,
                authenticated=authenticated,
                ttl=ttl,
                descriptor=descriptor,
                elsewhere=elsewhere,
                rotated=rotated,
            )

        return await self._wait("touch", key, send, None, (id,))

    async def authenticated(
        self, key: str, id: str, *, at: int, descriptor: bytes = b"", rotation: Rotation = (0, 0)
    ) -> Written[None]:
        def send() -> Awaitable[Written[None]]:
            return self._real.authenticated(
                key, id, at=at, descriptor=descriptor, rotation=rotation
            )

        return await self._wait("authenticated", key, send, None, (id,))

    async def mark(self, key: str, id: str, *, ttl: int) -> Written[bool]:
        return await self._wait("mark", key, lambda: self._real.mark(key, id, ttl=ttl), None, (id,))

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> Written[float]:
        def send() -> Awaitable[Written[float]]:
            return self._real.revoke(key, keep=keep, memory=memory)

        return await self._wait("revoke", key, send, None, () if keep is None else (keep,))

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        return await self._wait("entries", key, lambda: self._real.entries(key, cursor))

    async def remove(self, key: str, ids: Sequence[str], *, until: float) -> Written[None]:
        def send() -> Awaitable[Written[None]]:
            return self._real.remove(key, ids, until=until)

        return await self._wait("remove", key, send, None, ids)

    # -- the store

    async def connect(self) -> None:
        await self._real.connect()

    async def close(self) -> None:
        await self._real.close()
