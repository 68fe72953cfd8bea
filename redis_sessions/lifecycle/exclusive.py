"""`session.exclusive()`: a lock for each session, and a bound on how many wait for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from redis_sessions.errors import SessionConflictError, SessionGoneError
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import UNAVAILABLE, Status
from redis_sessions.stores.protocols import SessionStore
from redis_sessions.tracebacks import strip

__all__ = ["Exclusive"]

MAX_WAITING: Final = 32
"""How many requests of one process may hold one session's lock or wait for it."""

MAX_WAITING_IN_ALL: Final = 256
"""How many requests of one process may hold or wait for all locks. Each lock has its share."""

LOCK_SECONDS: Final = 30
"""How long a lock is held at most. Later writes are still compared and set."""

Verb = Callable[[Session], Awaitable[None]]


class Exclusive:
    """The locks of one manager's sessions. `refresh` loads a session, and `save` stores it."""

    def __init__(self, store: SessionStore, refresh: Verb, save: Verb) -> None:
        self._store = store
        self._refresh = refresh
        self._save = save
        self._waiting: Counter[str] = Counter()  # by id

    @asynccontextmanager
    async def hold(self, session: Session, timeout: float) -> AsyncGenerator[None, None]:
        """What `session.exclusive()` does."""
        try:
            id, state = session.id, state_of(session)
            if id is None:
                if state.status is UNAVAILABLE:
                    raise state.missing()
                if state.status not in (Status.LIVE, Status.NEW, Status.STALE, Status.ENDED):
                    raise SessionGoneError("the session ended or was rotated elsewhere")
                yield  # nobody else has a session that isn't stored
                return
            with self._counted(id):
                async with self._store.lock(id, wait=timeout, hold=LOCK_SECONDS):
                    await self._refresh(session)
                    yield
                    await self._save(session)
        except BaseException as exc:
            strip(exc)
            raise

    @contextmanager
    def _counted(self, id: str) -> Generator[None, None, None]:
        share = MAX_WAITING_IN_ALL // max(1, len(self._waiting))
        # One that holds the lock and one that waits are always allowed.
        most = max(2, min(MAX_WAITING, share))
        if self._waiting[id] >= most:
            raise SessionConflictError(f"{most} requests wait for this session already")
        self._waiting[id] += 1
        try:
            yield
        finally:
            self._waiting[id] -= 1
            if not self._waiting[id]:
                del self._waiting[id]
