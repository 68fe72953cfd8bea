"""A principal's index: which sessions they have, and which have ended.

Sign-ins, touches and revocations meet here. A principal has an index under every secret key of the
ring. It is written under the primary key, and asked under all of them.

An alias has an index of the same kind, under a name that no principal's index can have.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from redis_sessions.errors import raise_if_short
from redis_sessions.session.keyring import Keyring, SecretKey
from redis_sessions.session.state import LONGEST, Revoked
from redis_sessions.stores.protocols import (
    Entry,
    EntryStatus,
    Rotation,
    SessionIndex,
    Touched,
    Written,
)

__all__ = ["Index"]

_MEMORY: Final = LONGEST * 1000

_LATEST: Final = 2**52
"""A time later than any other. If asked with it, an index says whether there is an entry."""

_ATTEMPTS: Final = 5
"""How often a sign-in is entered if a revocation may have overtaken it on the way."""


class Index:
    """The indexes of all principals, or of all aliases. Times are milliseconds on their clocks.

    `named`: gives the name of an index under a key. `memory`: how long a revocation is remembered,
    in milliseconds, if no entry lasts longer.
    """

    def __init__(
        self,
        store: SessionIndex,
        keyring: Keyring,
        timer: Callable[[], float],
        named: Callable[[SecretKey, str], str] = SecretKey.index,
        memory: int = _MEMORY,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._timer = timer
        self._named = named
        self._memory = memory

    def name(self, principal: str) -> str:
        """The name of the index that is written: the one under the primary key."""
        return self._named(self._keyring.primary, principal)

    def age(self, since: float) -> float:
        """How long ago a time of the timer was, in milliseconds."""
        return max(0.0, (self._timer() - since) * 1000)

    def _names(self, principal: str) -> list[str]:
        return [self._named(key, principal) for key in self._keyring.keys]

    async def enter(
        self,
        principal: str,
        id: str,
        *,
        began: float,
        own: Revoked | None,
        ttl: int,
        descriptor: bytes,
    ) -> tuple[EntryStatus, int, int]:
        """Enter a sign-in. Returns a status, the time of the sign-in, and the index's size.

        There are three statuses:

        1. LIVE. It is entered.
        2. REFUSED. All sessions of the principal were revoked since the request began.
        3. ENDED. The id was marked as ended.

        `began`: when the request began, by the timer. Only the duration since then is sent, so
        that no clocks are compared. `own`: the revocation that the request itself has made. The
        sign-in comes after it, so it isn't refused by it. Raises `ReplicationError` if too few
        replicas have the sign-in, since nobody has the session's token yet.
        """
        name = self.name(principal)
        mine = -1.0 if own is None else own[name]
        for _ in range(_ATTEMPTS):
            entered, shortfall = await self._store.enter(
                name, id, age=self.age(began), own=mine, ttl=ttl, descriptor=descriptor
            )
            raise_if_short(shortfall)
            if entered.status is not EntryStatus.LIVE:
                return entered.status, 0, 0
            # A revocation may have overtaken the command on its way. Then it is entered once more.
            if self.age(began) < entered.since_revoked:
                at = entered.authenticated
                if own is not None and max(own.values()) >= at:  # another server's clock is ahead
                    at = int(max(own.values())) + 1
                    raise_if_short((await self._store.authenticated(name, id, at=at)).shortfall)
                return EntryStatus.LIVE, at, entered.size
        raise_if_short((await self._store.mark(name, id, ttl=ttl)).shortfall)
        return EntryStatus.REFUSED, 0, 0

    async def touch(
        self,
        principal: str,
        id: str,
        *,
        authenticated: int,
        ttl: int,
        descriptor: bytes,
        rotated: int,
    ) -> Written[Touched]:
        """Renew an entry. The status is LIVE, ENDED or OUTDATED. `rotated`: the record's time."""
        primary, *retired = self._names(principal)
        elsewhere = EntryStatus.MISSING
        for name in retired:
            status = await self._store.ask(name, id, authenticated=authenticated, rotated=rotated)
            if status in (EntryStatus.ENDED, EntryStatus.OUTDATED):
                return Written(Touched(status, 0))
            if status is EntryStatus.LIVE or elsewhere is EntryStatus.MISSING:
                elsewhere = status
        return await self._store.touch(
            primary,
            id,
            authenticated=authenticated,
            ttl=ttl,
            descriptor=descriptor,
            elsewhere=elsewhere,
            rotated=rotated,
        )

    async def rotated(
        self, principal: str, id: str, rotation: Rotation, at: int, descriptor: bytes
    ) -> Written[None]:
        """Note a rotation, under every key. `at`: when the principal signed in again, or 0."""
        primary, *retired = self._names(principal)
        noted = await self._store.authenticated(
            primary, id, at=at, descriptor=descriptor, rotation=rotation
        )
        for name in retired:  # the entry may be there, until its next touch
            await self._store.authenticated(name, id, at=0, rotation=rotation)
        return noted

    async def mark(self, principal: str, id: str, *, ttl: int = _MEMORY) -> Written[None]:
        """Mark a session as ended, under every key."""
        shortfall: str | None = None
        for name in self._names(principal):
            marked = await self._store.mark(name, id, ttl=ttl)
            shortfall = shortfall or marked.shortfall
        return Written(None, shortfall)

    async def ask(self, principal: str, id: str) -> EntryStatus:
        """LIVE: the session has an entry. ENDED: it has a mark. MISSING: it has neither."""
        found = EntryStatus.MISSING
        for name in self._names(principal):
            status = await self._store.ask(name, id, authenticated=_LATEST, rotated=_LATEST)
            if status is EntryStatus.LIVE:
                return status
            if status is EntryStatus.ENDED:
                found = status
        return found

    async def has_ended(self, principal: str, id: str, at: float) -> bool:
        """Whether a session has a mark, or was revoked with all others.

        `at`: when it signed in, in milliseconds on the server's clock.
        """
        for name in self._names(principal):
            status = await self._store.ask(name, id, authenticated=int(at))
            if status is EntryStatus.ENDED:
                return True
        return False

    async def revoke(
        self, principal: str, *, keep: str | None = None, memory: int | None = None
    ) -> Written[Revoked]:
        """End all sessions until now but `keep`. Returns the time in each index, by its name."""
        revoked: dict[str, float] = {}
        shortfall: str | None = None
        for name in self._names(principal):
            written = await self._store.revoke(name, keep=keep, memory=memory or self._memory)
            revoked[name] = written.result
            shortfall = shortfall or written.shortfall
        return Written(revoked, shortfall)

    async def forget(self, principal: str, id: str) -> None:
        """Remove one session's entry, under every key. Nothing says then that it has ended."""
        for name in self._names(principal):
            await self._store.remove(name, (id,), until=_LATEST)

    async def remove(self, name: str, ids: Sequence[str], *, until: float) -> Written[None]:
        """Remove the entries of sessions that the revocation at `until` has ended."""
        return await self._store.remove(name, ids, until=until)

    async def pages(self, principal: str) -> AsyncGenerator[tuple[str, list[Entry]]]:
        """The entries, some at a time, each once, with the name of their index.

        If a session has an entry under several keys, it is the first key's.
        """
        seen = set[str]()
        for name in self._names(principal):
            cursor = -1
            while cursor != 0:
                cursor, entries = await self._store.entries(name, max(0, cursor))
                fresh = {entry.id: entry for entry in entries if entry.id not in seen}
                seen.update(fresh)
                if fresh:
                    yield name, list(fresh.values())
