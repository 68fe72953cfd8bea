"""The session of one connection, and its errors as HTTP knows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Message, Scope, Send

from redis_sessions.errors import (
    ConfigurationError,
    ReplicationError,
    SessionConflictError,
    SessionError,
    SessionGoneError,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.http.headers import RawHeader
from redis_sessions.http.realms import same_records
from redis_sessions.http.transports import CookieTransport, Transport, Transports
from redis_sessions.lifecycle.manager import SessionManager
from redis_sessions.session.record import Stored
from redis_sessions.session.session import Session, Unloaded, load_into, state_of
from redis_sessions.session.state import ANYWHERE, Bound, Found, Peer
from redis_sessions.session.token import SessionToken

__all__ = [
    "SCOPE_KEY",
    "Active",
    "Actives",
    "Binding",
    "HttpError",
    "OnUnavailable",
    "Setup",
    "as_http",
    "as_outside",
    "restore",
    "with_innermost",
]

OnUnavailable = (
    Literal["error", "anonymous"] | Callable[[HTTPConnection], Literal["error", "anonymous"]]
)
Binding = Callable[[HTTPConnection], "str | None"]

SCOPE_KEY: Final = "redis_sessions"

RETRY_AFTER: Final = "1"

# Errors that a mounted application, too, answers with the right status: its own
# ServerErrorMiddleware would make a 500 of anything that isn't an HTTPException.


class _UnavailableError(StoreUnavailableError, HTTPException):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        headers = {"Retry-After": RETRY_AFTER}
        HTTPException.__init__(self, 503, "The session store is unavailable", headers)


class _UnreplicatedError(ReplicationError, HTTPException):
    def __init__(self, result: Any) -> None:
        self.result = result
        headers = {"Retry-After": RETRY_AFTER}
        HTTPException.__init__(self, 503, "The session isn't replicated yet", headers)


class _ConflictError(SessionConflictError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 409, "The session was changed elsewhere")


class _GoneError(SessionGoneError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 409, "The session has ended")


HttpError = _UnavailableError | _UnreplicatedError | _ConflictError | _GoneError


def as_http(error: SessionError) -> SessionError:
    """The error as one that carries its status, if it has one."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, StoreUnavailableError):
        return _UnavailableError(error.reason)
    if isinstance(error, ReplicationError):
        return _UnreplicatedError(error.result)
    if isinstance(error, SessionConflictError):
        return _ConflictError()
    return _GoneError() if isinstance(error, SessionGoneError) else error


_OVER: Final[Scope] = {"type": "over", "headers": []}


class Setup(NamedTuple):
    """What all connections of one middleware have in common."""

    manager: SessionManager
    transport: Transport | None
    """The only one; None: there are several."""
    key: tuple[str, str]
    """The first one's."""
    transports: Transports
    read: Callable[[Scope], list[str]]
    """The tokens that a request brings."""
    on_unavailable: OnUnavailable
    binding: Binding | None
    vary: RawHeader
    hints: bool = False
    """Whether a cookie tells which requests a replica may serve."""

    def stands_aside_in(self, outer: Setup) -> bool:
        """Whether inside of that middleware this one has nothing to do: they are the same.

        ConfigurationError if they are neither the same, nor realms with a cookie and a prefix each.
        """
        here, there, prefix = self.transports, outer.transports, self.manager.store.prefix
        shared, same = set(here.keys) & set(there.keys), self.manager is outer.manager
        if same and len(shared) == len(here.keys):
            if self.binding is not None and outer.binding is None:
                raise ConfigurationError(
                    "binding= of the inner one of two SessionMiddlewares would bind nothing: give "
                    "it to the outer one"
                )
            return True
        if shared and not same:
            names = " and ".join(f"the {kind} {name!r}" for kind, name in sorted(shared))
            raise ConfigurationError(
                f"two SessionMiddlewares with different managers share {names}: remove one of "
                "them, give both the same manager=, or give one of them another name and another "
                "prefix="
            )
        if prefix != outer.manager.store.prefix:
            return False
        if not same_records(self.manager, outer.manager):
            raise ConfigurationError(
                f"two SessionMiddlewares, with {there!r} and {here!r}, share the prefix "
                f"{prefix!r}, so that nothing but their stores or secret keys keeps a token of one "
                "from opening as one of the other: give one of them another prefix="
            )
        raise ConfigurationError(
            f"two SessionMiddlewares, with {there!r} and {here!r}, share the prefix {prefix!r}, so "
            "that a token of one opens as one of the other: give one of them another prefix=, or "
            "write one middleware with transport=[CookieTransport(), HeaderTransport()] for one "
            "session that browsers and other clients use"
        )


class Active:
    """The session of one connection, for those who ask the scope for it."""

    session: Session
    """Once it is loaded, or something stands in for it."""
    raised: SessionError | None = None
    """To the application, last."""
    done = False
    loaded: Stored | None = None
    """What was stored when the request began, where replicas are read."""

    def __init__(self, setup: Setup, scope: Scope, send: Send) -> None:
        self.setup = setup
        self.tokens = setup.read(scope)
        self._scope = scope
        self._send = send

    @property
    def manager(self) -> SessionManager:
        return self.setup.manager

    @property
    def transport(self) -> Transport:
        """The one that answers: that brought the token which opened the session, or a token."""
        return self.setup.transport or self._answering()

    def _answering(self) -> Transport:
        session = self._there()
        opened = () if session is None else state_of(session).tokens
        return self.setup.transports.answering(self._scope, opened or self.tokens)

    def hint_cookie(self) -> CookieTransport | None:
        """Where a browser says that it changed its session just now; None: it can't."""
        transport = self.transport if self.setup.hints else None
        return transport if isinstance(transport, CookieTransport) else None

    def raises(self, error: SessionError) -> SessionError:
        """The error as one that carries its status; noted as the application's last."""
        self.raised = as_http(error)
        return self.raised

    def peer(self) -> Peer:
        """The other end, as the ASGI server resolved it."""
        client = self._scope.get("client")
        agent = next((v for k, v in self._scope["headers"] if k == b"user-agent"), None)
        return Peer(
            client[0] if client else None, None if agent is None else agent.decode("latin-1")
        )

    def postpone(self) -> None:
        """A placeholder for now."""
        self._stand_in(
            SessionError(
                "the session isn't loaded (lazy=True): depend on SessionDep, or "
                "`await get_session(request).refresh()` first"
            )
        )

    def enter(self, outer: Actives | None, before: Any) -> None:
        """Into the scope. `outer`, `before`: what middlewares around this one have put there."""
        scope = self._scope
        if before is not None:
            self._send = as_outside(scope, before, self._send)
        scope["session"] = self.session
        if outer or self.setup.transport is None:
            scope[SCOPE_KEY] = with_innermost(outer or {}, self)
        else:
            scope[SCOPE_KEY] = {self.setup.key: self}

    def take(self, token: SessionToken, sealed: bytes | None) -> None:
        """Have the session that is stored as these bytes."""
        self.session = session = self.setup.manager.opened(token, sealed, self._bound())
        state_of(session).visit = self

    async def load(self) -> None:
        """Load the session, unless it is there. A store that is away is told on first use."""
        setup, session = self.setup, self._there()
        cookie = self.hint_cookie()
        from_replica = cookie is not None and not cookie.hinted(self._scope)
        try:
            if session is None:
                load = setup.manager.load_from_replica if from_replica else setup.manager.load
                self.session = session = await load(self.tokens, bound=self._bound())
                state_of(session).visit = self
            elif isinstance(session, Unloaded):
                await setup.manager.refresh(session, from_replica=from_replica)
            else:
                return
            if setup.hints:
                self.loaded = state_of(session).stored
        except StoreError as exc:
            self.do_without(exc)

    def leave(self) -> None:
        """The request is over. What held each other lets go: it leaves no work to the collector."""
        self.done = True
        self._scope = _OVER
        state_of(self.session).visit = None

    def _bound(self) -> Bound:
        """What a session of this connection is bound to."""
        binding = self.setup.binding
        if binding is None:
            return ANYWHERE
        bound = binding(HTTPConnection(self._scope))
        if bound is None or isinstance(bound, str):  # pyright: ignore[reportUnnecessaryIsInstance] - an application's
            return bound
        raise ConfigurationError(f"binding= made {bound!r} of a request: return text, or None")

    def _there(self) -> Session | None:
        return getattr(self, "session", None)

    def do_without(self, why: StoreError) -> None:
        """What `on_unavailable` says."""
        choice = "error" if self.done else self.setup.on_unavailable
        if callable(choice):
            choice = choice(HTTPConnection(self._scope))
            if choice not in ("error", "anonymous"):
                raise ConfigurationError(
                    f"on_unavailable returned {choice!r}: return 'error' or 'anonymous'"
                )
        if isinstance(why, StoreUnavailableError):
            self.manager.report("unavailable", why.reason)
        if choice == "error":
            self._stand_in(why)
            return
        empty = self.manager.anonymous(why)
        state_of(empty).visit = self
        if self._there() is None:
            self.session = empty
        else:
            load_into(self.session, empty, state_of(empty))

    def _stand_in(self, why: SessionError) -> None:
        session = self._there()
        if session is None:
            self.session = session = self.manager.unloaded(self.tokens, why)
            state_of(session).visit = self
            state_of(session).bound = self._bound()
        else:
            state = state_of(session)
            state.why, state.found = why, Found.UNAVAILABLE


Actives = dict[tuple[str, str], Active]
"""The sessions of one connection, by the keys of their transports; the innermost is the last."""


def with_innermost(outer: Actives, active: Active) -> Actives:
    """These, and another one inside of them."""
    inner = dict.fromkeys(active.setup.transports.keys, active)
    return {**{k: other for k, other in outer.items() if k not in inner}, **inner}


def as_outside(scope: Scope, before: Any, send: Send) -> Send:
    """Let another session middleware around ours find its own session in the scope it shares."""

    async def send_as_outside(message: Message) -> None:
        inside = scope.get("session")
        restore(scope, before)
        try:
            await send(message)
        finally:
            restore(scope, inside)

    return send_as_outside


def restore(scope: Scope, session: Any) -> None:
    """Put another middleware's session back, or none."""
    if session is None:
        scope.pop("session", None)
    else:
        scope["session"] = session
