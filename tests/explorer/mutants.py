"""The library with one mechanism switched off: an explorer that finds nothing then is blind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

from redis_sessions.lifecycle import loading
from redis_sessions.lifecycle.loading import Opened
from redis_sessions.session.origins import Origins
from redis_sessions.session.outcome import Answer
from redis_sessions.session.record import HEADER_SIZE, Reject
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import Bound, Status
from redis_sessions.session.token import SessionToken
from redis_sessions.stores import Commit, Entry, EntryStatus, Store
from redis_sessions.stores.protocols import CONFLICT, GONE, Entered, Rotation, Touched, Written
from tests.explorer.actors import Worker
from tests.explorer.backends import Backend

__all__ = ["MUTANTS", "Mutant", "Passing"]

_opened, _refuse, _unseal = loading.opened, loading.refuse, loading.unseal


class Passing:
    """A store that passes everything on."""

    def __init__(self, real: Store, backend: Backend) -> None:
        self.prefix = real.prefix
        self.real = real
        self.backend = backend

    async def load(self, id: str) -> bytes | None:
        return await self.real.load(id)

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        return await self.real.commit(id, expected, value, ttl)

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        return await self.real.end(id, tombstone, ttl)

    def lock(self, id: str, *, wait: float, hold: float) -> AbstractAsyncContextManager[None]:
        return self.real.lock(id, wait=wait, hold=hold)

    async def enter(
        self, key: str, id: str, *, age: float, own: float, ttl: int, descriptor: bytes
    ) -> Written[Entered]:
        return await self.real.enter(key, id, age=age, own=own, ttl=ttl, descriptor=descriptor)

    async def ask(self, key: str, id: str, *, authenticated: int, rotated: int = 0) -> EntryStatus:
        return await self.real.ask(key, id, authenticated=authenticated, rotated=rotated)

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
        return await self.real.touch(
            key,
            id,
            authenticated=authenticated,
            ttl=ttl,
            descriptor=descriptor,
            elsewhere=elsewhere,
            rotated=rotated,
        )

    async def authenticated(
        self, key: str, id: str, *, at: int, descriptor: bytes = b"", rotation: Rotation = (0, 0)
    ) -> Written[None]:
        return await self.real.authenticated(
            key, id, at=at, descriptor=descriptor, rotation=rotation
        )

    async def mark(self, key: str, id: str, *, ttl: int) -> Written[bool]:
        return await self.real.mark(key, id, ttl=ttl)

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> Written[float]:
        return await self.real.revoke(key, keep=keep, memory=memory)

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        return await self.real.entries(key, cursor)

    async def remove(self, key: str, ids: Sequence[str], *, until: float) -> Written[None]:
        return await self.real.remove(key, ids, until=until)

    async def connect(self) -> None:
        await self.real.connect()

    async def close(self) -> None:
        await self.real.close()


class _Overwrites(Passing):
    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        found = await self.real.load(id)
        if found is not None and len(found) > HEADER_SIZE:
            expected = found[:HEADER_SIZE]
        return await self.real.commit(id, expected, value, ttl)


class _Revives(Passing):
    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        found = await self.real.load(id)
        if found is None or len(found) == HEADER_SIZE:
            await self.backend.put(id, None)
            expected = None
        return await self.real.commit(id, expected, value, ttl)


class _Deletes(Passing):
    """Ends leave nothing behind."""

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        ended = await self.real.end(id, tombstone, ttl)
        await self.backend.put(id, None)
        return ended

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        written = await self.real.commit(id, expected, value, ttl)
        if written.result is Commit.STORED and len(value) == HEADER_SIZE:
            await self.backend.put(id, None)
        return written


class _Buries(Passing):
    """An end replaces another's tombstone."""

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        ended = await self.real.end(id, tombstone, ttl)
        await self.backend.put(id, tombstone)
        return ended


class _Forgets(Passing):
    """A retry doesn't recognise its own write, or end."""

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        found = await self.real.load(id)
        if found is not None and found[:HEADER_SIZE] == value[:HEADER_SIZE]:
            return GONE if len(value) == HEADER_SIZE else CONFLICT
        return await self.real.commit(id, expected, value, ttl)

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        found = await self.real.load(id)
        ended = await self.real.end(id, tombstone, ttl)
        return Written(ended.result and found != tombstone)


class _Unmarked(Passing):
    async def mark(self, key: str, id: str, *, ttl: int) -> Written[bool]:
        return Written(False)


class _Lenient(Passing):
    """A sign-in is entered although a revocation came in between."""

    async def enter(
        self, key: str, id: str, *, age: float, own: float, ttl: int, descriptor: bytes
    ) -> Written[Entered]:
        entered, _ = await self.real.enter(
            key, id, age=-1000, own=own, ttl=ttl, descriptor=descriptor
        )
        return Written(entered._replace(since_revoked=inf))


class _Unasked(Passing):
    """A touch asks nobody."""

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
        return Written(Touched(EntryStatus.LIVE, authenticated))


def _unaware(backend: Any, why: Reject, token: SessionToken, sealed: bytes | None) -> Status:
    """A token that was superseded is like any that opens nothing."""
    _refuse(backend, why, token, sealed)
    return Status.STALE


def _talkative(backend: Any, token: SessionToken, sealed: bytes | None, bound: Bound) -> Opened:
    """An event that tells what it shouldn't."""
    backend.report("loaded", token.value)
    return _unseal(backend, token, sealed, bound)


def _carries(backend: Any, token: SessionToken, sealed: bytes | None, bound: Bound) -> Session:
    """Whatever is in a session counts as assigned by the request."""
    session = _opened(backend, token, sealed, bound)
    state_of(session).known_origins = Origins()
    state_of(session).origins.assign(session)
    return session


class _Unmoved(Worker):
    """`sign_in()` only sets the principal: of the same user it changes nothing."""

    async def commit(
        self, session: Session, *, status: int = 200, may_create: bool = True
    ) -> Answer:
        state_of(session).want(authenticated=False)
        return await super().commit(session, status=status, may_create=may_create)


@dataclass(frozen=True)
class Mutant:
    """What is switched off, where that shows, and as what."""

    name: str
    store: Callable[[Store, Backend], Store] = Passing
    worker: type[Worker] = Worker
    loading: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Any])
    family: str = "pairs"
    fault: str | None = None
    breaks: str = ""


MUTANTS: Final = (
    Mutant("commits don't compare", _Overwrites, breaks="I4 overwritten unseen"),
    Mutant("commits revive what ended", _Revives, breaks="I2"),
    Mutant("ends delete", _Deletes, breaks="I"),
    Mutant("a revocation's tombstone hides another", _Buries, family="late change", breaks="I5"),
    Mutant(
        "a retry forgets its write", _Forgets, family="singles", fault="lost", breaks="needless"
    ),
    Mutant("marks are ignored", _Unmarked, family="singles", fault="failover record", breaks="I8"),
    Mutant("sign-ins are never refused", _Lenient, family="admin", breaks="I2"),
    Mutant("touches don't ask", _Unasked, family="admin", fault="failover record", breaks="I8"),
    Mutant("no token is superseded", loading={"refuse": _unaware}, breaks="I5"),
    Mutant("events tell tokens", loading={"unseal": _talkative}, breaks="I12"),
    Mutant("sign_in() again does nothing", worker=_Unmoved, family="singles", breaks="I3"),
    Mutant("another's data go along", loading={"opened": _carries}, family="singles", breaks="I6"),
)
