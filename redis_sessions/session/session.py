"""The session as handlers see it: a dict, and what it knows of itself.

Handlers mutate it and record what they want (`sign_in()`, `sign_out()`, `rotate()`,
`authenticated()`, `expire_in()`, `clear()`); only what is awaited (`save()`, `refresh()`) does
I/O, by way of the manager.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, Never, NoReturn, Self, TypeVar, overload
from uuid import UUID

from redis_sessions.errors import ConfigurationError, SessionEncodeError, SessionError
from redis_sessions.session.carryover import carried
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.principal import Principal
from redis_sessions.session.state import Duration, State, Wanted, seconds
from redis_sessions.session.values import Values
from redis_sessions.tracebacks import strip, stripped

__all__ = [
    "Services",
    "Session",
    "Unloaded",
    "load_into",
    "new_session",
    "replace_data",
    "services_of",
    "serving",
    "state_of",
]

T = TypeVar("T")

_set_item: Final = dict[Any, Any].__setitem__  # super() costs as much again


@dataclass(frozen=True, slots=True)
class Services:
    """What a session asks for the manager that it came from."""

    values: Values
    principal: Principal
    keyring: Keyring
    save: Callable[[Session], Awaitable[None]]
    refresh: Callable[[Session], Awaitable[None]]
    exclusive: Callable[[Session, float], AbstractAsyncContextManager[None]]

    def principal_of(self, data: Mapping[Any, Any]) -> str | None:
        """Who is signed in by these data, as they would be stored."""
        if self.principal.shows(data):
            return self.principal.find(data)
        return self.principal.of(self.values.encode(data))


class Session(dict[str, Any]):
    """A session: its data as a dict, whatever `request.session` is expected to be.

    What the request changed, nested values included, is stored when its response starts.
    """

    __slots__ = ("_services", "_state")
    _services: Services
    _state: State

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("a Session comes with a request, or from SessionManager.load()")

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
    @stripped
    def principal(self) -> str | None:
        """Who is signed in, in canonical form (a str), or None for nobody."""
        return self._services.principal_of(self)

    # -- what is wanted of it; nothing here does I/O

    @stripped
    def sign_in(self, principal: str | int | UUID) -> None:
        """Sign this user in, with the response: a new token, and a lifetime of its own.

            session.sign_in(user.id)  # after you have checked a password

        The data of the same user, or of nobody, stay. Another user's data are left behind, here
        and now; what this request assigned before stays. It sets the principal's key, or a new
        dict for a dotted path, unless this user is there already. `ConfigurationError` if
        `principal=` is a callable.
        """
        where, state = self._principal_place("sign_in"), self._state
        value: Any = where.as_stored(principal)
        anothers = state.is_anothers(str(value), self._services.keyring)
        try:
            known = self.principal == str(value)
        except (ConfigurationError, SessionEncodeError):
            known = False
        if not known:
            self._forget_principal(where.path[0])
        if anothers:
            replace_data(self, carried(self, state, self._services.values, where.path))
        if not known:
            for step in reversed(where.path[1:]):
                value = {step: value}
            self[where.path[0]] = value
        state.want(authenticated=True)

    @stripped
    def sign_out(self) -> None:
        """Sign out whoever is signed in, and keep what else is in the session.

        It removes the principal's key, or the first key of a dotted path. `clear()` keeps nothing.
        Where several tokens each opened a session, all of these end. `ConfigurationError` if
        `principal=` is a callable.
        """
        self._forget_principal(self._principal_place("sign_out").path[0])
        self._state.want(
            authenticated=False, cleared=self._state.wanted.cleared or bool(self._state.opened)
        )

    def _principal_place(self, verb: str) -> Principal:
        where = self._services.principal
        if not where.path:
            raise ConfigurationError(
                f"{verb}() can't know which keys the callable principal= reads: to sign in, set "
                "these keys and call authenticated(); to sign out, remove them; or name a key, "
                'such as principal="user_id"'
            )
        return where

    def _forget_principal(self, key: str) -> None:
        stored = self._services.values.stored_key
        for name in [name for name in self if name == key or stored(name) == key]:
            del self[name]

    def clear(self) -> None:
        """End the session. What is written afterwards begins another one."""
        super().clear()
        self._state.wanted = Wanted(cleared=True)
        origins = self._state.origins
        origins.assigned, origins.left_changes = None, False

    def rotate(self) -> None:
        """A new token for the same session, with the response; the old one opens nothing."""
        self._state.want(rotate=True)

    def authenticated(self) -> None:
        """The principal proved again who they are: a new token, and the lifetime restarts."""
        self._state.want(authenticated=True)

    @stripped
    def expire_in(self, duration: Duration, *, persistent: bool | None = None) -> None:
        """Let this session end `duration` from now, whatever the default is ("remember me").

        `persistent`: whether its cookie outlives the browser; None leaves that as it is. A
        duration above the manager's `max_age` holds even if the session isn't used; a shorter
        one leaves the idle timeout in force.
        """
        self._state.want(lifetime=(seconds(duration, "expire_in"), persistent))

    def mark_accessed(self) -> None:
        """Note that the response depends on the session (`Vary`)."""
        self._state.request.accessed = True

    def mark_modified(self) -> None:
        """Have the session written, even if its data are the same."""
        self._state.request.accessed = True
        self._state.want(modified=True)

    @overload
    def get_as(self, key: str, type: type[T]) -> T | None: ...
    @overload
    def get_as(self, key: str, type: type[T], default: T) -> T: ...
    @stripped
    def get_as(self, key: str, type: type[T], default: T | None = None) -> T | None:
        """The value of `key` as a `type` (msgspec Struct, dataclass, attrs, pydantic, ...).

        The converted object takes the value's place, so that changing it changes the session;
        reading it doesn't. ValueError if the stored value doesn't fit.
        """
        if key not in self:
            return default
        value = self[key]
        codec, state = self._services.values, self._state
        converted = codec.convert(key, value, type)
        if converted is not value:
            if value is state.origins.loaded.get(key):
                state.hold({key: converted})
            base = {} if state.wanted.cleared else state.before()
            unchanged = base.get(key) == codec.encode_value(key, value)
            _set_item(self, key, converted)  # which assigns nothing
            if unchanged:
                rebased = state.rebased or {}
                rebased[key] = codec.encode_value(key, converted)
                state.rebased = rebased
        return converted

    # -- I/O

    @stripped
    async def save(self) -> None:
        """Store the changes now, on top of what others stored: for sockets, streams, tasks.

        Before the response has started, what needs a new token (a sign-in, a rotation, a new
        session) is left for the response, which carries it. Raises `SessionGoneError` if the
        session ended or was rotated elsewhere, `StoreUnavailableError`, `SessionConflictError`.
        """
        await self._awaited(self._services.save(self))

    @stripped
    async def refresh(self) -> None:
        """Load what others stored meanwhile; keys that were changed here keep their change.

        Raises `SessionGoneError` and `StoreUnavailableError`.
        """
        await self._awaited(self._services.refresh(self))
        self.mark_accessed()

    @asynccontextmanager
    async def exclusive(self, *, timeout: float = 5) -> AsyncGenerator[None, None]:
        """Hold the session's lock: load the newest data, and store the changes at the end.

            async with session.exclusive():
                session["balance"] -= 1

        No two such blocks of one session run at once, in whichever process. Waits `timeout`
        seconds at most; then, or where many wait already, `SessionConflictError`.
        """
        try:
            try:
                async with self._services.exclusive(self, timeout):
                    yield
            except SessionError as exc:
                self._state.raise_as_seen(exc)
        except BaseException as exc:
            strip(exc)
            raise

    async def _awaited(self, operation: Awaitable[None]) -> None:
        try:
            await operation
        except SessionError as exc:
            self._state.raise_as_seen(exc)

    # -- as a dict, which notes what is assigned

    def __setitem__(self, key: str, value: Any) -> None:
        _set_item(self, key, value)
        origins = self._state.origins
        if origins.assigned is None:
            origins.assigned = {key}
        else:
            origins.assigned.add(key)

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        missing = key not in self
        value = super().setdefault(key, default)
        if missing:
            self._state.origins.assign((key,))
        return value

    def update(self, *args: Any, **kwargs: Any) -> None:
        new: dict[str, Any] = dict(*args, **kwargs)
        dict.update(self, new)
        self._state.origins.assign(new)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]  # dict's does so, too
        self.update(other)
        return self

    def __repr__(self) -> str:
        # Data may be secret, and reprs end in logs.
        return f"<{type(self).__name__} id={self.id} keys={len(self)}>"

    def __rich_repr__(self) -> Iterator[str]:
        yield repr(self)  # else rich and Sentry print a dict's contents

    def __sentry_repr__(self) -> str:
        return repr(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class Unloaded(Session):
    """Stands where a session would be: not loaded yet, or unavailable.

    Every method but `refresh()` raises and says why. C code reads the storage of a dict past
    its methods: there it meets an entry that nothing can encode, rather than an empty session.
    """

    __slots__ = ()

    def __init__(self, state: State, services: Services) -> None:
        dict.__init__(self, {"session not loaded": _NotLoaded()})
        self._state = state
        self._services = services

    def __repr__(self) -> str:
        return f"<Session not loaded: {self._state.why}>"


class _NotLoaded:
    __slots__ = ()


serving: ContextVar[tuple[Session, ...]] = ContextVar("redis_sessions_serving", default=())
"""The sessions of the request that is being served, in its tasks and threads as well."""


def new_session(data: Mapping[str, Any], state: State, services: Services) -> Session:
    """A session of these data."""
    session = Session.__new__(Session)
    dict.__init__(session, data)
    session._state = state  # pyright: ignore[reportPrivateUsage] - this module's own
    session._services = services  # pyright: ignore[reportPrivateUsage] - this module's own
    return session


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


state_of: Final[Callable[[Session], State]] = attrgetter("_state")
"""The library's side of a session."""

services_of: Final[Callable[[Session], Services]] = attrgetter("_services")
"""What a session asks its manager for."""


@stripped
def _refuse(self: Session, *_: Any, **__: Any) -> NoReturn:
    state: State = state_of(self)
    state.raise_as_seen(state.missing())


_HARMLESS: Final = {
    *("__class__", "__class_getitem__", "__delattr__", "__dir__", "__doc__", "__format__"),
    *("__getattribute__", "__hash__", "__init__", "__init_subclass__", "__module__", "__new__"),
    *("__repr__", "__setattr__", "__sizeof__", "__slots__", "__str__", "__subclasshook__"),
    *("__rich_repr__", "__sentry_repr__", "_awaited", "_services", "_state", "refresh"),
}

for _name in {*dir(dict), *vars(Session)} - _HARMLESS:
    _refusal = property(_refuse) if isinstance(vars(Session).get(_name), property) else _refuse
    setattr(Unloaded, _name, _refusal)
