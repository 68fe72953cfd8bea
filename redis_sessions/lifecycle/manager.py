"""Which session a token opens, and what becomes of what a request did to it; no HTTP here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

from redis_sessions.errors import (
    ConfigurationError,
    ReplicationError,
    SessionConflictError,
    SessionEncodeError,
    SessionError,
    SessionGoneError,
    StoreError,
    StoreUnavailableError,
    check_event_loop,
)
from redis_sessions.lifecycle.commit import Operation
from redis_sessions.lifecycle.revocation import Revoker
from redis_sessions.lifecycle.writer import Update, Writer
from redis_sessions.session.outcome import NOTHING, Answer, Outcome
from redis_sessions.session.record import Reject, Stored
from redis_sessions.session.session import Session, Unloaded, load_into, new_session, state_of
from redis_sessions.session.state import ANYWHERE, OPEN, Bound, Found, State
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import Commit, ReplicaReads
from redis_sessions.tracebacks import strip, stripped

__all__ = ["Answer", "SessionManager"]

T = TypeVar("T")

MAX_WAITING: Final = 32
"""How many requests of one process may hold one session's lock or wait for it."""

MAX_WAITING_IN_ALL: Final = 256
"""How many may hold or wait for the locks of all sessions. Each session has its share of these."""

LOCK_SECONDS: Final = 30
"""How long `exclusive()` holds at most; what comes later is still compared and set."""

_CHANGED: Final = Answer(Outcome.CHANGE)

MAX_TOKENS: Final = 3
"""How many cookies of our name are tried."""


class SessionManager(Revoker):
    """Loads and commits sessions. Usable without a request: in a worker, a CLI, a test.

    `SessionManager(store, keyring, *, …)` takes the options that `Policy` explains.
    """

    @stripped
    async def connect(self) -> None:
        """Get ready: `ConfigurationError` for refused credentials, `StoreUnavailableError`.

        Where other processes store sessions with other secret keys, that is logged.
        """
        check_event_loop()
        await self.store.connect()
        await self.keys.compare()

    @stripped
    async def close(self) -> None:
        """Close what the running event loop holds open."""
        await self.store.close()

    # -- loading

    async def load(
        self,
        token: str | Sequence[str] | None = None,
        *,
        bound: Bound = None,
        check_binding: bool = True,
    ) -> Session:
        """The session that this token opens, or a new, empty one.

        Several tokens (a browser's several cookies): the one that opens, unless more do. `bound`:
        what the request is bound to; a session that is bound to something else isn't opened, and
        without it none that is bound. Outside of a request `check_binding=False` opens all.
        Raises nothing but `StoreError`; a token or record that is none is counted, and reported.
        """
        try:
            if not check_binding:
                if bound is not None:
                    raise TypeError("load(bound=…, check_binding=False): write one of them")
                bound = ANYWHERE
            texts = (token,) if isinstance(token, str) else token
            if not token or not texts:
                return new_session({}, self._state(Found.NOTHING, bound))
            tokens = [token for token in map(SessionToken.parse, texts) if token is not None]
            if len(tokens) < len(texts):
                self.report("rejected", "malformed token")
            tokens = list(dict.fromkeys(tokens))[:MAX_TOKENS]
            if not tokens:
                return new_session({}, self._state(Found.NOTHING, bound))
            found = [self.opened(token, await self.store.load(token.id), bound) for token in tokens]
            live = [session for session in found if state_of(session).found is Found.OPEN]
            if len(live) == 1:
                state = state_of(live[0])
                if len(texts) > 1 and state.stored is not None:
                    state.tokens = (state.stored.token.value,)
                return live[0]
            if live:
                self.report("rejected", "several tokens open a session")
                none = new_session({}, self._state(Found.STALE, bound))
                state_of(none).opened = tuple(map(state_of, live))
                return none
            crossed = (Found.SUPERSEDED, Found.ROTATED)
            return next((s for s in found if state_of(s).found in crossed), found[0])
        except BaseException as exc:  # no decorator: the middleware calls this, too
            strip(exc)
            raise

    @property
    def reads_replicas(self) -> bool:
        """Whether `load_from_replica` may save the primary a read."""
        return isinstance(self.store, ReplicaReads) and self.store.reads_replicas

    async def load_from_replica(self, tokens: Sequence[str], *, bound: Bound = None) -> Session:
        """As `load`, but what was stored in the last 5 seconds may be missing.

        Only a live session is taken from a replica; whatever else it says, the primary is asked.
        """
        token = SessionToken.parse(tokens[0]) if len(tokens) == 1 else None
        if token is not None and isinstance(self.store, ReplicaReads):
            copy = self.store.load_from_replica(token.id)
            try:
                sealed = None if copy is None else await copy
            except StoreError:
                sealed = None
            if sealed is not None and self.fits(token, sealed, bound):
                return self.opened(token, sealed, bound)
        return await self.load(tokens, bound=bound)

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
        return new_session({}, state)

    def _state(self, found: Found, bound: Bound = None) -> State:
        return State(self, found, self.timer(), bound=bound)

    def opened(self, token: SessionToken, sealed: bytes | None, bound: Bound) -> Session:
        """The session that is stored as these bytes, or a new, empty one."""
        stored, data = self.unseal(token, sealed, bound)
        if not isinstance(stored, Stored):
            state = self._state(self.refuse(stored, token, sealed), bound)
            if stored is Reject.TOMBSTONE:
                state.ended = token.id
            return new_session(data, state)
        try:
            principal = self.principal.find(data)
        except ConfigurationError as exc:  # of whoever writes next, not of who reads
            self.warn_once("stored principal", "a stored session has no principal: %s", exc)
            principal = None
        if principal is not None:
            self._warned.add("principal")
        at, now = stored.touch_at, self.timer()
        state = State(self, OPEN, now, stored, stored.data, principal, data, None, at, bound=bound)
        return new_session(data, state)

    # -- committing

    @stripped
    async def commit(
        self, session: Session, *, status: int = 200, may_create: bool = True
    ) -> Answer:
        """Carry out what the request did to its session, given its response's status.

        `may_create`: whether a new anonymous session may come into being. Raises
        `SessionEncodeError` before anything is stored, `StoreError`, `SessionConflictError`.
        """
        owed = self.owed(session, status)
        if owed is None:
            return NOTHING
        answer = await self.settle(session, owed, status, may_create)
        if answer is _CHANGED:
            # Here, and not for each response: nobody can sign in after that.
            state_of(session).hold_all(self.values.keyed(session))
        return answer

    def owed(self, session: Session, status: int) -> bytes | None:
        """What a commit has to store: None for nothing at all, as each request asks, twice.

        The data, encoded, where they are others than before; else, for whatever a commit finds
        there is to do or to raise, nothing but `b""`.
        """
        if session.__class__ is Unloaded:
            return None
        state = state_of(session)
        if status >= 500 or state.wants():
            return b""
        try:
            encoded = self.values.pack(session)
        except Exception:  # noqa: BLE001 - such as for a type that a hook knows
            try:
                encoded = self.values.encode(session)
            except SessionEncodeError:
                return b""  # a commit says which
        if encoded != state.base and encoded != state.settled:  # noqa: PLR1714 - on every request
            return encoded
        return None if self._tick() + self._server.offset <= state.touch_at else b""

    async def settle(self, session: Session, owed: bytes, status: int, may_create: bool) -> Answer:
        """A commit of what is owed."""
        state, ends = state_of(session), None
        changed = self._changed(session, state, owed) if owed else None
        if changed is not None and state.stored is not None:
            ends = asyncio.get_running_loop().time() + self.deadline
            id, version, ttl = changed.token.id, state.stored.version, self.ttl(changed)
            sent = asyncio.ensure_future(self.store.commit(id, version, changed.sealed, ttl))
            state.busy = sent
            try:
                if await sent is Commit.STORED:
                    state.remember(changed)
                    return _CHANGED
            except ReplicationError as exc:
                state.remember(changed)
                raise ReplicationError(str(exc), result=_CHANGED) from exc
            finally:
                state.busy = None
        async with state.alone():
            if status >= 500:  # then no change of data is stored
                return await Operation(self, session, state.base, status, may_create).run()
            encoded = self.values.encode(session)
            answer = await Operation(self, session, encoded, status, may_create, ends).run()
        await self.keys.renew()  # never raises
        return answer

    def _changed(self, session: Session, state: State, encoded: bytes) -> Stored | None:
        """What is to be stored of a session whose data are others, and nothing else.

        None if it is something else. If it turns out to need merging, an `Operation` begins anew.
        """
        at = state.live
        if at is None or state.rebased is not None or state.busy is not None:
            return None
        if self.clock() > at.touch_at or self.principal.of(encoded) != state.principal:
            return None
        self.values.check(encoded, at.data)
        self.hint(session, state.principal)
        return self.sealer.seal(at.token, at.record.amended(data=encoded), at.rotated_at)

    async def save(self, session: Session) -> None:
        """What `await session.save()` does."""
        state = state_of(session)
        if isinstance(session, Unloaded):
            raise state.missing()
        async with state.alone():
            # A rotation travels with the response; what needs no token is stored now.
            deferred = None if state.late else state.defer()
            try:
                operation = Operation(self, session, self.values.encode(session), 200, True)
                if not state.late and operation.travels:
                    return
                answer = await operation.run()
            except StoreUnavailableError:  # it may be stored all the same
                state.hold_all(self.values.keyed(session))
                raise
            finally:
                if deferred is not None:
                    state.resume(deferred)
        if answer.outcome is Outcome.DROP:
            raise SessionGoneError("the session ended or was rotated elsewhere; nothing was saved")

    @stripped
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
            state.raise_as_seen(exc)

    @asynccontextmanager
    async def exclusive(self, session: Session, timeout: float) -> AsyncGenerator[None, None]:
        """What `session.exclusive()` does."""
        try:
            id, state = session.id, state_of(session)
            if id is None:
                if state.found is Found.UNAVAILABLE:
                    raise state.missing()
                if state.found not in (Found.OPEN, Found.NOTHING, Found.STALE):
                    raise SessionGoneError("the session ended or was rotated elsewhere")
                yield  # nobody else has a session that isn't stored
                return
            with self._waits_for(id):
                async with self.store.lock(id, wait=timeout, hold=LOCK_SECONDS):
                    await self.refresh(session)
                    yield
                    await self.save(session)
        except BaseException as exc:
            strip(exc)
            raise

    @contextmanager
    def _waits_for(self, id: str) -> Generator[None, None, None]:
        share = MAX_WAITING_IN_ALL // max(1, len(self._waiting))
        # One that holds and one that waits is what each session may always have.
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

    async def refresh(self, session: Session, *, from_replica: bool = False) -> None:
        """What `await session.refresh()` does. `from_replica`: a replica may answer it."""
        state, loads = state_of(session), isinstance(session, Unloaded)
        async with state.alone():
            if not loads:
                await Writer(self, session, self.values.encode(session)).reload()
            elif session.__class__ is Unloaded:  # unless another task has loaded it meanwhile
                await self._load_into(session, state, from_replica)

    async def _load_into(self, session: Session, state: State, from_replica: bool) -> None:
        try:
            load = self.load_from_replica if from_replica else self.load
            loaded = await load(state.tokens, bound=state.bound)
        except StoreError as exc:
            state.why, state.found = exc, Found.UNAVAILABLE
            raise
        fresh = state_of(loaded)
        fresh.visit, fresh.late, fresh.began = state.visit, state.late, state.began
        fresh.revocations = state.revocations
        load_into(session, loaded, fresh)
