"""The session of one connection, and its errors as HTTP knows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from redis_sessions.errors import (
    ConfigurationError,
    SessionConflictError,
    SessionError,
    SessionGoneError,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.manager import SessionManager
from redis_sessions.session import Session, Unloaded, load_into, state_of
from redis_sessions.state import Found, Peer
from redis_sessions.transports import Transport

__all__ = ["Active", "Binding", "HttpError", "OnUnavailable", "as_http"]

OnUnavailable = (
    Literal["error", "anonymous"] | Callable[[HTTPConnection], Literal["error", "anonymous"]]
)
Binding = Callable[[HTTPConnection], "str | None"]

RETRY_AFTER: Final = "1"

# Errors that a mounted application, too, answers with the right status: its own
# ServerErrorMiddleware would make a 500 of anything that isn't an HTTPException.


class _UnavailableError(StoreUnavailableError, HTTPException):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        headers = {"Retry-After": RETRY_AFTER}
        HTTPException.__init__(self, 503, "The session store is unavailable", headers)


class _ConflictError(SessionConflictError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 409, "The session was changed elsewhere")


class _GoneError(SessionGoneError, HTTPException):
    def __init__(self) -> None:
        HTTPException.__init__(self, 409, "The session has ended")


HttpError = _UnavailableError | _ConflictError | _GoneError


def as_http(error: SessionError) -> SessionError:
    """The error as one that carries its status, if it has one."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, StoreUnavailableError):
        return _UnavailableError(error.reason)
    if isinstance(error, SessionConflictError):
        return _ConflictError()
    return _GoneError() if isinstance(error, SessionGoneError) else error


class Active:
    """The session of one connection, for those who ask the scope for it."""

    __slots__ = (
        "_binding",
        "_on_unavailable",
        "_scope",
        "done",
        "manager",
        "raised",
        "session",
        "tokens",
        "transport",
    )

    session: Session

    def __init__(
        self,
        manager: SessionManager,
        transport: Transport,
        tokens: Sequence[str],
        on_unavailable: OnUnavailable,
        binding: Binding | None,
        scope: Scope,
    ) -> None:
        self.manager, self.transport, self.tokens = manager, transport, tokens
        self._on_unavailable, self._binding, self._scope = on_unavailable, binding, scope
        self.raised: SessionError | None = None  # to the application, last
        self.done = False

    def _raise(self, error: SessionError) -> SessionError:
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

    async def load(self) -> None:
        """Load the session, unless it is there. A store that is away is told on first use."""
        placeholder = getattr(self, "session", None)
        if placeholder is not None and not isinstance(placeholder, Unloaded):
            return
        try:
            if placeholder is None:
                bound = self._binding and self._binding(HTTPConnection(self._scope))
                self.session = await self.manager.load(self.tokens, bound=bound)
                self._introduce(self.session)
            else:
                await self.manager.refresh(placeholder)
        except StoreError as exc:
            self._without(exc)

    def _introduce(self, session: Session) -> None:
        state = state_of(session)
        state.raised, state.peer = self._raise, self.peer

    def _without(self, why: StoreError) -> None:
        choice = self._on_unavailable
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
        self._introduce(empty)
        placeholder = getattr(self, "session", None)
        if placeholder is None:
            self.session = empty
        else:
            load_into(placeholder, empty, state_of(empty))

    def _stand_in(self, why: SessionError) -> None:
        placeholder = getattr(self, "session", None)
        if placeholder is None:
            self.session = self.manager.unloaded(self.tokens, why)
            self._introduce(self.session)
            if self._binding is not None:
                bound = self._binding(HTTPConnection(self._scope))
                state_of(self.session).bound = bound
        else:
            state = state_of(placeholder)
            state.why, state.found = why, Found.UNAVAILABLE
