"""A setting whose store is watched, and what a failover may lose there."""

from __future__ import annotations

from typing import Any

from redis_sessions import (
    Answer,
    Commit,
    Keyring,
    MemoryStore,
    SessionManager,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.stores.protocols import Entered, Touched, Written
from redis_sessions.testing import Clock
from tests.unit.setting import Setting


class Watched(MemoryStore):
    """Writes down what it is asked to write, and is away for what a test names."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.asked: list[str] = []
        self.away: set[str] = set()

    def _note(self, what: str) -> None:
        if what in self.away:
            raise StoreUnavailableError(f"no {what} today")
        self.asked.append(what)

    async def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Written[Commit]:
        self._note("commit")
        return await super().commit(id, expected, value, ttl)

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        self._note("end")
        return await super().end(id, tombstone, ttl)

    async def enter(self, *arguments: Any, **named: Any) -> Written[Entered]:
        self._note("enter")
        return await super().enter(*arguments, **named)

    async def touch(self, *arguments: Any, **named: Any) -> Written[Touched]:
        self._note("touch")
        return await super().touch(*arguments, **named)

    async def authenticated(self, key: str, id: str, *, at: int) -> Written[None]:
        self._note("authenticated")
        return await super().authenticated(key, id, at=at)

    async def mark(self, key: str, id: str, *, ttl: int) -> Written[bool]:
        self._note("mark")
        return await super().mark(key, id, ttl=ttl)


class Watching(Setting):
    """A setting whose store is watched."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.watched = Watched(self.clock)
        self.manager = SessionManager(
            self.watched,
            Keyring(generate_key()),
            clock=self.clock,
            on_event=self.events.append,
            **options,
        )


async def changed(at: Setting, token: str | None, status: int = 200, **data: Any) -> Answer:
    """A request that sets these keys."""
    session = await at.load(token)
    session.update(data)
    return await at.commit(session, status)


async def visited(at: Setting, token: str) -> Answer:
    """A request that reads."""
    return await at.commit(await at.load(token))


async def lose_the_end(at: Setting, token: str, who: str = "alice") -> None:
    """A revocation whose mark holds, and whose end of the record a failover lost."""
    await backend_of(at.manager).index.mark(who, token[:20])


async def lose_the_entry(at: Setting, who: str = "alice") -> None:
    """The index's server lost this principal's index."""
    for key in backend_of(at.manager).keyring.keys:
        at_store: Any = at.manager.store
        at_store._indexes.pop(key.index(who), None)


async def ids(at: Setting, who: str = "alice") -> set[str]:
    return {info.id for info in await at.manager.sessions_of(who)}
