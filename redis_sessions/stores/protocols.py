"""What a store of sealed records can do. It knows bytes and ids, never tokens or contents."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol, cast, runtime_checkable

from redis_sessions.errors import ConfigurationError

__all__ = [
    "Commit",
    "Entered",
    "Entry",
    "Nearby",
    "Noting",
    "Offset",
    "Seat",
    "SessionIndex",
    "SessionStore",
    "Store",
    "Timed",
    "checked_prefix",
]


class Commit(Enum):
    """What became of a compare-and-set."""

    STORED = 1
    CONFLICT = 0
    GONE = -1


@runtime_checkable
class SessionStore(Protocol):
    """Where records live. `redis_sessions.testing.StoreConformance` tests an implementation.

    Every operation is atomic, and may be repeated after a lost reply. Each raises
    `StoreUnavailableError` when its outcome is unknown. A value's first 33 bytes are its
    version; a value of exactly 33 bytes is a tombstone.
    """

    prefix: str
    """Before each id; records are bound to it."""

    def load(self, id: str) -> Awaitable[bytes | None]:
        """The stored bytes, or None. An `async def` will do."""
        ...

    def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Awaitable[Commit]:
        """Store `value` for `ttl` milliseconds if the stored version is `expected`.

        `expected=None`: if there is nothing. STORED also if the stored version already is
        `value`'s (a retry), after renewing the TTL. GONE: a tombstone, or nothing where
        something was expected. CONFLICT: another version, which stays.
        """
        ...

    async def end(self, id: str, tombstone: bytes, ttl: int) -> bool:
        """Put `tombstone` where a record is, or nothing, for `ttl` milliseconds.

        A tombstone that is there already stays, its TTL renewed. True if a record was ended,
        by this call or by an earlier attempt with the same tombstone.
        """
        ...

    def lock(self, id: str, *, wait: float, hold: float) -> AbstractAsyncContextManager[None]:
        """Hold a session's lock, for `hold` seconds at most.

        `SessionConflictError` if it isn't free within `wait` seconds.
        """
        ...

    async def connect(self) -> None:
        """Check that the store can be reached and used, and get ready."""
        ...

    async def close(self) -> None:
        """Close what this event loop holds open. The store may be used again afterwards."""
        ...


@runtime_checkable
class Nearby(Protocol):
    """What a store adds that can read from replicas."""

    @property
    def reads_replicas(self) -> bool:
        """Whether it is set up to."""
        ...

    def nearby(self, id: str) -> Awaitable[bytes | None] | None:
        """As `load`, but what was stored in the last 5 seconds may be missing.

        None if the newest has to be loaded. So it has if this gives None, or what isn't a
        session: nobody is signed out by a replica.
        """
        ...


class Offset(Protocol):
    """What a store keeps up to date for those who ask for the time."""

    @property
    def offset(self) -> float:
        """Seconds that `time.monotonic()` is behind the servers' time since the epoch."""
        ...


@runtime_checkable
class Timed(Protocol):
    """What a store adds whose servers have clocks of their own, by which all processes go."""

    @property
    def server_clock(self) -> Offset: ...


@runtime_checkable
class Noting(Protocol):
    """What a store adds that other processes use, too."""

    async def key_ids(self, note: str | None = None) -> Mapping[str, float]:
        """The secret keys that were noted in the last day: their ids, and seconds since.

        `note`: an id, 8 hexadecimal digits, to be noted as well.
        """
        ...


class Seat(Enum):
    """What an index knows of a session."""

    LIVE = "live"
    ENDED = "ended"
    """It was marked, for good, or overtaken by a revocation."""
    REFUSED = "refused"
    """A revocation came between this sign-in's request and now."""
    KEPT = "kept"
    """No entry, but the last revocation excepted it."""
    OVERTAKEN = "overtaken"
    """No entry, and a revocation since it was authenticated."""
    MISSING = "missing"
    """No entry, and nothing that speaks against it."""


class Entered(NamedTuple):
    """What became of a sign-in. Times in milliseconds, on the index's own clock."""

    seat: Seat
    authenticated: int
    size: int
    """How many entries there are, at most."""
    now: int
    revoked: int
    """The last `revoked_at`, or -1."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One session of a principal. Times in milliseconds, on the index's own clock."""

    id: str
    authenticated: int
    seen: int
    expires: int
    descriptor: bytes
    """Sealed: only the manager reads it."""


@runtime_checkable
class SessionIndex(Protocol):
    """Which sessions a principal has, and which of them have ended: one `key` a principal.

    Every operation is atomic on one key and on the index's own clock; durations are given and
    times returned, in milliseconds, so that no two clocks are compared. Each may be repeated.
    """

    async def enter(
        self, key: str, id: str, *, age: int, own: int, ttl: int, descriptor: bytes
    ) -> Entered:
        """A sign-in, `age` ms ago: LIVE.

        `own`: the `revoked_at` that the same request has set, or -1. ENDED if it is marked,
        REFUSED if another revocation isn't earlier.
        """
        ...

    async def touch(
        self,
        key: str,
        id: str,
        *,
        authenticated: int,
        ttl: int,
        descriptor: bytes,
        vouched: bool = False,
        overtaken: bool = False,
        age: int | None = None,
    ) -> tuple[Seat, int]:
        """Renew an entry, or write it again if it is missing: LIVE, or ENDED.

        `ttl=0` only asks: LIVE, ENDED, KEPT, OVERTAKEN or MISSING. `vouched`, `overtaken`: what
        other keys said. `age`: authenticated again that long ago; the time is returned.
        """
        ...

    async def mark(self, key: str, id: str, *, ttl: int) -> bool:
        """Mark a session as ended, for good; whether it was live. `ttl`: if there is no entry."""
        ...

    async def end_all(
        self, key: str, *, keep: str | None, memory: int
    ) -> tuple[int, Sequence[str], Sequence[str]]:
        """Mark all but `keep`, which a later touch finds KEPT if its entry had been lost.

        `revoked_at`, kept for `memory` ms; the ids that were live; those marked in the last hour.
        """
        ...

    async def entries(self, key: str) -> Sequence[Entry]:
        """The live entries."""
        ...


@runtime_checkable
class Store(SessionStore, SessionIndex, Protocol):
    """Records and indexes: what a manager works on."""


def checked_prefix(prefix: str) -> str:
    """The prefix, or a `ConfigurationError` that says what to write."""
    given = cast("object", prefix)
    if not isinstance(given, str) or not prefix or not prefix.isascii() or not prefix.isprintable():
        raise ConfigurationError(
            f"prefix={prefix!r}: write printable ASCII, such as 'session:', so that ACL rules "
            "can name it"
        )
    return prefix
