"""What all sessions of one manager work with: store, keys, policy, clock, index and events."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol
from weakref import WeakSet

from redis_sessions.events import EventHandler, Reporter
from redis_sessions.lifecycle.expiry import Expiry, OnExpired
from redis_sessions.lifecycle.index import Index
from redis_sessions.lifecycle.key_notes import KeyNotes
from redis_sessions.session.box import Box
from redis_sessions.session.context import Sources
from redis_sessions.session.keyring import Keyring, SecretKey
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.policy import Policy
from redis_sessions.session.record import Sealer, Stored
from redis_sessions.session.session import Services, Session, state_of
from redis_sessions.session.state import State
from redis_sessions.session.values import Values
from redis_sessions.stores.protocols import Store, Watchable, clock_of, copies_of

__all__ = ["Backend", "Listener", "Observer"]

_SUSPECTS: Final = frozenset({"user", "username", "uid", "sub", "email", "token", "_user_id"})


Listener = Callable[[Iterable[Any]], None]
"""Is called with the names of keys."""


class Observer(Protocol):
    """Is told of what has no event. It mustn't raise."""

    def around(self, app: Any) -> Any:
        """What a middleware runs instead of its application: this one with something around it."""
        ...

    def on_commit(self, outcome: Outcome) -> None:
        """A commit was carried out."""
        ...

    def on_conflict(self) -> None:
        """A write found that another request had been faster."""
        ...


class Backend:
    """The parts of one manager. Whatever loads, writes or revokes sessions works with them.

    `clock`, for tests, gives seconds since the epoch, and ages are measured by it, too. Without
    it the store's servers say what time it is, and ages are measured by monotonic time.
    """

    services: Services
    """What this manager's sessions call: the codec, the principal, `save`, `refresh` and others."""

    observer: Observer | None = None
    accepts = False
    """Whether a middleware of this manager has sources of other libraries' sessions."""
    watched = 0
    """How many open connections, and calls of `changes()`, watch their session."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        policy: Policy,
        *,
        on_event: EventHandler | None,
        personal_events: bool = False,
        enc_hook: Callable[[Any], Any] | None,
        dec_hook: Callable[[type, Any], Any] | None,
        clock: Callable[[], float] | None,
        on_expired: OnExpired | None = None,
    ) -> None:
        self.store = store
        self.keyring = keyring
        self.policy = policy
        self.principal = policy.principal
        self.values = Values(max_size=policy.max_size, enc_hook=enc_hook, dec_hook=dec_hook)
        self.sealer = Sealer(keyring, store.prefix)
        self.markers = Box(keyring, store.prefix, b"rs-accepted")
        """Seals what says that another library's session was accepted."""
        self.reporter = Reporter(on_event, personal_events)
        self.report = self.reporter.report
        self.copies = copies_of(store)
        """The store, if it keeps near copies."""
        self.timer = time.monotonic if clock is None else clock
        """Seconds since some moment. It measures ages."""
        self.clock = clock_of(store) if clock is None else clock
        """Seconds since the epoch. By the store's clock all processes agree."""
        self.index = Index(store, keyring, self.timer)
        # There is one for each sign-in at a provider. So its revocation isn't kept for 400 days,
        # but as long as a session can live that isn't in it any more.
        self.aliases = Index(store, keyring, self.timer, SecretKey.alias, policy.max_age * 1000)
        self.signed = Index(store, keyring, self.timer, SecretKey.signed)
        """Until when signed cookies of other libraries are refused. It has no entries."""
        self.key_notes = KeyNotes(store, keyring, self.timer, self.reporter.warn_once)
        self.afterwards: Callable[[], Awaitable[None]] = self.key_notes.renew
        """Is awaited after each commit but plain changes. It never raises."""
        self.sources = WeakSet[Sources]()
        """The sources of each middleware of this manager that follows any sessions."""
        self.watchable = store if isinstance(store, Watchable) else None
        """The store, if it tells when stored bytes have changed."""
        self.listening: dict[State, list[Listener]] = {}
        """Who is told which keys of a session other requests have changed."""
        self.ttl: Callable[[Stored], int] = self._ttl
        """How long a record lives that is stored now, unless it is touched: in milliseconds."""
        self.records: Store | Expiry = store
        """What records are written to."""
        self.expiry = None if on_expired is None else self._expiry(on_expired)
        """Who tells of sessions that ran out, if the application wants to know."""

    def _expiry(self, on_expired: OnExpired) -> Expiry:
        expiry = Expiry(
            self.store,
            self.keyring,
            on_expired,
            find=self.principal.of,
            clock=self.clock,
            within=self.policy.deadline,
            report=self.report,
        )
        # These are called in any case. So nothing on the way of a request asks whether there is an
        # `on_expired=`.
        self.ttl, self.report = expiry.wrap_ttl(self.ttl), expiry.wrap_report(self.report)
        self.records = expiry
        self.afterwards = expiry.wrap_afterwards(self.afterwards)
        return expiry

    def now(self) -> int:
        """Whole seconds since the epoch."""
        return int(self.clock())

    def _ttl(self, stored: Stored) -> int:
        return max(1, int((stored.ends - self.clock()) * 1000))

    def touch_due(self, state: State) -> bool:
        """Whether the last touch is so long ago that the session's time is to be renewed."""
        stored = state.live
        return stored is not None and self.clock() > stored.touch_at and not state.request.untouched

    def idle_end(self, state: State) -> int | None:
        """When a stored session ends if nobody uses it after this request, in whole seconds."""
        stored = state.live
        if stored is None:
            return None
        if not self.touch_due(state):
            return stored.ends
        return min(self.now() + stored.record.idle, stored.record.expires_at)

    async def refuse_signed(self, principal: str, signed_for: int) -> str | None:
        """Accept no cookie any more that was signed for this principal until now.

        `signed_for`: for how many seconds such a cookie is valid. Returns the shortfall.
        """
        memory = 1000 * (signed_for + 3600)  # a process whose clock is behind finds it valid longer
        return (await self.signed.revoke(principal, memory=memory)).shortfall

    def hold_all(self, session: Session) -> None:
        """Note that all objects in the session are stored now, so that none is newly assigned."""
        state = state_of(session)
        if not state.request.answering:
            state.hold(self.values.keyed(session))
        state.forget_assigned()

    def warn_of_suspects(self, data: Mapping[str, Any], principal: str | None) -> None:
        """Log it once if data look like a sign-in, and nobody was ever signed in."""
        warned = self.reporter.warned
        if principal is not None:
            warned.add("principal")
        elif "principal" not in warned and (
            suspects := _SUSPECTS.intersection(self.values.keyed(data))
        ):
            self.reporter.warn_once(
                "principal",
                "a session holds %s, but nobody is signed in by principal=%r: signing in gives a "
                "new token only if the principal is set; name the key that identifies the user",
                ", ".join(sorted(map(repr, suspects))),
                self.principal.option,
            )
