"""The session that handlers work with: a dict with properties and methods of its own.

A handler changes the data, or records what it wants: `sign_in()`, `sign_out()`, `rotate()`,
`authenticated()`, `expire_in()`, `clear()`. None of these does I/O. Only the methods that are
awaited do (`save()`, `refresh()`, `exclusive()`), through the manager.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, Never, Self, TypeVar, overload
from uuid import UUID

from redis_sessions.errors import SessionError
from redis_sessions.session import threads, values
from redis_sessions.session.aliases import checked_aliases
from redis_sessions.session.carryover import carry_over, set_data
from redis_sessions.session.keyring import Keyring
from redis_sessions.session.listening import Listening
from redis_sessions.session.methods import checked_methods
from redis_sessions.session.principal import Principal, remove
from redis_sessions.session.state import Duration, State, Wanted, seconds
from redis_sessions.tracebacks import strip, stripped

__all__ = ["Services", "Session", "new_session", "services_of", "state_of"]

T = TypeVar("T")

_set_item: Final = dict[Any, Any].__setitem__  # a call through super() takes twice as long


@dataclass(frozen=True, slots=True)
class Services:
    """What a session asks for the manager that it came from."""

    values: values.Values
    principal: Principal
    keyring: Keyring
    save: Callable[[Session], Awaitable[None]]
    refresh: Callable[[Session], Awaitable[None]]
    exclusive: Callable[[Session, float], AbstractAsyncContextManager[None]]
    changes: Callable[[Session], AsyncGenerator[frozenset[str], None]]
    idle_end: Callable[[State], int | None]
    messages: Callable[[Session], Listening]

    def principal_of(self, data: Mapping[Any, Any]) -> str | None:
        """Who is signed in by these data, as they would be stored."""
        if self.principal.shows(data):
            return self.principal.find(data)
        return self.principal.of(self.values.encode(data))


class Session(dict[str, Any]):
    """The data of a session, as a dict.

    Every change of a request, also inside of nested values, is stored when its response starts.
    """

    __slots__ = ("_services", "_state")
    _services: Services
    _state: State

    def __init__(self, *_: Never, **__: Never) -> None:
        raise TypeError("a Session comes with a request, or from SessionManager.load()")

    # -- what it knows of itself

    @property
    def id(self) -> str | None:
        """20 characters that name the session but can't open it. None until it is stored."""
        stored = self._state.live
        return None if stored is None else stored.token.id

    @property
    def is_new(self) -> bool:
        """True if no live session was loaded, or if the session was cleared."""
        return self._state.live is None

    @property
    def created_at(self) -> datetime | None:
        """When the session was created (UTC). None until it is stored."""
        stored = self._state.live
        return None if stored is None else datetime.fromtimestamp(stored.record.created_at, UTC)

    @property
    def expires_at(self) -> datetime | None:
        """When the session ends at the latest, however much it is used (UTC). None until stored."""
        stored = self._state.live
        return None if stored is None else datetime.fromtimestamp(stored.record.expires_at, UTC)

    @property
    def idle_expires_at(self) -> datetime | None:
        """When the session ends if nobody uses it after this request (UTC). None until stored.

        If this request is about to renew the idle timeout, its renewal counts already. What
        `expire_in()`, `sign_in()` and `authenticated()` change shows when it is stored.
        """
        ends = self._services.idle_end(self._state)
        return None if ends is None else datetime.fromtimestamp(ends, UTC)

    @property
    def authenticated_at(self) -> datetime | None:
        """When the principal last signed in (UTC). None if nobody is signed in.

        None also if they did so elsewhere, and `accept=` has taken over their session.
        """
        stored = self._state.live
        at = None if stored is None else stored.record.proved_at
        return None if at is None else datetime.fromtimestamp(at / 1000, UTC)

    @property
    def authentication_methods(self) -> tuple[str, ...]:
        """How the principal proved who they are, when they last did: such as `("pwd", "otp")`.

        The names come from `sign_in()` or `authenticated()`. () if these were given none, if nobody
        is signed in, and until the response has stored a new one.
        """
        state = self._state
        return () if state.live is None or state.wanted.authenticated else state.live.record.methods

    @property
    @stripped
    def principal(self) -> str | None:
        """Who is signed in, always as a str. None if nobody is."""
        return self._services.principal_of(self)

    def _signed_in(self, otherwise: str | None = None) -> str | None:
        """As `principal`. `otherwise`: for data that name no principal, or can't be encoded yet."""
        try:
            return self.principal
        except Exception:  # noqa: BLE001 - a callable may raise anything, and the commit raises it
            return otherwise

    # -- what a handler wants of it; none of these does I/O

    @stripped
    def sign_in(
        self,
        principal: str | int | UUID,
        *,
        methods: Iterable[str] = (),
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Sign this user in: the response carries a new token, and a new lifetime begins.

            session.sign_in(user.id, methods=["pwd"])  # after you have checked a password

        `methods`: how they proved who they are, by the names of RFC 8176. At most 8.

        `aliases`: other names by which `SessionManager.revoke_by()` can end this session, such as
        `{"sid": claims["sid"]}` of an OpenID provider. At most 4. If the same user was signed in
        already, they take the place of those of before; None leaves these as they are. `AliasError`
        for a value that is no str of 1 to 512 bytes.

        Data of the same user, or of nobody, stay. Data of another user are left behind: they are
        removed from this dict at once, except for what this request has assigned. Then the
        principal is written under its key, or into a new dict for a dotted path, unless it is
        there already. `ConfigurationError` if `principal=` is a callable.
        """
        services, state, proved = self._services, self._state, checked_methods(methods)
        path = services.principal.path_for("sign_in")
        value: Any = services.principal.as_stored(principal)
        whose = str(value)
        is_anothers = state.is_anothers(whose, services.keyring)
        is_present = self._signed_in() == whose
        names = None if aliases is None else checked_aliases(aliases)
        if not is_present:
            remove(self, path[0], services.values)
        if is_anothers:
            set_data(self, carry_over(self, state, services.values, path))
        if not is_present:
            for step in reversed(path[1:]):
                value = {step: value}
            self[path[0]] = value
        state.prove(whose, proved, names)

    @stripped
    def sign_out(self) -> None:
        """Sign out whoever is signed in, and keep what else is in the session.

        This removes the principal's key. For a dotted path it removes the first key. `clear()`
        keeps nothing. If the request brought several tokens, and each opened a session, all these
        sessions end. `ConfigurationError` if `principal=` is a callable.
        """
        state, services = self._state, self._services
        remove(self, services.principal.path_for("sign_out")[0], services.values)
        cleared = state.wanted.cleared or bool(state.opened)
        state.want(authenticated=False, cleared=cleared, methods=(), whose=None, aliases=None)

    def clear(self) -> None:
        """End the session. Data that are written afterwards begin a new session."""
        super().clear()
        self._state.wanted = Wanted(cleared=True)
        origins = self._state.origins
        origins.assigned, origins.left_changes = None, False

    def rotate(self) -> None:
        """Send a new token for this session with the response. The old token opens nothing then."""
        self._state.want(rotate=True)

    @stripped
    def authenticated(self, *, methods: Iterable[str] = ()) -> None:
        """Note that the principal has proved again who they are: new token, new lifetime.

            session.authenticated(methods=["otp"])

        `methods`: how, this time, by the names of RFC 8176. They take the place of those of before.
        """
        state = self._state
        state.prove(self._signed_in(state.principal), checked_methods(methods))

    @stripped
    def expire_in(self, duration: Duration, *, persistent: bool | None = None) -> None:
        """Let this session end `duration` from now, whatever the default is ("remember me").

        `persistent`: whether the cookie is kept when the browser closes. None changes nothing.

        A duration above the manager's `max_age` also replaces the idle timeout: the session lives
        that long even if nobody uses it. With a shorter one the idle timeout stays in force.
        """
        self._state.want(lifetime=(seconds(duration, "expire_in"), persistent))

    def untouched(self) -> None:
        """Note that this request doesn't count as use: it doesn't renew the idle timeout.

        Call it in what a page asks for by itself, such as a poll. What the request changes is
        stored all the same. A sign-in, `authenticated()` and `expire_in()` begin a time anew. It
        also works where the session isn't loaded.
        """
        self._state.leave_untouched()

    def mark_accessed(self) -> None:
        """Note that the response depends on the session, which adds `Vary` to it."""
        self._state.request.accessed = True

    def mark_modified(self) -> None:
        """Have the session stored even if its data didn't change."""
        self._state.request.accessed = True
        self._state.want(modified=True)

    @overload
    def get_as(self, key: str, type: type[T]) -> T | None: ...
    @overload
    def get_as(self, key: str, type: type[T], default: T) -> T: ...
    @stripped
    def get_as(self, key: str, type: type[T], default: T | None = None) -> T | None:
        """The value of `key` as a `type`: a msgspec Struct, dataclass, attrs or pydantic class ...

            cart = session.get_as("cart", Cart, Cart())

        The converted object takes the place of the value in the session. If you change the
        object, the change is stored; to read it is no change. Without such a key it returns the
        default and stores nothing. ValueError if the value doesn't fit the type.
        """
        if key not in self:
            return default
        value = self[key]
        codec, state = self._services.values, self._state
        converted = codec.convert(key, value, type)
        if converted is not value:
            was, now = codec.encode_value(key, value), codec.encode_value(key, converted)
            if value is state.origins.loaded.get(key):  # then so does the object that it becomes
                state.hold({key: converted})
            # What it is compared with is converted, too. If it was changed before, it stays so.
            state.base = values.replace(state.base, key, was, now)
            _set_item(self, key, converted)  # unlike self[key] = …, this doesn't count as assigned
        return converted

    # -- I/O

    @threads.awaited
    async def save(self) -> None:
        """Store the changes now, for WebSockets, streams and background tasks.

        Changes of other requests are kept. Before the response has started, whatever needs a new
        token (a sign-in, a rotation, a new session) waits for the response, which carries the
        token. Raises `SessionGoneError` if another request ended or rotated the session,
        `StoreUnavailableError` and `SessionConflictError`.
        """
        await self._awaited(self._services.save(self))

    @threads.awaited
    async def refresh(self) -> None:
        """Load what other requests have stored since. Keys that this request changed stay changed.

        Raises `SessionGoneError` and `StoreUnavailableError`.
        """
        await self._awaited(self._services.refresh(self))
        self.mark_accessed()

    @stripped
    def changes(self) -> AsyncGenerator[frozenset[str], None]:
        """After each change by other requests: refresh, and give the names of the changed keys.

        Several changes at once come as one. It is over when the session has ended, or the client
        has gone. Raises `StoreUnavailableError`.
        """
        return self._services.changes(self)

    @stripped
    def messages(self) -> Listening:
        """What is sent to this session, its principal and all, until it ends or the client left.

        What is stored decides what is heard: a sign-in of this request counts from the next one on.
        """
        return self._services.messages(self)

    @asynccontextmanager
    async def exclusive(self, *, timeout: float = 5) -> AsyncGenerator[None, None]:
        """Hold the session's lock during a block.

            async with session.exclusive():
                session["balance"] -= 1

        The newest data are loaded at the start of the block, and its changes are stored at the
        end. Of all blocks of one session, in all processes, one runs at a time. Raises
        `SessionConflictError` if the lock isn't free within `timeout` seconds, or if too many
        wait for it already.
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

    # -- the methods of dict that assign: they note which keys this request assigned

    def __setitem__(self, key: str, value: Any) -> None:
        _set_item(self, key, value)
        origins = self._state.origins
        if origins.assigned is None:
            origins.assigned = {key: None}
        else:
            origins.assigned[key] = None

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

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]  # as dict's own
        self.update(other)
        return self

    def __repr__(self) -> str:
        # It shows no data: they may be secret, and reprs end up in logs.
        return f"<{type(self).__name__} id={self.id} keys={len(self)}>"

    def __rich_repr__(self) -> Iterator[str]:
        yield repr(self)  # without this, rich and Sentry print the contents of a dict

    def __sentry_repr__(self) -> str:
        return repr(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def new_session(data: Mapping[str, Any], state: State, services: Services) -> Session:
    """A session with these data."""
    session = dict.__new__(Session)
    dict.update(session, data)  # pyright: ignore[reportUnknownMemberType] - faster than __init__
    session._state = state  # pyright: ignore[reportPrivateUsage] - this module's own
    session._services = services  # pyright: ignore[reportPrivateUsage] - this module's own
    return session


state_of: Final[Callable[[Session], State]] = attrgetter("_state")
"""The internal state of a session."""

services_of: Final[Callable[[Session], Services]] = attrgetter("_services")
"""What a session asks for the manager that it came from."""
