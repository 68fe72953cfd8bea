"""Who is signed in, for Starlette's `AuthenticationMiddleware` and `@requires`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.requests import HTTPConnection

from redis_sessions.errors import ConfigurationError
from redis_sessions.events import is_sync
from redis_sessions.http.connection import SCOPE_KEY
from redis_sessions.middleware import active_session
from redis_sessions.session.session import Session
from redis_sessions.tracebacks import stripped

__all__ = ["SessionAuthBackend"]


class _User(SimpleUser):
    @property
    def identity(self) -> str:
        return self.username


class SessionAuthBackend(AuthenticationBackend):
    """The backend for Starlette's `AuthenticationMiddleware`, inside of `SessionMiddleware`.

        Middleware(SessionMiddleware, store="redis://localhost", secret_key=secret_key),
        Middleware(AuthenticationMiddleware, backend=SessionAuthBackend()),

    `request.user.identity` and `request.user.display_name` are the principal, as a str, and the
    scopes are `"authenticated"`. `scopes=lambda session: session.get("roles", ())` adds further
    ones; it can't be async. Without a principal the user is Starlette's `UnauthenticatedUser`, and
    has no scopes.

    Each request loads its session, also with `lazy=True`. While the store is away, the answer is
    503, or what `on_unavailable` says.
    """

    def __init__(self, *, scopes: Callable[[Session], str | Iterable[str]] | None = None) -> None:
        if scopes is not None and not is_sync(scopes):
            raise ConfigurationError(f"scopes={scopes!r}: write a callable that isn't async")
        self._scopes = scopes

    @stripped
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        """Who is signed in. Raises `StoreUnavailableError`, which is answered with 503."""
        if not conn.scope.get(SCOPE_KEY):
            raise ConfigurationError(
                "SessionAuthBackend found no session: SessionMiddleware has to be around "
                "AuthenticationMiddleware. It comes before it in a list of middlewares, and after "
                "it with add_middleware()"
            )
        active = active_session(conn)
        await active.load()
        session = active.session
        session.mark_accessed()  # if the session is unavailable, this raises what becomes the 503
        principal = session.principal
        if principal is None:
            return None
        more = () if self._scopes is None else self._scopes(session)
        return (
            AuthCredentials(["authenticated", *([more] if isinstance(more, str) else more)]),
            _User(principal),
        )
