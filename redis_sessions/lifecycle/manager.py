"""The verbs of the library: sessions are loaded, committed, listed and revoked. No HTTP here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, Literal, TypeVar

from redis_sessions.errors import SessionError, check_event_loop
from redis_sessions.events import EventHandler
from redis_sessions.lifecycle import commit, loading, merging, revocation
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.exclusive import Exclusive
from redis_sessions.lifecycle.revocation import AnyPrincipal, SessionInfo
from redis_sessions.session.keyring import Keyring, Keys, keyring_of
from redis_sessions.session.keywords import suggesting
from redis_sessions.session.outcome import Answer
from redis_sessions.session.policy import DEFAULT_MAX_AGE, DEFAULT_MAX_SIZE, Policy, checked_policy
from redis_sessions.session.principal import PrincipalOption
from redis_sessions.session.session import Services, Session, Unloaded, state_of
from redis_sessions.session.state import ANYWHERE, Bound, Duration
from redis_sessions.stores import StoreOption, open_store
from redis_sessions.stores.deadline import check_deadline
from redis_sessions.stores.protocols import Store
from redis_sessions.tracebacks import strip, stripped

__all__ = ["Answer", "SessionManager", "backend_of"]

T = TypeVar("T")


class SessionManager:
    """Loads and commits sessions. Usable without a request: in a worker, a CLI, a test.

    `store` is a store, a URL or a redis-py client, `keyring` a `Keyring`, a secret key, or a list.
    `max_age` is the absolute lifetime (None: 14 days, and a cookie that ends with the browser),
    `idle_timeout` what a session may go unused; both in seconds or as a timedelta. `principal`
    is the key, dotted path or callable that says who is signed in; `max_sessions` how many sessions
    they may have: the least recently seen end. `on_conflict`: whether crossing changes of different
    keys are merged, or a `SessionConflictError`. `on_binding_mismatch`: whether a session that is
    bound elsewhere reads as none, or is only reported. `max_size` bounds the encoded
    data, in bytes; `deadline`, in seconds, the writes of one response. `enc_hook` and `dec_hook`
    are msgspec's. `clock`, for tests, gives seconds since the epoch, and ages are measured by it,
    too; without one it is the store's time, and nobody can set back what ages are measured by.
    Raises `ConfigurationError`.
    """

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
        max_sessions: int | None = None,
        on_conflict: Literal["merge", "error"] = "merge",
        on_binding_mismatch: Literal["reject", "report"] = "reject",
        max_size: int = DEFAULT_MAX_SIZE,
        deadline: float = 5.0,
        on_event: EventHandler | None = None,
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
                max_sessions=max_sessions,
                on_conflict=on_conflict,
                on_binding_mismatch=on_binding_mismatch,
                max_size=max_size,
                deadline=deadline,
            ),
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
        )

    @property
    def policy(self) -> Policy:
        """What was decided about all sessions of this manager."""
        return self._backend.policy

    @property
    def store(self) -> Store:
        """Where the records are."""
        return self._backend.store

    @property
    def counts(self) -> Counter[str]:
        """How often each event happened, by name, and by `name: reason`."""
        return self._backend.reporter.counts

    @stripped
    async def connect(self) -> None:
        """Get ready: `ConfigurationError` for refused credentials, `StoreUnavailableError`.

        Where other processes store sessions with other secret keys, that is logged.
        """
        check_event_loop()
        await self._backend.store.connect()
        await self._backend.key_notes.compare()

    @stripped
    async def close(self) -> None:
        """Close what the running event loop holds open."""
        await self._backend.store.close()

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
        try:  # a decorator would cost each request another coroutine
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
        except BaseException as exc:
            strip(exc)
            raise

    async def commit(
        self, session: Session, *, status: int = 200, may_create: bool = True
    ) -> Answer:
        """Carry out what the request did to its session, given its response's status.

        `may_create`: whether a new anonymous session may come into being. Raises
        `SessionEncodeError` before anything is stored, `StoreError`, `SessionConflictError`.
        """
        try:
            return await commit.commit(self._backend, session, status, may_create)
        except BaseException as exc:
            strip(exc)
            raise

    @stripped
    async def update(self, session: Session, function: Callable[[dict[str, Any]], T]) -> T:
        """Change the newest data by a function, and store them at once; returns what it returns.

        For counters and one-time values: where another request was faster, the function runs again
        on what that one stored. It may set and remove keys, but not sign in or out. What the
        request itself changed in `session` stays, unsaved. `SessionGoneError`,
        `SessionConflictError` at the deadline, `StoreError`.
        """
        state = state_of(session)
        await state.others()
        state.begin_turn()
        try:
            return await merging.update(self._backend, session, function)
        except SessionError as exc:
            state.raise_as_seen(exc)
        finally:
            state.end_turn()

    @stripped
    async def sessions_of(self, principal: AnyPrincipal) -> list[SessionInfo]:
        """The live sessions of a principal, the one seen last first."""
        return await revocation.sessions_of(self._backend, principal)

    @stripped
    async def revoke(self, id: str, principal: AnyPrincipal) -> bool:
        """End one session of a principal; False if it isn't theirs, or had ended.

        The session is the principal's by its index, so an id that a client sent may be passed.
        In the request that it belongs to it counts as `clear()`. If a failover lost the session's
        entry in the index, nobody knows whose session it is. The answer is False then, and the
        session ends when its next touch is due, if it is theirs.
        """
        return await revocation.revoke(self._backend, id, principal)

    @stripped
    async def revoke_all(self, principal: AnyPrincipal, *, keep: str | None = None) -> int:
        """End all sessions of a principal but `keep`, an id; returns how many it ended.

        It takes effect with its first step, in constant time: each session that signed in before
        it ends at its next touch at the latest. Then these sessions end at once, some hundred at a
        time. It may be repeated until it succeeds. A sign-in of the principal that is under way is
        refused. If it ends the session of the request that calls it, this counts as `clear()`: the
        same request may sign in afterwards.
        """
        return await revocation.revoke_all(self._backend, principal, keep=keep)

    # -- what a session asks for

    async def _save(self, session: Session) -> None:
        await commit.save(self._backend, session)

    async def _refresh(self, session: Session) -> None:
        state, was_unloaded = state_of(session), isinstance(session, Unloaded)
        await state.others()
        state.begin_turn()
        try:
            if not was_unloaded:
                await merging.reload(self._backend, session)
            elif session.__class__ is Unloaded:  # unless another task has loaded it meanwhile
                await loading.load_unloaded(session, self.load)
        finally:
            state.end_turn()


backend_of: Final[Callable[[SessionManager], Backend]] = attrgetter("_backend")
"""What a manager works with, for the rest of the library."""
