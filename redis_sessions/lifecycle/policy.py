"""What is decided once: keys, lifetimes, limits, who is signed in, and whom to tell."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, Final, Literal

from redis_sessions.errors import ConfigurationError
from redis_sessions.events import Event, EventHandler, logger
from redis_sessions.lifecycle.index import Index
from redis_sessions.lifecycle.key_notes import KeyNotes
from redis_sessions.session.keyring import Keyring, Keys, keyring_of
from redis_sessions.session.keywords import suggesting
from redis_sessions.session.principal import Principal, PrincipalOption
from redis_sessions.session.record import TOMBSTONE_TTL, Reject, Sealer, Stored, key_id, rotated_at
from redis_sessions.session.state import ANYWHERE, Bound, Duration, Found, State, in_words, seconds
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import Values, decode
from redis_sessions.stores import StoreOption, open_store
from redis_sessions.stores.deadline import check_deadline
from redis_sessions.stores.protocols import Offset, Timed
from redis_sessions.tracebacks import strip, stripped

__all__ = ["Opened", "Policy"]

DEFAULT_MAX_AGE: Final = 14 * 24 * 3600
DEFAULT_IDLE: Final = 7 * 24 * 3600
CLOCKS_DIFFER: Final = 3600


class _NoOffset:
    offset = 0.0


_NONE: Final[Offset] = _NoOffset()
_SUSPECTS: Final = frozenset({"user", "username", "uid", "sub", "email", "token", "_user_id"})


Opened = tuple[Stored | Reject, dict[Any, Any]]
"""What is stored, or why it opens nothing; and its data decoded, or none."""


class Policy:
    """The options of a `SessionManager`, checked.

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
        max_size: int = 64 * 1024,
        deadline: float = 5.0,
        on_event: EventHandler | None = None,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.store = store = open_store(store)
        self.keyring = keyring = keyring_of(keyring)
        self.persistent = max_age is not None
        self.max_age = DEFAULT_MAX_AGE if max_age is None else seconds(max_age, "max_age")
        self.idle_timeout = (
            min(DEFAULT_IDLE, self.max_age)
            if idle_timeout is None
            else seconds(idle_timeout, "idle_timeout")
        )
        if self.idle_timeout > self.max_age:
            raise ConfigurationError(
                f"idle_timeout ({in_words(self.idle_timeout)}) is longer than max_age "
                f"({in_words(self.max_age)}), at which a session ends however much it is used: "
                "lower idle_timeout=, or raise max_age="
            )
        if type(max_size) is not int or max_size < 1:
            raise ConfigurationError(f"max_size={max_size!r}: write bytes, such as 65536")
        if on_event is not None and not _is_sync(on_event):
            raise ConfigurationError(
                f"on_event={on_event!r}: write a callable, not async, that takes one Event"
            )
        check_deadline(deadline, store)
        if max_sessions is not None and (type(max_sessions) is not int or max_sessions < 1):
            raise ConfigurationError(f"max_sessions={max_sessions!r}: write 1 or more, or None")
        if on_conflict not in ("merge", "error"):
            raise ConfigurationError(f"on_conflict={on_conflict!r}: write 'merge' or 'error'")
        if on_binding_mismatch not in ("reject", "report"):
            raise ConfigurationError(
                f"on_binding_mismatch={on_binding_mismatch!r}: write 'reject' or 'report'"
            )
        self.max_sessions = max_sessions
        self.on_conflict = on_conflict
        self.on_binding_mismatch = on_binding_mismatch
        self.timer = time.monotonic if clock is None else clock
        """Seconds since whenever, for ages."""
        self._tick, self._server = clock or time.time, _NONE
        if clock is None and isinstance(store, Timed):
            self._tick, self._server = time.monotonic, store.server_clock
        self.index = Index(store, keyring, self.timer)
        self.deadline = deadline
        self.values = Values(max_size=max_size, enc_hook=enc_hook, dec_hook=dec_hook)
        self.counts: Counter[str] = Counter()
        """How often each event happened, by name, and by `name: reason`."""
        self.principal = Principal(principal)
        self.sealer = Sealer(keyring, store.prefix)
        self._on_event = on_event
        self._warned: set[str] = set()
        self.keys = KeyNotes(store, keyring, self.timer, self.warn_once)
        self._waiting: Counter[str] = Counter()  # for a session's lock, by id

    def principal_of(self, data: Mapping[Any, Any]) -> str | None:
        """Who is signed in by these data, as they would be stored."""
        if self.principal.shows(data):
            return self.principal.find(data)
        return self.principal.of(self.values.encode(data))

    def clock(self) -> float:
        """Seconds since the epoch, by the store's clock: records of all processes go by it."""
        return self._tick() + self._server.offset

    def now(self) -> int:
        """Whole seconds since the epoch."""
        return int(self.clock())

    def touch_due(self, state: State) -> bool:
        """Whether so much of the idle timeout has passed that it is renewed."""
        stored = state.live
        return stored is not None and self.clock() > stored.touch_at

    def ttl(self, stored: Stored) -> int:
        """How long this lives unless it is touched, in milliseconds."""
        return max(1, int((stored.ends - self.clock()) * 1000))

    def unseal(self, token: SessionToken, sealed: bytes | None, bound: Bound) -> Opened:
        """What the token opens here and now, and its data, or why it doesn't."""
        if sealed is None:
            return Reject.UNKNOWN, {}
        stored = self.sealer.open(token, sealed)
        if not isinstance(stored, Stored):
            return stored, {}
        if self._tick() + self._server.offset >= stored.ends:  # on every request: no call
            return Reject.EXPIRED, {}
        mark = stored.record.binding
        if mark is not None and not self._belongs(mark, bound):
            if self.on_binding_mismatch == "reject":
                return Reject.BOUND, {}
            self.report("bound_elsewhere", None, token.id)
        try:
            return stored, decode(stored.data)
        except ValueError:
            return Reject.CONTENT, {}

    def refuse(self, why: Reject, token: SessionToken, sealed: bytes | None) -> Found:
        """Count and tell why a token opens nothing; what it led to."""
        self.report("rejected", why, token.id)
        found = self._found(why, sealed or b"")
        if why in (Reject.KEY, Reject.FORMAT) and found is Found.SUPERSEDED:  # no dropped key's
            self.warn_once(
                "foreign",
                "sessions: a browser sent the token of a session that is stored under %r with "
                "another secret key. Does another application on this host use the same cookie? "
                "Cookies ignore ports: give one of them its own session_cookie= and prefix=. If "
                "there is no other, give all processes of this one the same secret_key=",
                self.store.prefix,
            )
        return found

    def fits(self, token: SessionToken, sealed: bytes, bound: Bound) -> bool:
        """Whether these bytes are a live session's, for this token and here; nothing is told."""
        stored = self.sealer.open(token, sealed)
        if not isinstance(stored, Stored) or self.clock() >= stored.ends:
            return False
        mark = stored.record.binding
        return mark is None or self._belongs(mark, bound)

    def _belongs(self, mark: bytes, bound: Bound) -> bool:
        """Whether a session with this mark opens here."""
        if bound is ANYWHERE:
            return True
        return isinstance(bound, str) and self.keyring.bound(mark, bound)

    def _found(self, why: Reject, sealed: bytes) -> Found:
        """What a token led to whose record isn't a session."""
        rotated = rotated_at(sealed)
        # A tombstone is recent because it is there; zero is one that lets the browser start afresh.
        if why is Reject.KEY and self.keyring.is_dropped(key_id(sealed)):
            return Found.STALE
        if why in (Reject.KEY, Reject.FORMAT) or (why is Reject.TOMBSTONE and rotated != 0):
            return Found.SUPERSEDED
        recent = -CLOCKS_DIFFER <= self.clock() - rotated <= TOMBSTONE_TTL
        return Found.ROTATED if why is Reject.SEAL and recent else Found.STALE

    # -- reporting

    def report(self, name: str, reason: str | None = None, id: str | None = None) -> None:
        """Count an event, and hand it to `on_event`, whose own failures are logged."""
        self.counts[name] += 1
        if reason is not None:
            self.counts[f"{name}: {reason}"] += 1
        if self._on_event is not None:
            try:
                self._on_event(Event(name, None if reason is None else str(reason), id))
            except Exception as exc:  # noqa: BLE001 - the application's: no request fails by it
                strip(exc)
                logger.exception("on_event failed")

    def warn_once(self, topic: str, message: str, *args: object) -> None:
        """Log something that works but surprises, the first time that it happens."""
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning(message, *args)

    def hint(self, data: Mapping[str, Any], principal: str | None) -> None:
        """Warn once of data that look like a sign-in while no principal ever appears."""
        if principal is not None:
            self._warned.add("principal")
        elif "principal" not in self._warned and (
            suspects := _SUSPECTS.intersection(self.values.keyed(data))
        ):
            self.warn_once(
                "principal",
                "a session holds %s, but nobody is signed in by principal=%r: signing in gives a "
                "new token only if the principal is set; name the key that identifies the user",
                ", ".join(sorted(map(repr, suspects))),
                self.principal.option,
            )


def _is_sync(function: object) -> bool:
    return callable(function) and not iscoroutinefunction(function)
