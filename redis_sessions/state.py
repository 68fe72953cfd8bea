"""What a session is beside its data: where it came from, and what is wanted of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any, Final, NamedTuple, Protocol

from redis_sessions import values
from redis_sessions.errors import ConfigurationError, SessionError
from redis_sessions.record import HEADER_SIZE, Record, rotated_at
from redis_sessions.token import SessionToken
from redis_sessions.values import EMPTY, Changes, Values

__all__ = [
    "LONGEST",
    "Backend",
    "Duration",
    "Found",
    "Peer",
    "Revocation",
    "State",
    "Stored",
    "seconds",
]

Duration = int | float | timedelta
"""Seconds, or a timedelta."""

LONGEST: Final = 400 * 24 * 3600
"""What browsers keep a cookie for at most (RFC 6265bis), in seconds."""


class Found(Enum):
    """What a request's token led to."""

    NOTHING = "no token, or a malformed one"
    OPEN = "a live session"
    STALE = "no live session"
    SUPERSEDED = "a session that ended a moment ago, or another deployment's"
    ROTATED = "a session whose token was replaced a moment ago"
    LOST = "a live session, which has ended or was rotated elsewhere since"
    UNAVAILABLE = "unknown: the store is away"


class Peer(NamedTuple):
    """The other end of a request, as far as a list of sessions shows it."""

    address: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True, slots=True)
class Revocation:
    """A `revoke_all` that a request made itself.

    Its time on the store's clock (milliseconds), and when it was answered, on ours (seconds).
    """

    at: int
    answered: float


class Backend(Protocol):
    """What a session asks its manager for."""

    @property
    def values(self) -> Values: ...
    def principal_of(self, data: Mapping[Any, Any]) -> str | None: ...
    async def save(self, session: Any) -> None: ...
    async def refresh(self, session: Any) -> None: ...
    def exclusive(self, session: Any, timeout: float) -> AbstractAsyncContextManager[None]: ...


class Stored(NamedTuple):
    """What is in the store, as this request knows it."""

    token: SessionToken
    record: Record
    version: bytes  # the header
    rotated_at: int  # its part

    @classmethod
    def of(cls, token: SessionToken, record: Record, sealed: bytes) -> Stored:
        return cls(token, record, sealed[:HEADER_SIZE], rotated_at(sealed))

    @property
    def data(self) -> bytes:
        """Its data, encoded."""
        return bytes(self.record.data)


def _as_it_is(error: SessionError) -> SessionError:
    return error


class State:
    """What a session is beside its data: where it came from, and what is wanted of it."""

    __slots__ = (
        "accessed",
        "authenticated",
        "backend",
        "base",
        "began",
        "bound",
        "cleared",
        "ended_here",
        "found",
        "late",
        "lifetime",
        "lock",
        "modified",
        "peer",
        "principal",
        "raised",
        "rebased",
        "revocations",
        "rotate",
        "settled",
        "stored",
        "tokens",
        "untouchable",
        "why",
    )

    def __init__(self, backend: Backend, found: Found, began: int) -> None:
        self.backend = backend
        self.found = found
        self.began = began  # when the request began, milliseconds
        # as it is stored
        self.stored: Stored | None = None
        self.base = EMPTY  # its data, encoded
        self.principal: str | None = None  # by its data
        # a conversion by get_as replaces a key's base for comparison
        self.rebased: dict[Any, bytes] | None = None
        # what is wanted
        self.cleared = False
        self.rotate = False
        self.authenticated = False
        self.lifetime: tuple[int, bool | None] | None = None
        self.accessed = False
        self.modified = False
        # the request
        self.peer: Callable[[], Peer] = Peer  # who asks; only called where it is stored
        self.bound: str | None = None  # what a new session is bound to
        self.revocations: dict[str, Revocation] = {}  # its own, by principal
        self.ended_here = False  # ... by which it ended its own session
        self.settled: bytes | None = None  # the data that a commit has dealt with already
        self.untouchable = False  # a touch failed; it isn't tried again
        self.lock: asyncio.Lock | None = None  # one commit, save or refresh at a time
        self.late = False  # the response has started: no token can be sent any more
        self.tokens: Sequence[str] = ()
        self.why: SessionError | None = None  # of an unloaded one
        self.raised: Callable[[SessionError], SessionError] = _as_it_is

    @property
    def live(self) -> Stored | None:
        """What is stored, unless it was cleared here or has ended elsewhere."""
        return None if self.cleared or self.found is not Found.OPEN else self.stored

    def lost(self) -> None:
        """Note that it ended, or was rotated, elsewhere since it was loaded."""
        self.found = Found.LOST

    def alone(self) -> asyncio.Lock:
        """What whoever writes or reloads this session holds: its tasks may save at once."""
        if self.lock is None:
            self.lock = asyncio.Lock()
        return self.lock

    def wants(self) -> bool:
        """Whether the handler asked for more than a change of data."""
        return (
            self.cleared
            or self.rotate
            or self.authenticated
            or self.modified
            or self.lifetime is not None
        )

    def defer(self) -> tuple[bool, bool, tuple[int, bool | None] | None]:
        """Put aside what is wanted of the token and the lifetime; returns it."""
        wanted = self.rotate, self.authenticated, self.lifetime
        self.rotate, self.authenticated, self.lifetime = False, False, None
        return wanted

    def forget_wants(self) -> None:
        self.cleared = self.rotate = self.authenticated = self.modified = False
        self.lifetime = None

    def before(self) -> dict[Any, bytes]:
        """What each key is compared with."""
        parts = values.split(self.base)
        if self.rebased:
            parts.update(self.rebased)
        return parts

    def changes(self, encoded: bytes) -> Changes:
        """The top-level keys that this request set or removed."""
        return values.changes({} if self.cleared else self.before(), values.split(encoded))

    def remember(self, token: SessionToken, record: Record, sealed: bytes) -> Stored:
        """Note what is in the store from now on."""
        self.found = Found.OPEN
        self.stored = Stored.of(token, record, sealed)
        self.base = self.stored.data
        self.rebased = self.settled = None
        self.untouchable = False
        return self.stored

    def forget(self) -> None:
        """Note that nothing of it is in the store any more."""
        self.found = Found.NOTHING
        self.stored = self.rebased = self.principal = self.settled = None
        self.base = EMPTY
        self.cleared = self.ended_here = False


def seconds(duration: Duration, name: str) -> int:
    """A duration in whole seconds, from 1 to 400 days; `ConfigurationError` names it."""
    whole: Any = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(whole, bool) or not isinstance(whole, (int, float)) or not 1 <= whole <= LONGEST:
        raise ConfigurationError(
            f"{name}={duration!r}: write seconds or a timedelta, from 1 second to 400 days"
        )
    return int(whole)
