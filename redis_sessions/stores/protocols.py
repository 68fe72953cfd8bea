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
    "EntryStatus",
    "Nearby",
    "Noting",
    "Offset",
    "SessionIndex",
    "SessionStore",
    "Store",
    "Timed",
    "Touched",
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
        by this call or by an earlier attempt with the same tombstone. A retry answers what the
        first attempt did: over nothing, a tombstone with another last byte will do.
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


class EntryStatus(Enum):
    """What an index says of a session."""

    LIVE = "live"
    """It has an entry."""
    ENDED = "ended"
    """It was marked as ended, or all sessions of its time were revoked."""
    OUTDATED = "outdated"
    """Its entry has a later sign-in, of more than 30 seconds ago: the record is an older one."""
    UNSURE = "unsure"
    """It has no entry, and its mark may be one of those that had to make room."""
    MISSING = "missing"
    """It has no entry, and nothing speaks against it."""
    REFUSED = "refused"
    """A revocation came between the beginning of this sign-in's request and now."""


class Entered(NamedTuple):
    """What became of a sign-in."""

    status: EntryStatus
    """LIVE, ENDED or REFUSED."""
    authenticated: int
    size: int
    """How many entries there are, at most."""
    since_revoked: float
    """How long ago all sessions were revoked, in milliseconds; infinite: never, or by oneself."""


class Touched(NamedTuple):
    """What became of a touch."""

    status: EntryStatus
    """LIVE, ENDED or OUTDATED."""
    clock: float
    """The time on the server's clock."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One session of a principal. Times in milliseconds, on the index's own clock."""

    id: str
    authenticated: int
    seen: float
    expires: int
    descriptor: bytes
    """Sealed: only the manager reads it."""


@runtime_checkable
class SessionIndex(Protocol):
    """Which sessions a principal has, and which of them have ended: one `key` a principal.

    Every operation is atomic on one key, works on a bounded number of entries, and may be
    repeated. Times are milliseconds on the index's own clock, which never gives the same time
    twice and never goes back; durations are milliseconds, too. So no two clocks are compared.

    At most 256 marks of ended sessions are kept. The oldest go first, and raise a `floor` to the
    time at which they were made: a session without an entry, authenticated before, is UNSURE.
    """

    async def enter(
        self, key: str, id: str, *, age: float, own: float, ttl: int, descriptor: bytes
    ) -> Entered:
        """Enter a sign-in whose request began `age` ms ago.

        `own`: the time of a revocation by the same request, or -1; the sign-in comes after it.
        The entry's time is rounded up to a whole millisecond.
        ENDED: the id was marked. REFUSED: another revocation came since the request began.
        """
        ...

    async def ask(self, key: str, id: str, *, authenticated: int) -> EntryStatus:
        """What the index says of a session that was authenticated at this time; writes nothing."""
        ...

    async def touch(
        self,
        key: str,
        id: str,
        *,
        authenticated: int,
        ttl: int,
        descriptor: bytes,
        elsewhere: EntryStatus = EntryStatus.MISSING,
    ) -> Touched:
        """Renew an entry, or write it again if it is missing and nothing speaks against it.

        `elsewhere`: what the principal's indexes under other keys say: LIVE, UNSURE or MISSING.
        An empty descriptor leaves the one that is there.
        """
        ...

    async def authenticated(self, key: str, id: str, *, at: int) -> None:
        """Set an entry's time to a later one; an earlier one, or a missing entry, is left alone."""
        ...

    async def mark(self, key: str, id: str, *, ttl: int) -> bool:
        """Put a mark in the place of an entry; whether there was one.

        `ttl`: how long the session could have lived, if there is no entry.
        """
        ...

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> float:
        """End all sessions of before but `keep`, with an entry or without; returns the time.

        It is remembered for `memory` ms. `keep` isn't excepted from earlier revocations, unless
        they excepted it, too.
        """
        ...

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        """Some of the entries, and the cursor for the next ones: 0 when there are no more.

        What is there all the time is returned at least once.
        """
        ...

    async def remove(self, key: str, ids: Sequence[str], *, until: float) -> None:
        """Remove the entries of what a revocation at `until` has ended: at most 1,000 of them."""
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
