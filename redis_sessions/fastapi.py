"""Dependencies for FastAPI: the session, its manager and its principal. OpenAPI shows the token.

@app.get("/me")
async def me(session: SessionDep, user: PrincipalDep) -> dict[str, str]: ...
"""

# There is no `from __future__ import annotations`, since FastAPI couldn't resolve the annotations
# of functions inside of functions.

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Final, Never

from fastapi import Depends, HTTPException, Security, WebSocketException
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from redis_sessions.cache import Cache
from redis_sessions.errors import ConfigurationError, SessionGoneError
from redis_sessions.http.login import checked_page, not_signed_in
from redis_sessions.http.step_up import step_up
from redis_sessions.lifecycle.manager import SessionManager, backend_of
from redis_sessions.messages import Messages
from redis_sessions.middleware import active_session
from redis_sessions.session.session import Session
from redis_sessions.session.state import Duration
from redis_sessions.tracebacks import stripped

__all__ = [
    "CacheDep",
    "MessagesDep",
    "OptionalPrincipalDep",
    "PrincipalDep",
    "SessionDep",
    "SessionManagerDep",
    "SessionSecurity",
    "fresh",
    "login_required",
    "session_security",
    "untouched",
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


class _Forgotten:
    """What an argument of `login_required()` and `fresh()` depends on, to FastAPI.

    FastAPI looks at it only if somebody writes `Depends(login_required)`. It would take `page` from
    the query, and let everybody pass who gives one. So it gets an error when the route is made.
    """

    @property
    def __signature__(self) -> Never:
        raise ConfigurationError(
            "a dependency lacks its call: write Depends(login_required('/login')) or "
            "Depends(fresh(within=300))"
        )

    def __call__(self) -> None:
        """It never runs, but a dependency has to be callable."""


_CALLED: Final = Depends(_Forgotten())


class SessionSecurity:
    """The dependencies for one cookie or header, made by `session_security()`.

    Write `Depends(…)` with `session`, `manager`, `messages`, `cache`, `principal`,
    `optional_principal`, `login_required("/login")`, `fresh(within=…)` or `untouched` in it.
    """

    session: Callable[..., Awaitable[Session]]
    """The session. It is loaded, also with `lazy=True`."""
    manager: Callable[..., Awaitable[SessionManager]]
    cache: Callable[..., Awaitable[Cache]]
    """The cache of that session's manager. It loads no session."""
    messages: Callable[..., Awaitable[Messages]]
    """The manager's `messages`."""
    principal: Callable[..., Awaitable[str]]
    """Who is signed in, as a str. The answer is 401 if nobody is."""
    untouched: Callable[..., Awaitable[None]]
    """This request doesn't count as use of the session. It loads nothing."""
    optional_principal: Callable[..., Awaitable[str | None]]
    """Who is signed in, as a str, or None."""

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
            return active_session(connection, key).setup.manager

        async def cache(connection: HTTPConnection) -> Cache:
            return active_session(connection, key).setup.manager.cache

        @stripped
        async def messages(connection: HTTPConnection) -> Messages:
            return active_session(connection, key).setup.manager.messages

        @stripped
        async def untouched(connection: HTTPConnection) -> None:
            active_session(connection, key).session.untouched()

        @stripped
        async def principal(
            connection: HTTPConnection, session: Annotated[Session, Depends(session)]
        ) -> str:
            return _principal_of(session, connection)

        @stripped
        async def optional_principal(session: Annotated[Session, Depends(session)]) -> str | None:
            return session.principal

        self.session, self.manager, self.principal = session, manager, principal
        self.untouched, self.messages, self.cache = untouched, messages, cache
        self.optional_principal = optional_principal
        self._key = key

    def login_required(self, page: Annotated[str, _CALLED]) -> Callable[..., Awaitable[str]]:
        """A dependency for pages: the principal. Whoever isn't signed in goes to a sign-in page.

            UserDep = Annotated[str, Depends(login_required("/login"))]

        `page`: a path as the browser asks for it, which may have a query; or the name of a route.

        The answer is 303, with a `next` that `safe_next()` reads on that page. It is 401 if the
        request doesn't take HTML; htmx then goes to the page by `HX-Redirect`. A WebSocket is
        denied with 401. `ConfigurationError` if the page is on another site.
        """
        page = checked_page(page, "login_required")

        @stripped
        async def login_required(
            connection: HTTPConnection, session: Annotated[Session, Depends(self.session)]
        ) -> str:
            return _principal_of(session, connection, page)

        return login_required

    @stripped
    def fresh(
        self,
        within: Annotated[Duration | None, _CALLED] = None,
        *,
        methods: Iterable[str] = (),
        page: str | None = None,
    ) -> Callable[..., Awaitable[str]]:
        """A dependency for step-up authentication: the principal, who signed in recently.

        If they signed in longer ago than `within`, the answer is 401, with the `WWW-Authenticate`
        of RFC 9470. `session.sign_in()` or `session.authenticated()` begins the time anew. What is
        stored decides: a session that comes from a near copy is refreshed first.

        `methods`: they must have signed in, or proved it last, by all of these (RFC 8176), such as
        `{"otp"}`. `ConfigurationError` if neither is given.

        `page`: where a browser is sent instead, as by `login_required()`. The page may ask for the
        password only, if somebody is signed in.
        """
        needed = step_up(within, methods)
        page = None if page is None else checked_page(page, "page")

        @stripped
        async def fresh(
            connection: HTTPConnection,
            manager: Annotated[SessionManager, Depends(self.manager)],
            session: Annotated[Session, Depends(self.session)],
        ) -> str:
            try:
                await active_session(connection, self._key).ask_store()
            except SessionGoneError as exc:
                raise _refusal(connection, page) from exc
            principal = _principal_of(session, connection, page)
            if not needed.is_met(session, backend_of(manager).clock()):
                raise _refusal(connection, page, "Sign in again", needed.challenge)
            return principal

        return fresh


def _principal_of(session: Session, connection: HTTPConnection, page: str | None = None) -> str:
    if (found := session.principal) is None:
        raise _refusal(connection, page)
    return found


def _refusal(
    connection: HTTPConnection,
    page: str | None,
    detail: str = "Not signed in",
    challenge: str = "Session",
) -> Exception:
    scope, status, headers = connection.scope, 401, {"WWW-Authenticate": challenge}
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            return WebSocketException(1008, detail)  # the server can only close it, with 403
    elif page is not None:
        status, headers = not_signed_in(connection, page, challenge)
    return HTTPException(status, detail, headers)


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

CacheDep = Annotated[Cache, Depends(_default.cache)]
"""The cache of that manager."""

MessagesDep = Annotated[Messages, Depends(_default.messages)]
"""The messages of that manager."""

PrincipalDep = Annotated[str, Depends(_default.principal)]
"""Who is signed in, as a str. The answer is 401 if nobody is."""

OptionalPrincipalDep = Annotated[str | None, Depends(_default.optional_principal)]
"""Who is signed in, as a str. None if nobody is."""


def login_required(page: Annotated[str, _CALLED]) -> Callable[..., Awaitable[str]]:
    """`Depends(login_required("/login"))`: who is signed in. Others go to that page.

    See `SessionSecurity.login_required`.
    """
    return _default.login_required(page)


@stripped
def fresh(
    within: Annotated[Duration | None, _CALLED] = None,
    *,
    methods: Iterable[str] = (),
    page: str | None = None,
) -> Callable[..., Awaitable[str]]:
    """`Depends(fresh(within=300))`: who signed in recently. See `SessionSecurity.fresh`."""
    return _default.fresh(within, methods=methods, page=page)


untouched: Final = _default.untouched
"""`dependencies=[Depends(untouched)]`: such a request doesn't count as use of the session."""
