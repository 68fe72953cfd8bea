"""Dependencies for FastAPI: the session, its manager and its principal. OpenAPI shows the token.

@app.get("/me")
async def me(session: SessionDep, user: PrincipalDep) -> dict[str, str]: ...
"""

# There is no `from __future__ import annotations`, since FastAPI couldn't resolve the annotations
# of functions inside of functions.

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Final

from fastapi import Depends, HTTPException, Security
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from redis_sessions.errors import ConfigurationError, SessionGoneError
from redis_sessions.http.step_up import step_up
from redis_sessions.lifecycle.manager import SessionManager, backend_of
from redis_sessions.middleware import active_session
from redis_sessions.session.session import Session
from redis_sessions.session.state import Duration
from redis_sessions.tracebacks import stripped

__all__ = [
    "PrincipalDep",
    "SessionDep",
    "SessionManagerDep",
    "SessionSecurity",
    "fresh",
    "session_security",
]

DEFAULT_COOKIE: Final = "__Host-session"


class _Scheme(SecurityBase):
    """The entry in the OpenAPI schema. It reads nothing: the middleware has read the token."""

    def __init__(self, where: str, name: str) -> None:
        self.model = APIKey.model_validate(
            {"in": APIKeyIn(where), "name": name, "description": "The session's opaque token"}
        )
        self.scheme_name = "session-" + re.sub(r"[^A-Za-z0-9._-]", "_", name)

    async def __call__(self) -> None:
        return None


class SessionSecurity:
    """The dependencies for one cookie or header, made by `session_security()`.

    Write `Depends(…)` with `session`, `manager`, `principal` or `fresh(within=…)` in it.
    """

    session: Callable[..., Awaitable[Session]]
    """The session. It is loaded, also with `lazy=True`."""
    manager: Callable[..., Awaitable[SessionManager]]
    principal: Callable[..., Awaitable[str]]
    """Who is signed in, as a str. The answer is 401 if nobody is."""

    def __init__(self, where: str, name: str, *, innermost: bool = False) -> None:
        scheme = _Scheme(where, name)
        key = None if innermost else (where, name.lower() if where == "header" else name)

        @stripped
        async def session(
            connection: HTTPConnection, _: Annotated[None, Security(scheme)] = None
        ) -> Session:
            active = active_session(connection, key)
            await active.load()
            # If the session is unavailable, this raises what becomes the 503.
            active.session.mark_accessed()
            return active.session

        async def manager(connection: HTTPConnection) -> SessionManager:
            return active_session(connection, key).manager

        @stripped
        async def principal(session: Annotated[Session, Depends(session)]) -> str:
            return _principal_of(session)

        @stripped
        async def asked(
            connection: HTTPConnection, session: Annotated[Session, Depends(session)]
        ) -> Session:
            try:
                await active_session(connection, key).ask_store()
            except SessionGoneError as exc:
                raise _not_signed_in() from exc
            return session

        self.session, self.manager, self.principal = session, manager, principal
        self._asked = asked

    @stripped
    def fresh(
        self, within: Duration | None = None, *, methods: Iterable[str] = ()
    ) -> Callable[..., Awaitable[str]]:
        """A dependency for step-up authentication: the principal, who signed in recently.

        If they signed in longer ago than `within`, the answer is 401, with the `WWW-Authenticate`
        of RFC 9470. `session.sign_in()` or `session.authenticated()` begins the time anew. What is
        stored decides: a session that comes from a near copy is refreshed first.

        `methods`: they must have signed in, or proved it last, by all of these (RFC 8176), such as
        `{"otp"}`. `ConfigurationError` if neither is given.
        """
        needed = step_up(within, methods)

        async def fresh(
            manager: Annotated[SessionManager, Depends(self.manager)],
            session: Annotated[Session, Depends(self._asked)],
        ) -> str:
            principal = _principal_of(session)
            if not needed.is_met(session, backend_of(manager).clock()):
                raise HTTPException(401, "Sign in again", {"WWW-Authenticate": needed.challenge})
            return principal

        return fresh


def _principal_of(session: Session) -> str:
    if (found := session.principal) is None:
        raise _not_signed_in()
    return found


def _not_signed_in() -> HTTPException:
    return HTTPException(401, "Not signed in", {"WWW-Authenticate": "Session"})


def session_security(*, cookie: str | None = None, header: str | None = None) -> SessionSecurity:
    """The dependencies for a session whose cookie or header has another name.

    admin = session_security(cookie="admin")
    AdminSession = Annotated[Session, Depends(admin.session)]
    """
    if cookie is not None and header is None:
        return SessionSecurity("cookie", cookie)
    if header is not None and cookie is None:
        return SessionSecurity("header", header)
    raise ConfigurationError("write session_security(cookie='name') or (header='Name')")


_default: Final = SessionSecurity("cookie", DEFAULT_COOKIE, innermost=True)

SessionDep = Annotated[Session, Depends(_default.session)]
"""The session of the innermost middleware, whatever its cookie is called. It is loaded."""

SessionManagerDep = Annotated[SessionManager, Depends(_default.manager)]
"""The manager of that session."""

PrincipalDep = Annotated[str, Depends(_default.principal)]
"""Who is signed in, as a str. The answer is 401 if nobody is."""


@stripped
def fresh(
    within: Duration | None = None, *, methods: Iterable[str] = ()
) -> Callable[..., Awaitable[str]]:
    """`Depends(fresh(within=300))`: who signed in recently. See `SessionSecurity.fresh`."""
    return _default.fresh(within, methods=methods)
