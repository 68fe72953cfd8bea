"""A principal's index, under every key of the ring: entered first, then the record.

It is where sign-in, touch and revocation meet. Written under the primary key, asked under all.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final

from redis_sessions.keyring import Keyring
from redis_sessions.shortfall import Shortfall
from redis_sessions.state import LONGEST, Revocation
from redis_sessions.stores.protocols import Entry, Seat, SessionIndex

__all__ = ["Index"]

_MEMORY: Final = LONGEST * 1000


class Index:
    """The sessions of principals. Times are milliseconds on the store's clock."""

    def __init__(self, store: SessionIndex, keyring: Keyring, timer: Callable[[], float]) -> None:
        self._store = store
        self._keyring = keyring
        self._timer = timer

    def _age(self, since: float) -> int:
        # Rounded up: who is timed too early is refused, who is timed too late escapes.
        return max(0, ceil((self._timer() - since) * 1000))

    def _names(self, principal: str) -> list[str]:
        return [key.index(principal) for key in self._keyring.keys]

    async def enter(
        self,
        principal: str,
        id: str,
        *,
        began: float,
        own: Revocation | None,
        ttl: int,
        descriptor: bytes,
    ) -> tuple[Seat, int, int]:
        """A sign-in: LIVE, its time, and the index's size; or REFUSED, or ENDED.

        `began`: when its request began, by a timer that nobody sets; only the duration since
        goes out. `own` counts instead, if the request itself revoked since.
        """
        since = began if own is None else own.answered
        name, floor = self._keyring.primary.index(principal), -1 if own is None else own.at
        entered = await self._store.enter(
            name, id, age=self._age(since), own=floor, ttl=ttl, descriptor=descriptor
        )
        if entered.seat is not Seat.LIVE:
            return entered.seat, 0, 0
        # On its way it grew older, and a revocation may have overtaken it there.
        at = max(entered.now - self._age(since), floor + 1)
        if entered.revoked >= at and entered.revoked > floor:
            await self._store.mark(name, id, ttl=ttl)
            return Seat.REFUSED, 0, 0
        return Seat.LIVE, at, entered.size

    async def touch(
        self,
        principal: str,
        id: str,
        *,
        authenticated: int,
        ttl: int,
        descriptor: bytes,
        began: float | None = None,
    ) -> tuple[Seat, int]:
        """Renew: LIVE and the time it was authenticated, or ENDED.

        `began`: it was authenticated again by a request that began then.
        """
        primary, *retired = self._names(principal)
        said = [
            (await self._store.touch(name, id, authenticated=authenticated, ttl=0, descriptor=b""))[
                0
            ]
            for name in retired
        ]
        if Seat.ENDED in said:
            return Seat.ENDED, 0
        return await self._store.touch(
            primary,
            id,
            authenticated=authenticated,
            ttl=ttl,
            descriptor=descriptor,
            vouched=Seat.LIVE in said or Seat.KEPT in said,
            overtaken=Seat.OVERTAKEN in said,
            age=None if began is None else self._age(began),
        )

    async def mark(self, principal: str, id: str, *, ttl: int = _MEMORY) -> None:
        """Mark a session as ended, for good, under every key."""
        short = Shortfall()
        for name in self._names(principal):
            await short.of(self._store.mark(name, id, ttl=ttl))
        short.tell()

    async def knows(self, principal: str, id: str) -> bool:
        """Whether this session is, or was, one of the principal's."""
        for name in self._names(principal):
            seat, _ = await self._store.touch(name, id, authenticated=0, ttl=0, descriptor=b"")
            if seat in (Seat.LIVE, Seat.ENDED):
                return True
        return False

    async def end_all(self, principal: str, *, keep: str | None) -> tuple[Revocation, list[str]]:
        """Mark all but `keep`; the ids to end, those marked in the last hour among them."""
        first: int | None = None
        ids: dict[str, None] = {}
        short = Shortfall()
        for name in self._names(principal):
            marked = self._store.end_all(name, keep=keep, memory=_MEMORY)
            at, ended, again = await short.of(marked)
            first = at if first is None else first
            ids.update(dict.fromkeys((*ended, *again)))
        result = Revocation(first or 0, self._timer()), list(ids)
        short.tell(result)
        return result

    async def entries(self, principal: str) -> list[tuple[str, Entry]]:
        """The live entries, each with its index's name; the primary's where two have one."""
        found: dict[str, tuple[str, Entry]] = {}
        for name in self._names(principal):
            for entry in await self._store.entries(name):
                found.setdefault(entry.id, (name, entry))
        return list(found.values())
