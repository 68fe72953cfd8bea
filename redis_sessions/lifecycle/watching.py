"""A stored session is watched: until when its token opens it, and what others change in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextvars import Context
from typing import Any

from redis_sessions.errors import ConfigurationError, SessionError, SessionGoneError
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.session.record import Reject, Stored, version
from redis_sessions.session.session import Session, state_of
from redis_sessions.stores.protocols import Watchable
from redis_sessions.tracebacks import strip

__all__ = ["Watch", "changes"]


class Watch:
    """Watches a session that is stored, until its token doesn't open it any more.

    `ended` is called once then, with the reason. `changed` is called when something else is stored
    than before, also by this session itself. The event loop calls both. The record opens under the
    whole token only, so what opens is the session. A binding isn't checked again: it was when the
    session was loaded, and neither side of it can change.
    """

    __slots__ = (
        *("_at", "_backend", "_changed", "_due", "_ended", "_ends", "_forget"),
        *("_seen_at", "_session"),
    )

    def __init__(
        self,
        backend: Backend,
        store: Watchable,
        session: Session,
        ended: Callable[[Reject], None],
        changed: Callable[[Stored], None] | None = None,
    ) -> None:
        stored = state_of(session).stored
        if stored is None:
            raise RuntimeError("nothing is stored")
        self._backend = backend
        self._session = session
        self._ended = ended
        self._changed = changed
        self._at = stored.token, stored.version
        self._ends, self._seen_at = stored.ends, stored.record.seen_at
        self._due: asyncio.TimerHandle | None = None
        self._forget: Callable[[], None] | None = store.watch(stored.token.id, self._told)
        backend.watched += 1
        self._set_timer()

    def stop(self) -> None:
        """Nothing is called any more."""
        if self._forget is not None:
            self._forget()
            self._forget = None
            self._backend.watched -= 1
        if self._due is not None:
            self._due.cancel()
            self._due = None

    async def look(self) -> None:
        """Ask the store now, and not only when it answers the watch; `StoreError`."""
        self._told(await self._backend.store.load(self._at[0].id))

    def _told(self, sealed: bytes | None) -> None:
        """What the store calls."""
        token, known = self._at
        if self._forget is None or (sealed is not None and version(sealed) == known):
            return
        if sealed is None:
            self._end(Reject.UNKNOWN)
            return
        found = self._backend.sealer.open(token, sealed)
        if isinstance(found, Reject):
            self._end(found)
            return
        self._at = token, found.version
        sooner = found.ends < self._ends
        self._ends, self._seen_at = found.ends, found.record.seen_at
        if sooner:
            self._set_timer()
        if self._changed is not None:
            self._changed(found)

    def _set_timer(self) -> None:
        """Look again when its time is over. A later end needs no other timer: it looks again."""
        if self._due is not None:
            self._due.cancel()
        left = max(0.001, self._ends - self._backend.clock())
        # Its own context: asyncio keeps a cancelled timer for long, and what the request's holds.
        self._due = asyncio.get_running_loop().call_later(left, self._look, context=Context())

    def _look(self) -> None:
        stored = state_of(self._session).stored
        if (
            stored is not None
            and stored.token == self._at[0]
            and stored.record.seen_at > self._seen_at  # it was touched here just now
        ):
            self._ends = max(self._ends, stored.ends)
        if self._backend.clock() >= self._ends:
            self._end(Reject.EXPIRED)
        else:
            self._set_timer()

    def _end(self, why: Reject) -> None:
        self.stop()
        self._ended(why)


class _Changes:
    """What one `changes()` has to tell, and what wakes it."""

    def __init__(self, session: Session) -> None:
        self.keys = set[str]()
        self.stale = False
        """Whether something is stored that the session doesn't show."""
        self.over = False
        self.why: Reject | None = None
        """Why the session has ended."""
        self.event = asyncio.Event()
        self._state = state_of(session)

    def listen(self, keys: Iterable[Any]) -> None:
        """The session shows these keys now as another request has stored them."""
        self.keys.update(keys)
        self.event.set()

    def changed(self, found: Stored) -> None:
        stored = self._state.live
        self.stale = stored is None or stored.version != found.version
        self.event.set()

    def ended(self, why: Reject) -> None:
        self.why = why
        self.stop()

    def stop(self) -> None:
        self.over = True
        self.event.set()


def changes(
    backend: Backend, refresh: Callable[[Session], Awaitable[None]], session: Session
) -> AsyncGenerator[frozenset[str], None]:
    """What `session.changes()` does. `refresh` is the manager's."""
    store = backend.watchable
    if store is None:
        raise ConfigurationError(
            f"session.changes() needs a store that tells of changes, and {type(backend.store)!r} "
            "has no watch(): use a RedisStore, or write one as redis_sessions.stores.protocols."
            "Watchable describes it"
        )
    return _changes(backend, store, refresh, session)


async def _changes(
    backend: Backend,
    store: Watchable,
    refresh: Callable[[Session], Awaitable[None]],
    session: Session,
) -> AsyncGenerator[frozenset[str], None]:
    state, told = state_of(session), _Changes(session)
    if state.live is None:
        return
    watch = Watch(backend, store, session, told.ended, told.changed)
    backend.listening.setdefault(state, []).append(told.listen)
    context = state.request.context
    connection = None if context is None else context.opened()
    leave = None if connection is None else connection.until_over(told.stop)
    try:
        while True:
            if told.keys:
                keys, told.keys = frozenset(told.keys), set[str]()
                yield keys
            elif told.over:
                if told.why is not None and connection is not None:
                    connection.session_ended(told.why)  # the application may return now
                return
            elif told.stale:
                told.stale = False
                try:
                    await refresh(session)
                except SessionGoneError:
                    told.ended(Reject.UNKNOWN)
                except SessionError as exc:
                    state.raise_as_seen(exc)
            else:
                await told.event.wait()
                told.event.clear()
    except BaseException as exc:
        strip(exc)
        raise
    finally:
        watch.stop()
        if leave is not None:
            leave()
        listeners = backend.listening.pop(state)
        listeners.remove(told.listen)
        if listeners:
            backend.listening[state] = listeners
