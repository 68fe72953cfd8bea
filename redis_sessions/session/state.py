"""What a session is beside its data: where it came from, and what is wanted of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, NoReturn, Protocol

import msgspec

from redis_sessions.errors import ConfigurationError, SessionError, afresh
from redis_sessions.session import values
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.principal import Principal
from redis_sessions.session.record import Stored
from redis_sessions.session.values import EMPTY, Changes, Values

__all__ = [
    "ANYWHERE",
    "LONGEST",
    "OPEN",
    "UNAVAILABLE",
    "Backend",
    "Bound",
    "Duration",
    "Found",
    "Peer",
    "Revoked",
    "State",
    "Visit",
    "in_words",
    "seconds",
]

Duration = int | float | timedelta
"""Seconds, or a timedelta."""

NEVER: Final = float("inf")

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


# Looking a member up by its name costs ten times as much.
OPEN: Final = Found.OPEN
UNAVAILABLE: Final = Found.UNAVAILABLE


class _Anywhere(Enum):
    ANYWHERE = "nobody asks what a session is bound to"


ANYWHERE: Final = _Anywhere.ANYWHERE

Bound = str | Literal[_Anywhere.ANYWHERE] | None
"""What a request is bound to; None: nothing, and no session that is bound opens to it."""


class Peer(NamedTuple):
    """The other end of a request, as far as a list of sessions shows it."""

    address: str | None = None
    user_agent: str | None = None


class Backend(Protocol):
    """What a session asks its manager for."""

    @property
    def values(self) -> Values: ...
    @property
    def principal(self) -> Principal: ...
    @property
    def keyring(self) -> Keyring: ...
    def principal_of(self, data: Mapping[Any, Any]) -> str | None: ...
    async def save(self, session: Any) -> None: ...
    async def refresh(self, session: Any) -> None: ...
    def exclusive(self, session: Any, timeout: float) -> AbstractAsyncContextManager[None]: ...


class Visit(Protocol):
    """The request that a session serves."""

    def peer(self) -> Peer:
        """Who asks."""
        ...

    def raises(self, error: SessionError) -> SessionError:
        """What the application gets to see in place of an error."""
        ...


Lifetime = tuple[int, bool | None]
"""Seconds, and whether the cookie is to outlive the browser."""

Deferred = tuple[bool, bool, Lifetime | None]
"""rotate, authenticated, lifetime"""

Wishes = tuple[bool, bool, bool, bool, Lifetime | None]
"""cleared, rotate, authenticated, modified, lifetime"""

Revoked = Mapping[str, float]
"""When all sessions of a principal were ended, by the name of each of their indexes."""

_NO_REVOCATIONS: Final[Mapping[str, Revoked]] = MappingProxyType({})
_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})

MAX_HELD: Final = 64
"""A worker may save one session for ever; a request doesn't so often, before it signs in."""


class State(msgspec.Struct, eq=False):
    """What a session is beside its data: where it came from, and what is wanted of it."""

    # A Struct, since most requests leave most of this as it is: it is made in C.

    backend: Backend
    found: Found
    began: float
    """When the request began, by the policy's `timer`: seconds, of use for its age alone."""

    # as it is stored
    stored: Stored | None = None
    base: bytes = EMPTY
    """Its data, encoded."""
    principal: str | None = None
    """By its data."""
    loaded: Mapping[Any, Any] = _NOTHING
    """The objects that its record holds, by key, if they come from there."""
    rebased: dict[Any, bytes] | None = None
    """A conversion by get_as replaces a key's base for comparison."""
    touch_at: float = NEVER
    """From when on its time is renewed, in seconds; never again after a touch that failed."""

    held: tuple[Mapping[Any, Any], ...] = ()
    """What `loaded` was before: the first of it, and the last ones."""
    assigned: set[Any] | None = None
    """The keys that this request assigned, and that aren't stored yet."""
    theirs: Any = None
    """What `carryover` has found of the objects that the record holds."""
    left_changes: bool = False
    """`sign_in()` has left changes behind, in another's data."""

    # what is wanted
    cleared: bool = False
    rotate: bool = False
    authenticated: bool = False
    lifetime: Lifetime | None = None
    accessed: bool = False
    modified: bool = False

    # the request
    visit: Visit | None = None
    bound: Bound = None
    """Also what a new session is bound to."""
    revocations: Mapping[str, Revoked] = _NO_REVOCATIONS
    """Its own, by principal."""
    ended_here: bool = False
    """... by which it ended its own session."""
    ended: str | None = None
    """The id of a session that had ended when the request came."""
    opened: tuple[State, ...] = ()
    """Those of several sessions that tokens opened, so that none counts."""
    settled: bytes | None = None
    """The data that a commit has dealt with already."""
    busy: asyncio.Future[Any] | None = None
    """One commit, save or refresh at a time: this one is over when it is done."""
    late: bool = False
    """The response has started: no token can be sent any more."""
    tokens: Sequence[str] = ()
    """What an unloaded one is to be loaded by; of several tokens the one that opened this."""
    why: SessionError | None = None
    """Of an unloaded one."""

    def __repr__(self) -> str:
        # Not what it holds: reprs end in logs.
        return f"<State {self.found.name}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("found", self.found.name)]

    def peer(self) -> Peer:
        """Who asks; nobody knows outside of a request."""
        return Peer() if self.visit is None else self.visit.peer()

    def missing(self) -> SessionError:
        """Why it can't be used; a new error each time, since each raise adds to its traceback."""
        return afresh(self.why or SessionError("the session is not loaded"))

    def raise_as_seen(self, error: SessionError) -> NoReturn:
        """Raise the error as the application gets to see it."""
        seen = error if self.visit is None else self.visit.raises(error)
        raise seen from (error if seen is not error else error.__cause__)

    @property
    def live(self) -> Stored | None:
        """What is stored, unless it was cleared here or has ended elsewhere."""
        return None if self.cleared or self.found is not OPEN else self.stored

    def lost(self) -> None:
        """Note that it ended, or was rotated, elsewhere since it was loaded."""
        self.found = Found.LOST
        self.touch_at = NEVER

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None, None]:
        """Whoever writes or reloads this session waits for its turn: its tasks may save at once."""
        while self.busy is not None:
            await asyncio.wait([self.busy])
        self.busy = turn = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            self.busy = None
            turn.set_result(None)

    def wants(self) -> bool:
        """Whether the handler asked for more than a change of data."""
        return (
            self.cleared
            or self.rotate
            or self.authenticated
            or self.modified
            or self.lifetime is not None
        )

    def defer(self) -> Deferred:
        """Put aside what is wanted of the token and the lifetime; returns it."""
        wanted = self.rotate, self.authenticated, self.lifetime
        self.rotate, self.authenticated, self.lifetime = False, False, None
        return wanted

    def resume(self, wanted: Deferred) -> None:
        """Want that again, besides what tasks asked for meanwhile."""
        rotate, authenticated, lifetime = wanted
        self.rotate |= rotate
        self.authenticated |= authenticated
        if self.lifetime is None:
            self.lifetime = lifetime

    def wishes(self) -> Wishes:
        """All that is wanted."""
        return self.cleared, self.rotate, self.authenticated, self.modified, self.lifetime

    def forget_wants(self, met: Wishes) -> None:
        """Nothing more is wanted of these; what tasks asked for meanwhile is."""
        cleared, rotate, authenticated, modified, lifetime = met
        self.cleared &= not cleared
        self.rotate &= not rotate
        self.authenticated &= not authenticated
        self.modified &= not modified
        if self.lifetime is lifetime:
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

    def assign(self, keys: Iterable[Any]) -> None:
        """Note that this request assigned these keys."""
        if self.assigned is None:
            self.assigned = set()
        self.assigned.update(keys)

    def hold(self, data: Mapping[Any, Any]) -> None:
        """Note that the record holds these objects: they aren't for who signs in over it."""
        if not self.late:  # else nobody can sign in any more
            if self.loaded:
                # The first are what was loaded, of which the handler may have kept anything.
                self.held = (*self.held[:1], *self.held[1:][2 - MAX_HELD :], self.loaded)
            self.loaded = {**self.loaded, **data}
            self.theirs = None

    def hold_all(self, data: Mapping[Any, Any]) -> None:
        """Note that all that the session has is in its record."""
        self.hold(data)
        self.assigned = None

    def is_anothers(self, principal: str | None) -> bool:
        """Whether what the record holds isn't for this user."""
        if self.stored is None or principal in (None, self.principal):
            return False
        if self.principal is not None or (self.live is None and not self.cleared):
            return True  # (it ended elsewhere, and nobody knows why)
        owner = self.stored.record.owner
        return owner is not None and not self.backend.keyring.owns(owner, principal)

    def remember(self, stored: Stored) -> None:
        """Note what is in the store from now on."""
        self.found = OPEN
        self.stored = stored
        self.base = stored.data
        self.touch_at = stored.touch_at
        self.rebased = self.settled = None

    def forget(self) -> None:
        """Note that nothing of it is in the store any more."""
        self.found = Found.NOTHING
        self.stored = self.rebased = self.principal = self.settled = None
        self.touch_at = NEVER
        self.base = EMPTY
        self.cleared = self.ended_here = False


def in_words(seconds: int) -> str:
    """Such as `14 days`, `90 minutes` or `1 second`."""
    units = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
    unit, size = next((unit, size) for unit, size in units if seconds % size == 0)
    count = seconds // size
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def seconds(duration: Duration, name: str) -> int:
    """A duration in whole seconds, from 1 to 400 days; `ConfigurationError` names it."""
    whole: Any = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(whole, bool) or not isinstance(whole, (int, float)) or not 1 <= whole <= LONGEST:
        raise ConfigurationError(
            f"{name}={duration!r}: write seconds or a timedelta, from 1 second to 400 days"
        )
    return int(whole)
