"""What a store of sealed records can do. It knows bytes and ids, never tokens or contents."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import msgspec

from redis_sessions.errors import ConfigurationError
from redis_sessions.tracebacks import no_fields, silent_repr

__all__ = [
    "CONFLICT",
    "GONE",
    "STORED",
    "Commit",
    "Entered",
    "Entry",
    "EntryStatus",
    "KeyNoting",
    "NearCopies",
    "NearCopy",
    "Offset",
    "ReplicaReads",
    "Rotation",
    "SessionIndex",
    "SessionStore",
    "Store",
    "Timed",
    "Touched",
    "Watchable",
    "Written",
    "checked_prefix",
    "clock_of",
    "copies_of",
]

T = TypeVar("T")


class Written(NamedTuple, Generic[T]):
    """The answer to a write: what it did, and whether enough replicas have it.

    For example: `Written(Commit.STORED)`. A store that waits for no replicas leaves out the rest.
    """

    result: T
    """What the write did."""
    shortfall: str | None = None
    """None if enough replicas have it; else a sentence that says how many have it."""


class Commit(Enum):
    """What became of a compare-and-set."""

    STORED = 1
    CONFLICT = 0
    GONE = -1


# They are made once, since each change gets one of them.
STORED: Final[Written[Commit]] = Written(Commit.STORED)
CONFLICT: Final[Written[Commit]] = Written(Commit.CONFLICT)
GONE: Final[Written[Commit]] = Written(Commit.GONE)


@runtime_checkable
class SessionStore(Protocol):
    """Where records live. `redis_sessions.testing.StoreConformance` tests an implementation.

    Every operation is atomic, and may be repeated after a lost reply. Each raises
    `StoreUnavailableError` when its outcome is unknown. A write that too few replicas have is no
    error: its answer says so. A value's first 33 bytes are its version; a value of exactly 33
    bytes is a tombstone (`redis_sessions.session.record` has functions for both).
    """

    prefix: str
    """What a key begins with, before the id. A record opens under its own prefix only."""

    def load(self, id: str) -> Awaitable[bytes | None]:
        """The stored bytes, or None. An implementation may be an `async def`."""
        ...

    def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Awaitable[Written[Commit]]:
        """Store `value` for `ttl` milliseconds if the stored version is `expected`.

        `expected=None` means that nothing must be stored. STORED: it is stored; if the stored
        version already was that of `value`, this is a retry, and the TTL is renewed. GONE: there
        is a tombstone, or nothing where something was expected. CONFLICT: there is another
        version, which stays.
        """
        ...

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        """End an id: whatever is stored, there is a tombstone afterwards, for `ttl` milliseconds.

        1. A record is stored: `tombstone` takes its place. The result is True.
        2. A tombstone is stored: it stays, and its TTL is renewed. The result is True if it is
           the same one, since this is a retry of the first case then.
        3. Nothing is stored: a tombstone is, which must not be the same as `tombstone`, so that a
           retry gives the same result. The result is False.
        """
        ...

    def lock(self, id: str, *, wait: float, hold: float) -> AbstractAsyncContextManager[None]:
        """A context manager that holds a session's lock, for `hold` seconds at most.

        `SessionConflictError` if it isn't free within `wait` seconds.
        """
        ...

    async def connect(self) -> None:
        """Check that the store can be reached and used."""
        ...

    async def close(self) -> None:
        """Close the connections of this event loop. The store may be used again afterwards."""
        ...


@runtime_checkable
class ReplicaReads(Protocol):
    """What a store adds that can read from replicas."""

    @property
    def reads_replicas(self) -> bool:
        """Whether it is configured to read from replicas."""
        ...

    def load_from_replica(self, id: str) -> Awaitable[bytes | None] | None:
        """As `load`, but a write of the last 5 seconds may be missing.

        None if no replica may be read now. The caller uses `load` then, and also if what a
        replica has opens no session: so a replica signs nobody out.
        """
        ...


@runtime_checkable
class Watchable(Protocol):
    """What a store adds that tells when stored bytes have changed, whoever has changed them."""

    def watch(self, id: str, notify: Callable[[bytes | None], None]) -> Callable[[], None]:
        """Have `notify` called with the stored bytes; what is returned ends that.

        There are three cases in which it is called, always by the event loop and never by
        `watch` itself:

        1. Soon after this call, once: so nothing is missed that changed since the caller loaded.
        2. After each change: None if nothing is stored any more. Several changes may be told as
           one, and what is told may have been told before.
        3. After a connection was lost and is there again.

        While the store is away, nothing is told. `notify` must not raise.
        """
        ...


class NearCopy(msgspec.Struct, eq=False, gc=False):
    """What is stored under one id, as this process has read or written it a moment ago."""

    value: bytes
    opened: Any = None
    """The manager keeps here what it has made of the bytes, with the token that opens them."""

    # Written out, so that every type checker knows what they are.
    def __repr__(self) -> str:
        return silent_repr(self)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return no_fields(self)


@runtime_checkable
class NearCopies(Protocol):
    """What a store adds that keeps copies in this process, which Redis says when to forget."""

    @property
    def client_cache(self) -> float:
        """Seconds: no copy is older than this. 0 if none are kept."""
        ...

    def near_copy(self, id: str) -> NearCopy | None:
        """The copy, if there is one that is known to be at most `client_cache` seconds old."""
        ...


def copies_of(store: SessionStore) -> NearCopies | None:
    """The store, if it keeps near copies."""
    return store if isinstance(store, NearCopies) and store.client_cache > 0 else None


class Offset(Protocol):
    """A number that a store keeps up to date, from which the servers' time is computed."""

    @property
    def offset(self) -> float:
        """Seconds that `time.monotonic()` is behind the servers' time since the epoch."""
        ...


@runtime_checkable
class Timed(Protocol):
    """What a store adds whose servers have a clock that all processes go by."""

    @property
    def server_clock(self) -> Offset: ...


def clock_of(store: SessionStore) -> Callable[[], float]:
    """The time of the store's servers, or of this machine for a store without any."""
    if not isinstance(store, Timed):
        return time.time
    monotonic, server = time.monotonic, store.server_clock
    return lambda: monotonic() + server.offset


@runtime_checkable
class KeyNoting(Protocol):
    """What a store adds in which processes note the secret keys that they use."""

    async def key_ids(self, note: str | None = None) -> Mapping[str, float]:
        """The ids of the secret keys that were noted in the last day, and how many seconds ago.

        `note` is an id (8 hexadecimal digits) that is to be noted first.
        """
        ...


class EntryStatus(Enum):
    """What an index says of a session."""

    LIVE = "live"
    """It has an entry, and nothing speaks against it."""
    ENDED = "ended"
    """It was marked as ended, or all sessions of before a later time were revoked."""
    OUTDATED = "outdated"
    """Its entry has a later sign-in or rotation, not of the last 30 seconds. So the record is an
    older one, which a failover brought back."""
    UNSURE = "unsure"
    """It has no entry, and may have had one of the marks that were removed to make room."""
    MISSING = "missing"
    """It has no entry, and nothing speaks against it."""
    REFUSED = "refused"
    """All sessions were revoked after the request of this sign-in had begun."""


class Entered(NamedTuple):
    """What became of a sign-in."""

    status: EntryStatus
    """LIVE, ENDED or REFUSED."""
    authenticated: int
    """The time of the sign-in."""
    size: int
    """The number of entries; some of them may have expired."""
    since_revoked: float
    """Milliseconds since all sessions were revoked; infinite if never, or by the same request."""


class Touched(NamedTuple):
    """What became of a touch."""

    status: EntryStatus
    """LIVE, ENDED or OUTDATED."""
    clock: float
    """The time on the index's clock, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One session of a principal. Times in milliseconds, on the index's own clock."""

    id: str
    authenticated: int
    seen: float
    expires: int
    descriptor: bytes
    """What a list of devices shows of the session. It is sealed: only the manager can read it."""
    rotated: int = 0
    """The `rotated_at` of the session's newest record, in seconds; 0 if its token is the first."""


Rotation = tuple[int, int]
"""The `rotated_at` of a record, and of the one whose place it took under a new token."""


@runtime_checkable
class SessionIndex(Protocol):
    """Which sessions a principal, or an alias, has, and which have ended. Each has one `key`.

    Every operation is atomic on one key, works on a bounded number of entries, and may be
    repeated. Times are milliseconds on the index's own clock, which never gives the same time
    twice and never goes back. Durations are milliseconds as well. So no two clocks are compared.

    At most 256 marks of ended sessions are kept. If one more comes, the oldest is removed, and
    `floor` becomes the time at which that mark was made. A session that has no entry and was
    authenticated before `floor` is UNSURE.
    """

    async def enter(
        self, key: str, id: str, *, age: float, own: float, ttl: int, descriptor: bytes
    ) -> Written[Entered]:
        """Enter a sign-in whose request began `age` ms ago.

        `own` is the time of a revocation by the same request, or -1; the sign-in comes after it.
        The answer is ENDED if the id is marked, and REFUSED if there was another revocation since
        the request began. `ttl` is in milliseconds. The entry's time is rounded up to a whole
        millisecond. An id that is entered already, and not revoked, keeps its time.
        """
        ...

    async def ask(self, key: str, id: str, *, authenticated: int, rotated: int = 0) -> EntryStatus:
        """The status of a session with these times of its record. Nothing is written."""
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
        rotated: int = 0,
    ) -> Written[Touched]:
        """Renew an entry, or write it again if it is missing and nothing speaks against it.

        `elsewhere` is what the principal's indexes under other secret keys say. If the entry is
        missing here, and `elsewhere` is LIVE, it is written here as well. Else, if it is UNSURE
        here or elsewhere, the answer is ENDED. If it is MISSING everywhere, it is written again.

        An empty `descriptor` leaves the one that is there, and so does an earlier `authenticated`
        than the entry's.
        """
        ...

    async def authenticated(
        self, key: str, id: str, *, at: int, descriptor: bytes = b"", rotation: Rotation = (0, 0)
    ) -> Written[None]:
        """Set an entry's times to later ones. Earlier times, or no entry, change nothing.

        If the entry's `rotated` is between the two of `rotation`, an older record had come back,
        and was rotated. Then all records of this session are OUTDATED from now on. An empty
        `descriptor` leaves the one that is there.
        """
        ...

    async def mark(self, key: str, id: str, *, ttl: int) -> Written[bool]:
        """Mark a session as ended, and remove its entry. True if there was an entry.

        The mark is kept as long as the entry would have been; without an entry, for `ttl`.
        """
        ...

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> Written[float]:
        """Note that all sessions of before have ended, except `keep`; returns the time.

        A session ends by it even if it has no entry. The time is kept for `memory` ms. Earlier
        revocations still hold for `keep`, unless they excepted it as well.
        """
        ...

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        """The cursor for the next call (0 if there are no more entries), and some entries.

        An entry that is there during all of the calls is returned at least once.
        """
        ...

    async def remove(self, key: str, ids: Sequence[str], *, until: float) -> Written[None]:
        """Remove the entries that a revocation at `until` has ended, of at most 1,000 `ids`.

        If no entry, mark and revocation is left, the index may forget its time, too.
        """
        ...


@runtime_checkable
class Store(SessionStore, SessionIndex, Protocol):
    """Records and indexes: what a manager needs."""


def checked_prefix(prefix: str) -> str:
    """The prefix, if it can be used; `ConfigurationError` says what to write."""
    given = cast("object", prefix)
    if not isinstance(given, str) or not prefix or not prefix.isascii() or not prefix.isprintable():
        raise ConfigurationError(
            f"prefix={prefix!r}: write printable ASCII, such as 'session:', so that ACL rules "
            "can name it"
        )
    return prefix
