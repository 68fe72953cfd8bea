"""The public methods: sessions are loaded, committed, listed and revoked. No HTTP here."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cached_property, partial
from operator import attrgetter
from typing import Any, Final, Literal, TypeVar

from redis_sessions.cache import Cache
from redis_sessions.errors import ConfigurationError, SessionError, StoreError, check_event_loop
from redis_sessions.events import EventHandler
from redis_sessions.leader import Leader
from redis_sessions.lifecycle import (
    commit,
    enumeration,
    listening,
    loading,
    merging,
    revocation,
    sweep,
    watching,
)
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.enumeration import StoredSession
from redis_sessions.lifecycle.exclusive import Exclusive
from redis_sessions.lifecycle.expiry import OnExpired
from redis_sessions.lifecycle.revocation import AnyPrincipal, SessionInfo
from redis_sessions.messages import Messages, messages_of
from redis_sessions.session.keyring import Keyring, Keys, keyring_of
from redis_sessions.session.keywords import suggesting
from redis_sessions.session.outcome import Answer
from redis_sessions.session.placeholder import Unloaded
from redis_sessions.session.policy import DEFAULT_MAX_AGE, DEFAULT_MAX_SIZE, Policy, checked_policy
from redis_sessions.session.principal import PrincipalOption
from redis_sessions.session.record import tombstone
from redis_sessions.session.session import Services, Session, state_of
from redis_sessions.session.state import ANYWHERE, Bound, Duration
from redis_sessions.session.threads import awaited, raise_answered
from redis_sessions.stores import StoreOption, open_store
from redis_sessions.stores.deadline import check_deadline
from redis_sessions.stores.protocols import Store
from redis_sessions.tracebacks import strip, stripped

__all__ = ["Answer", "SessionManager", "backend_of"]

T = TypeVar("T")


class SessionManager:
    """Loads and commits sessions. It needs no request: use it in a worker, a CLI or a test.

        manager = SessionManager("redis://localhost", secret_key)

    - `store`: a store, a URL, or a redis-py asyncio client
    - `keyring`: a `Keyring`, a secret key, or a list of keys with the newest first
    - `max_age`: the absolute lifetime, in seconds or as a timedelta. None: 14 days, and a cookie
      that ends with the browser
    - `idle_timeout`: how long a session may go unused, in seconds or as a timedelta
    - `principal`: the key, dotted path or callable that says who is signed in
    - `rotate_on`: keys of the session, such as `("role", "tenant")`. If one of them changes, the
      response carries a new token
    - `max_sessions`: how many sessions a principal may have. A further sign-in ends the one that
      was seen least recently
    - `on_conflict`: `"merge"` keeps what several requests changed at once, if it was under
      different keys; of one key the later value. `"error"` raises `SessionConflictError`
    - `on_binding_mismatch`: `"reject"` opens no session that is bound to something else.
      `"report"` opens and reports it
    - `max_size`: the most bytes that the encoded data may have
    - `deadline`: the seconds within which all writes of one response begin
    - `on_event`: is called with each `Event`
    - `personal_events`: whether events of sign-ins and the like tell the principal, the client's
      address and its user agent, which may be personal data
    - `on_expired`: is called with an `Expired` for each session that ran out unused. It may be
      async. `expiring()`, or the middleware's lifespan, calls it
    - `enc_hook`, `dec_hook`: msgspec's
    - `clock`, for tests: gives seconds since the epoch. Ages are measured by it, too. Without it
      the time is the store's, and ages are measured by monotonic time, which nobody can set back

    Raises `ConfigurationError`.
    """

    _cache: Cache | None = None
    _messages: Messages | None = None

    @stripped
    @suggesting({"secret_key": "keyring", "url": "store", "redis_url": "store"})
    def __init__(
        self,
        store: StoreOption,
        keyring: Keyring | Keys,
        *,
        max_age: Duration | None = DEFAULT_MAX_AGE,
        idle_timeout: Duration | None = None,
        principal: PrincipalOption = "user_id",
        rotate_on: Collection[str] = (),
        max_sessions: int | None = None,
        on_conflict: Literal["merge", "error"] = "merge",
        on_binding_mismatch: Literal["reject", "report"] = "reject",
        max_size: int = DEFAULT_MAX_SIZE,
        deadline: float = 5.0,
        on_event: EventHandler | None = None,
        personal_events: bool = False,
        on_expired: OnExpired | None = None,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        store = open_store(store)
        check_deadline(deadline, store)
        self._backend = backend = Backend(
            store,
            keyring_of(keyring),
            checked_policy(
                max_age=max_age,
                idle_timeout=idle_timeout,
                principal=principal,
                rotate_on=rotate_on,
                max_sessions=max_sessions,
                on_conflict=on_conflict,
                on_binding_mismatch=on_binding_mismatch,
                max_size=max_size,
                deadline=deadline,
            ),
            on_event=on_event,
            personal_events=personal_events,
            enc_hook=enc_hook,
            dec_hook=dec_hook,
            clock=clock,
            on_expired=on_expired,
        )
        self._new_cache = partial(
            Cache,
            store,
            backend.keyring,
            on_event=on_event,
            enc_hook=enc_hook,
            dec_hook=dec_hook,
            clock=clock,
        )
        backend.services = Services(
            backend.values,
            backend.principal,
            backend.keyring,
            self._save,
            self._refresh,
            Exclusive(backend.store, self._refresh, self._save).hold,
            partial(watching.changes, backend, self._refresh),
            backend.idle_end,
            partial(listening.messages, backend, lambda: self.messages),
        )

    @property
    @stripped
    def cache(self) -> Cache:
        """The cache on this manager's store, with its keys and hooks."""
        if self._cache is None:
            self._cache = self._new_cache()
        return self._cache

    @property
    def policy(self) -> Policy:
        """The checked options of this manager."""
        return self._backend.policy

    @property
    def store(self) -> Store:
        """Where the records are."""
        return self._backend.store

    @cached_property
    def leader(self) -> Leader:
        """Elects one process of all that use this store: `async with manager.leader(name)`."""
        return Leader(self.store)

    @property
    @stripped
    def messages(self) -> Messages:
        """Messages to users, to sessions and to all, over this store and under its keys.

        `ConfigurationError` if the store has no channels.
        """
        if self._messages is None:
            b = self._backend
            self._messages = messages_of(b.store, b.keyring, b.principal, b.values, b.reporter)
        return self._messages

    @property
    def counts(self) -> Counter[str]:
        """How often each event happened, by name, and by `name: reason`."""
        return self._backend.reporter.counts

    @stripped
    async def connect(self) -> None:
        """Connect to the store ahead of the first session.

        If other processes store sessions with other secret keys, the log says so. Raises
        `StoreUnavailableError`; and `ConfigurationError`, for example for wrong credentials.
        """
        check_event_loop()
        backend = self._backend
        await backend.store.connect()
        if backend.expiry is not None:
            await backend.expiry.check()
        await backend.key_notes.compare()

    @stripped
    async def close(self) -> None:
        """Close the store's connections of the running event loop."""
        if self._backend.expiry is not None:
            await self._backend.expiry.wait_written()
        await self._backend.store.close()

    @stripped
    def expiring(self) -> AbstractAsyncContextManager[None]:
        """Call `on_expired` while the body runs: `async with manager.expiring():`.

        One process of all that run it does so. The middleware runs it in its lifespan. The store
        needn't be there at the start. Raises `ConfigurationError` without `on_expired=`.
        """
        expiry = self._backend.expiry
        if expiry is None:
            raise ConfigurationError("expiring() needs SessionManager(…, on_expired=…)")
        return sweep.running(expiry)

    @awaited
    async def ready(self, *, timeout: float = 2.0) -> bool:
        """Whether the store takes a write now, within `timeout` seconds.

        It is for load balancers; `readiness(manager)` is an endpoint for it. It writes one key,
        which lives for a second. Of a Redis Cluster it asks one primary. It raises nothing: the
        answer is False, whatever went wrong.
        """
        store = self._backend.store
        try:
            async with asyncio.timeout(timeout):
                # Any answer will do. If the key is still there from before, it is a conflict.
                await store.commit("connect:ready", None, tombstone(0), 1000)
        except (StoreError, TimeoutError):
            return False
        return True

    async def load(
        self,
        token: str | Sequence[str] | None = None,
        *,
        bound: Bound = None,
        check_binding: bool = True,
    ) -> Session:
        """The session that this token opens, or a new, empty one.

        `token`: one token, or several, such as those of several cookies. If more than one opens a
        session, the session is a new one. `bound`: what the request is bound to. A session that
        is bound to something else isn't opened. Outside of a request, `check_binding=False` opens
        it. Raises nothing but `StoreError`: malformed tokens, and bad records, are events.
        """
        try:  # a decorator would cost each request another coroutine
            try:
                if not check_binding:
                    if bound is not None:
                        raise TypeError("load(bound=…, check_binding=False): write one of them")
                    bound = ANYWHERE
                backend = self._backend
                found: list[Session] = []
                texts = (token,) if token and isinstance(token, str) else token or ()
                for each in loading.tokens_in(backend, texts):
                    stored = await backend.store.load(each.id)
                    found.append(loading.opened(backend, each, stored, bound))
                if len(found) == len(texts) == 1:
                    return found[0]
                return loading.chosen(backend, found, bound)
            except SessionError as exc:
                raise_answered(exc)
        except BaseException as exc:
            strip(exc)
            raise

    def commit(
        self, session: Session, *, status: int = 200, may_create: bool = True
    ) -> Coroutine[Any, Any, Answer]:
        """Store what the request did to its session. The `Answer` says what the browser is told.

        `status`: the response's status code, since a failed request stores less. `may_create`:
        whether a new anonymous session may begin. Raises `SessionEncodeError`, before anything is
        stored, `StoreError` and `SessionConflictError`.
        """
        return commit.commit(self._backend, session, status, may_create)

    @awaited
    async def update(self, session: Session, function: Callable[[dict[str, Any]], T]) -> T:
        """Change the newest data by a function, and store them at once.

        Use it for counters and one-time values. If another request was faster, the function runs
        again, on what that one stored. It may set and remove keys, but not sign in or out. What
        the request itself changed in `session` stays there, unsaved. Returns what the function
        returns. Raises `SessionGoneError`, `StoreError`, and `SessionConflictError` if others kept
        changing the session until the deadline.
        """
        state = state_of(session)
        await state.others()
        state.turn = True
        try:
            return await merging.update(self._backend, session, function)
        except SessionError as exc:
            state.raise_as_seen(exc)
        finally:
            state.end_turn()

    @awaited
    async def sessions_of(self, principal: AnyPrincipal) -> list[SessionInfo]:
        """The live sessions of a principal. The one that was seen last comes first."""
        return await revocation.sessions_of(self._backend, principal)

    @awaited
    async def revoke(self, id: str, principal: AnyPrincipal) -> bool:
        """End one session of a principal. Returns False if it isn't theirs, or had ended.

        The principal's index says whose session it is, so you may pass an id that a client sent.
        If it is the session of the request that calls this, it counts as `clear()`. If a failover
        lost the session's entry in the index, nobody knows whose session it is. The answer is
        False then, and the session ends when its next touch is due, if it is theirs.
        """
        return await revocation.revoke(self._backend, id, principal)

    @awaited
    async def revoke_all(self, principal: AnyPrincipal, *, keep: str | None = None) -> int:
        """End all sessions of a principal but the one with the id `keep`. Returns how many ended.

        Its first step notes the time in the index. From then on each session that signed in before
        is over, at its next touch at the latest. The next steps end these sessions at once, some
        hundred at a time. If it fails, call it again. A sign-in of the principal that is under way
        is refused. If it ends the session of the request that calls it, this counts as `clear()`,
        and the same request may sign in afterwards.
        """
        return await revocation.revoke_all(self._backend, principal, keep=keep)

    def sessions(self) -> AsyncGenerator[StoredSession, None]:
        """All sessions, of everybody, signed in or not: `async for info in manager.sessions()`.

        It goes through all keys of the database, and leaves time to others between two steps. A
        session that exists all the while is given at least once, and one that comes or goes
        meanwhile may be; a few may be given twice. Raises `StoreUnavailableError` if a connection
        is lost, since nobody can go on from there; and `ConfigurationError` if the store can't do
        it, or its user may not.
        """
        return enumeration.sessions(self._backend.store, self._backend.clock)

    @awaited
    async def count(self) -> int:
        """How many sessions there are. It goes through all of them, as `sessions()` does."""
        return await enumeration.count(self._backend.store)

    @awaited
    async def revoke_by(self, name: str, value: str) -> int:
        """End all sessions that signed in with this alias. Returns how many ended.

            session.sign_in(claims["sub"], aliases={"sid": claims["sid"]})
            await manager.revoke_by("sid", claims["sid"])  # later, in any process

        It ends them as `revoke_all()` ends a principal's. Raises `AliasError`, a `ValueError`, for
        a value that `sign_in()` doesn't take, and `ConfigurationError` for such a name.
        """
        return await revocation.revoke_by(self._backend, name, value)

    # -- what a session asks for

    async def _save(self, session: Session) -> None:
        await commit.save(self._backend, session)

    async def _refresh(self, session: Session) -> None:
        if isinstance(session, Unloaded):
            load: loading.Load = self.load
            context = state_of(session).request.context
            if context is not None:
                load = context.asking_sources(load)
            if self._backend.reporter.personal:
                load = loading.telling(load, state_of(session).peer)
            try:
                await loading.load_in_turn(session, load)
            except StoreError as exc:
                if context is None:
                    raise
                context.go_on_without(exc)
                if session.__class__ is Unloaded:
                    raise
            return
        state = state_of(session)
        await state.others()
        state.turn = True
        try:
            await merging.reload(self._backend, session)
        finally:
            state.end_turn()


backend_of: Final[Callable[[SessionManager], Backend]] = attrgetter("_backend")
"""What a manager works with, for the rest of the library."""
