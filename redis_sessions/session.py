"""The session as handlers see it: a dict, and what it knows of itself.

Handlers mutate it and record what they want (`rotate()`, `authenticated()`, `expire_in()`,
`clear()`); only what is awaited (`save()`, `refresh()`) does I/O, by way of the manager.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final, NamedTuple, NoReturn, Protocol, TypeVar, overload

from redis_sessions import values
from redis_sessions.errors import ConfigurationError, SessionError
from redis_sessions.record import HEADER_SIZE, Record, rotated_at
from redis_sessions.token import SessionToken
from redis_sessions.values import EMPTY, Changes, Values

__all__ = ["LONGEST", "Duration", "Found", "Session", "State", "Stored", "Unloaded", "seconds"]

T = TypeVar("T")

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


class Backend(Protocol):
    """What a session asks its manager for."""

    @property
    def values(self) -> Values: ...
    def principal_of(self, data: Mapping[Any, Any]) -> str | None: ...
    async def save(self, session: Session) -> None: ...
    async def refresh(self, session: Session) -> None: ...


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
        "cleared",
        "found",
        "late",
        "lifetime",
        "lock",
        "modified",
        "principal",
        "raised",
        "rebased",
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
        self.cleared = False


class Session(dict[str, Any]):
    """A session: its data as a dict, whatever `request.session` is expected to be.

    What the request changed, nested values included, is stored when its response starts.
    """

    __slots__ = ("_state",)

    def __init__(self, data: Mapping[str, Any], state: State) -> None:
        super().__init__(data)
        self._state = state

    # -- what it knows of itself

    @property
    def id(self) -> str | None:
        """20 characters that name the session and open nothing; None until it is stored."""
        stored = self._state.live
        return None if stored is None else stored.token.id

    @property
    def is_new(self) -> bool:
        """Whether no live session was loaded, or it was cleared."""
        return self._state.live is None

    @property
    def created_at(self) -> datetime | None:
        """When it was created (UTC); None if it isn't stored yet."""
        stored = self._state.live
        return None if stored is None else datetime.fromtimestamp(stored.record.created_at, UTC)

    @property
    def expires_at(self) -> datetime | None:
        """When it ends, however much it is used (UTC); None if it isn't stored yet."""
        stored = self._state.live
        return None if stored is None else datetime.fromtimestamp(stored.record.expires_at, UTC)

    @property
    def authenticated_at(self) -> datetime | None:
        """When its principal last signed in (UTC); None if nobody is signed in."""
        stored = self._state.live
        if stored is None or stored.record.authenticated_at is None:
            return None
        return datetime.fromtimestamp(stored.record.authenticated_at / 1000, UTC)

    @property
    def principal(self) -> str | None:
        """Who is signed in, in canonical form (a str), or None for nobody."""
        return self._state.backend.principal_of(self)

    # -- what is wanted of it; nothing here does I/O

    def clear(self) -> None:
        """End the session. What is written afterwards begins another one."""
        super().clear()
        self._state.forget_wants()
        self._state.cleared = True

    def rotate(self) -> None:
        """A new token for the same session, with the response; the old one opens nothing."""
        self._state.rotate = True

    def authenticated(self) -> None:
        """The principal proved again who they are: a new token, and the lifetime restarts."""
        self._state.authenticated = True

    def expire_in(self, duration: Duration, *, persistent: bool | None = None) -> None:
        """Let this session end `duration` from now, whatever the default is ("remember me").

        `persistent`: whether its cookie outlives the browser; None leaves that as it is. A
        duration above the manager's `max_age` holds even if the session isn't used; a shorter
        one leaves the idle timeout in force.
        """
        self._state.lifetime = (seconds(duration, "expire_in"), persistent)

    def mark_accessed(self) -> None:
        """Note that the response depends on the session (`Vary`)."""
        self._state.accessed = True

    def mark_modified(self) -> None:
        """Have the session written, even if its data are the same."""
        self._state.accessed = self._state.modified = True

    @overload
    def get_as(self, key: str, type: type[T]) -> T | None: ...
    @overload
    def get_as(self, key: str, type: type[T], default: T) -> T: ...
    def get_as(self, key: str, type: type[T], default: T | None = None) -> T | None:
        """The value of `key` as a `type` (msgspec Struct, dataclass, attrs, pydantic, ...).

        The converted object takes the value's place, so that changing it changes the session;
        reading it doesn't. ValueError if the stored value doesn't fit.
        """
        if key not in self:
            return default
        value = self[key]
        codec = self._state.backend.values
        converted = codec.convert(value, type)
        if converted is not value:
            base = {} if self._state.cleared else self._state.before()
            unchanged = base.get(key) == codec.encode_value(key, value)
            self[key] = converted
            if unchanged:
                rebased = self._state.rebased or {}
                rebased[key] = codec.encode_value(key, converted)
                self._state.rebased = rebased
        return converted

    # -- I/O

    async def save(self) -> None:
        """Store the changes now, on top of what others stored: for sockets, streams, tasks.

        Before the response has started, what needs a new token (a sign-in, a rotation, a new
        session) is left for the response, which carries it. Raises `SessionGoneError` if the
        session ended or was rotated elsewhere, `StoreUnavailableError`, `SessionConflictError`.
        """
        await self._awaited(self._state.backend.save(self))

    async def refresh(self) -> None:
        """Load what others stored meanwhile; keys that were changed here keep their change.

        Raises `SessionGoneError` and `StoreUnavailableError`.
        """
        await self._awaited(self._state.backend.refresh(self))
        self.mark_accessed()

    async def _awaited(self, operation: Awaitable[None]) -> None:
        try:
            await operation
        except SessionError as exc:
            raised = self._state.raised(exc)
            raise raised from (exc if raised is not exc else exc.__cause__)

    # -- as a dict

    def __repr__(self) -> str:
        # Data may be secret, and reprs end in logs.
        return f"<{type(self).__name__} id={self.id} keys={len(self)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class Unloaded(Session):
    """Stands where a session would be: not loaded yet, or unavailable.

    Every method but `refresh()` raises and says why. C code reads the storage of a dict past
    its methods: there it meets an entry that nothing can encode, rather than an empty session.
    """

    __slots__ = ()

    def __init__(self, state: State) -> None:
        dict.__init__(self, {"session not loaded": _NotLoaded()})
        self._state = state

    def __repr__(self) -> str:
        return f"<Session not loaded: {self._state.why}>"


class _NotLoaded:
    __slots__ = ()


def load_into(session: Session, data: Mapping[str, Any], state: State) -> None:
    """Turn a placeholder into the session that it stood for: references to it stay good."""
    dict.clear(session)
    dict.update(session, data)
    session.__class__ = Session
    session._state = state  # pyright: ignore[reportPrivateUsage] - this module's own


def replace_data(session: Session, data: Mapping[str, Any]) -> None:
    """Set the data without ending anything, as `clear()` would."""
    dict.clear(session)
    dict.update(session, data)


def state_of(session: Session) -> State:
    """The library's side of a session."""
    return session._state  # pyright: ignore[reportPrivateUsage] - the accessor of this package


def seconds(duration: Duration, name: str) -> int:
    """A duration in whole seconds, from 1 to 400 days; `ConfigurationError` names it."""
    whole: Any = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(whole, bool) or not isinstance(whole, (int, float)) or not 1 <= whole <= LONGEST:
        raise ConfigurationError(
            f"{name}={duration!r}: write seconds or a timedelta, from 1 second to 400 days"
        )
    return int(whole)


def _refuse(self: Session, *_: Any, **__: Any) -> NoReturn:
    state = state_of(self)
    error = state.why or SessionError("the session is not loaded")
    raise state.raised(error) from error


_HARMLESS: Final = {
    *("__class__", "__class_getitem__", "__delattr__", "__dir__", "__doc__", "__format__"),
    *("__getattribute__", "__hash__", "__init__", "__init_subclass__", "__module__", "__new__"),
    *("__repr__", "__setattr__", "__sizeof__", "__slots__", "__str__", "__subclasshook__"),
    *("_awaited", "_state", "refresh"),
}

for _name in {*dir(dict), *vars(Session)} - _HARMLESS:
    _refusal = property(_refuse) if isinstance(vars(Session).get(_name), property) else _refuse
    setattr(Unloaded, _name, _refusal)
