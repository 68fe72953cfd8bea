"""Which session a token opens, and what becomes of what a request did to it; no HTTP here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from redis_sessions.errors import (
    ConfigurationError,
    SessionConflictError,
    SessionError,
    SessionGoneError,
    StoreError,
)
from redis_sessions.operation import Operation
from redis_sessions.outcome import NOTHING, Answer, Outcome
from redis_sessions.revocation import Revoker
from redis_sessions.session import Session, Unloaded, load_into, state_of
from redis_sessions.state import Found, State
from redis_sessions.token import SessionToken
from redis_sessions.writer import Update, Writer

__all__ = ["Answer", "SessionManager"]

T = TypeVar("T")

MAX_WAITING: Final = 32
"""How many requests of one process may wait for one session's lock."""

LOCK_SECONDS: Final = 30
"""How long `exclusive()` holds at most; what comes later is still compared and set."""

MAX_TOKENS: Final = 3
"""How many cookies of our name are tried."""


class SessionManager(Revoker):
    """Loads and commits sessions. Usable without a request: in a worker, a CLI, a test.

    `SessionManager(store, keyring, *, …)` takes the options that `Policy` explains.
    """

    async def connect(self) -> None:
        """Get ready: `ConfigurationError` for refused credentials, `StoreUnavailableError`."""
        await self.store.connect()

    async def close(self) -> None:
        """Close what the running event loop holds open."""
        await self.store.close()

    # -- loading

    async def load(
        self, token: str | Sequence[str] | None = None, *, bound: str | None = None
    ) -> Session:
        """The session that this token opens, or a new, empty one.

        Several tokens (a browser's several cookies): the one that opens, unless more do. `bound`:
        what the request is bound to; a session that was begun under another one isn't opened.
        Raises nothing but `StoreError`; a token or record that is none is counted, and reported.
        """
        if token is None or not token:
            return Session({}, self._state(Found.NOTHING, bound))
        tokens = self._parse((token,) if isinstance(token, str) else token)
        if not tokens:
            return Session({}, self._state(Found.NOTHING, bound))
        if len(tokens) == 1:
            return self._open(tokens[0], await self.store.load(tokens[0].id), bound)
        stored = await asyncio.gather(*(self.store.load(token.id) for token in tokens))
        found = [self._open(*pair, bound) for pair in zip(tokens, stored, strict=True)]
        live = [session for session in found if state_of(session).found is Found.OPEN]
        if len(live) == 1:
            return live[0]
        if live:
            self.report("rejected", "several tokens open a session")
            return Session({}, self._state(Found.STALE, bound))
        crossed = (Found.SUPERSEDED, Found.ROTATED)
        return next((s for s in found if state_of(s).found in crossed), found[0])

    def unloaded(self, tokens: Sequence[str], why: SessionError) -> Session:
        """A placeholder that raises `why` when used; its `refresh()` loads."""
        away = isinstance(why, StoreError)
        state = self._state(Found.UNAVAILABLE if away else Found.NOTHING)
        state.tokens, state.why = tokens, why
        return Unloaded(state)

    def anonymous(self, why: StoreError) -> Session:
        """An empty session for when the store is away: to be read, not written."""
        state = self._state(Found.UNAVAILABLE)
        state.why = why
        return Session({}, state)

    def _state(self, found: Found, bound: str | None = None) -> State:
        state = State(self, found, int(self.clock() * 1000))
        state.bound = bound
        return state

    def _parse(self, tokens: Sequence[str]) -> list[SessionToken]:
        parsed = [SessionToken.parse(token) for token in tokens]
        if None in parsed:
            self.report("rejected", "malformed token")
        return list(dict.fromkeys(token for token in parsed if token))[:MAX_TOKENS]

    def _open(self, token: SessionToken, stored: bytes | None, bound: str | None) -> Session:
        state = self._state(Found.STALE, bound)
        opened = self.unseal(state, token, stored)
        if opened is None or stored is None:
            return Session({}, state)
        state.remember(token, opened.record, stored)
        try:
            state.principal = self.principal(opened.data)
        except ConfigurationError as exc:  # of whoever writes next, not of who reads
            self.warn_once("stored principal", "a stored session has no principal: %s", exc)
        if state.principal is not None:
            self.hint(opened.data, state.principal)
        return Session(opened.data, state)

    # -- committing

    async def commit(
        self, session: Session, *, status: int = 200, may_create: bool = True
    ) -> Answer:
        """Carry out what the request did to its session, given its response's status.

        `may_create`: whether a new anonymous session may come into being. Raises
        `SessionEncodeError` before anything is stored, `StoreError`, `SessionConflictError`.
        """
        if isinstance(session, Unloaded):
            return NOTHING
        state = state_of(session)
        if status < 500 and self._is_settled(session, state):
            return NOTHING
        async with state.alone():
            # From 500 on, no change of data is stored.
            encoded = self.values.encode(session) if status < 500 else state.base
            return await Operation(self, session, encoded, status, may_create).run()

    def _is_settled(self, session: Session, state: State) -> bool:
        """Whether nothing is owed: what a request that only reads costs."""
        encoded = self.values.encode(session)
        if state.wants() or encoded not in (state.base, state.settled):
            return False
        return state.untouchable or not self.touch_due(state)

    async def save(self, session: Session) -> None:
        """What `await session.save()` does."""
        state = state_of(session)
        if isinstance(session, Unloaded):
            raise state.why or SessionError("the session is not loaded")
        async with state.alone():
            # A rotation travels with the response; what needs no token is stored now.
            deferred = None if state.late else state.defer()
            try:
                operation = Operation(self, session, self.values.encode(session), 200, True)
                if not state.late and operation.travels:
                    return
                answer = await operation.run()
            finally:
                if deferred is not None:
                    state.rotate, state.authenticated, state.lifetime = deferred
        if answer.outcome is Outcome.DROP:
            raise SessionGoneError("the session ended or was rotated elsewhere; nothing was saved")

    async def update(self, session: Session, function: Callable[[dict[str, Any]], T]) -> T:
        """Change the newest data by a function, and store them at once; returns what it returns.

        For counters and one-time values: where another request was faster, the function runs again
        on what that one stored. It may set and remove keys, but not sign in or out. What the
        request itself changed in `session` stays, unsaved. `SessionGoneError`,
        `SessionConflictError` at the deadline, `StoreError`.
        """
        state = state_of(session)
        try:
            async with state.alone():
                return await Update(self, session).run(function)
        except SessionError as exc:
            raise state.raised(exc) from exc

    @asynccontextmanager
    async def exclusive(self, session: Session, timeout: float) -> AsyncGenerator[None, None]:
        """What `session.exclusive()` does."""
        id, state = session.id, state_of(session)
        if id is None:
            if state.found is Found.UNAVAILABLE:
                raise state.why or SessionError("the session is not loaded")
            if state.found not in (Found.OPEN, Found.NOTHING, Found.STALE):
                raise SessionGoneError("the session ended or was rotated elsewhere")
            yield  # nobody else has a session that isn't stored
            return
        if self._waiting[id] >= MAX_WAITING:
            raise SessionConflictError(f"{MAX_WAITING} requests wait for this session already")
        self._waiting[id] += 1
        try:
            async with self.store.lock(id, wait=timeout, hold=LOCK_SECONDS):
                await self.refresh(session)
                yield
                await self.save(session)
        finally:
            self._waiting[id] -= 1
            if not self._waiting[id]:
                del self._waiting[id]

    async def refresh(self, session: Session) -> None:
        """What `await session.refresh()` does."""
        state = state_of(session)
        if isinstance(session, Unloaded):
            try:
                loaded = await self.load(state.tokens, bound=state.bound)
            except StoreError as exc:
                state.why, state.found = exc, Found.UNAVAILABLE
                raise
            fresh = state_of(loaded)
            fresh.raised, fresh.late, fresh.began = state.raised, state.late, state.began
            fresh.peer = state.peer
            load_into(session, loaded, fresh)
            return
        async with state.alone():
            await Writer(self, session, self.values.encode(session)).reload()
