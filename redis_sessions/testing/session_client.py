"""A test client that sets and reads its session, and the sessions of an application in memory."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from email.message import Message
from inspect import signature
from typing import Any, Final, TypeVar
from urllib.request import Request
from uuid import UUID

from anyio.from_thread import start_blocking_portal  # Starlette brings it
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from redis_sessions.errors import ConfigurationError
from redis_sessions.events import Event, EventHandler
from redis_sessions.http.options import transports_of
from redis_sessions.http.transports import CookieTransport
from redis_sessions.lifecycle.manager import SessionManager
from redis_sessions.middleware import SessionMiddleware
from redis_sessions.session.session import Session
from redis_sessions.stores import MemoryStore

__all__ = ["SessionClient", "in_memory"]

T = TypeVar("T")

_PARAMETERS: Final = signature(SessionMiddleware).parameters
_POLICY: Final = _PARAMETERS.keys() & signature(SessionManager).parameters.keys() - {"store"}
_COOKIE: Final = ("session_cookie", "path", "same_site", "https_only", "domain", "partitioned")


class SessionClient(TestClient):
    """A `TestClient` over https that sets and reads its session, without a request.

        client = SessionClient(app)
        client.sign_in(1)
        with client.session() as session:
            session["cart"] = ["tea"]

    `app`: a Starlette or FastAPI application with a `SessionMiddleware` that has `manager=`.
    `in_memory(app)` gives it one.
    """

    def __init__(self, app: ASGIApp, base_url: str = "https://testserver", **options: Any) -> None:
        super().__init__(app, base_url, **options)
        self._session_options = _options_of(_entry(app)[1])

    @property
    def manager(self) -> SessionManager:
        """The manager of the application's sessions."""
        manager = self._session_options["manager"]
        if not isinstance(manager, SessionManager):
            raise ConfigurationError(
                "the application's SessionMiddleware has no manager=: write "
                "`with in_memory(app), SessionClient(app) as client`"
            )
        return manager

    def sign_in(self, principal: str | int | UUID, **data: Any) -> None:
        """Sign this user in, as `session.sign_in(principal)` and these data would."""
        with self.session() as session:
            session.sign_in(principal)
            session.update(data)

    @contextmanager
    def session(self) -> Generator[Session]:
        """The session whose cookie this client holds, or a new one, to read and to change.

        At the end it is stored, and the client gets the cookie that a browser would get. It
        doesn't count as use of the session. `ConfigurationError` if the client can't hold the
        cookie, or the token travels in no cookie.
        """
        manager, transport = self.manager, _cookie_of(self._session_options)
        held = [c.value for c in self.cookies.jar if c.name == transport.name and c.value]
        session = self._wait(lambda: manager.load(held, check_binding=False))
        session.untouched()
        yield session
        answer = self._wait(lambda: manager.commit(session))
        if answer.token is not None:
            token = answer.token.value
            self._take(transport.send(token, answer.max_age)[1])
            if not any(cookie.value == token for cookie in self.cookies.jar):
                raise ConfigurationError(
                    f"a client of {self.base_url} doesn't take the cookie {transport.name!r} "
                    "with this domain=: write SessionClient(app, base_url=…) with a host of it"
                )
        elif answer.expire:
            self._take(transport.expire()[1])

    def _take(self, cookie: bytes) -> None:
        """Take a Set-Cookie header as from a response."""
        message = Message()
        message["Set-Cookie"] = cookie.decode()
        response: Any = _Response(message)
        self.cookies.jar.extract_cookies(response, Request(str(self.base_url)))  # noqa: S310 - opens nothing

    def _wait(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        # In the event loop of the application, if there is one.
        if self.portal is None:  # then as for requests: also in an async test
            with start_blocking_portal() as portal:
                answer: T = portal.call(function)
        else:
            answer = self.portal.call(function)
        return answer


class _Response:
    def __init__(self, headers: Message) -> None:
        self._headers = headers

    def info(self) -> Message:
        return self._headers


@contextmanager
def in_memory(
    app: ASGIApp,
    *,
    clock: Callable[[], float] | None = None,
    on_event: EventHandler | None = None,
) -> Generator[SessionManager]:
    """Keep the sessions of this application in memory meanwhile, by this clock. Its manager.

        with in_memory(app), SessionClient(app) as client:
            client.sign_in(1)

    The application's `SessionMiddleware` keeps its other options. `on_event` is called beside its
    own. If it has a `manager=`, this stays as it is, and is what you get. The application starts
    anew, with new middleware. `ConfigurationError` if it hasn't one `SessionMiddleware`.
    """
    starlette, entry = _entry(app)
    options = _options_of(entry)
    if options["manager"] is not None:
        yield options["manager"]
        return
    policy = {name: options[name] for name in _POLICY}
    policy["on_event"] = _both(options["on_event"], on_event)
    given: dict[str, Any] = {"prefix": options["prefix"], "clock": clock}
    store = MemoryStore(**{name: value for name, value in given.items() if value is not None})
    manager = SessionManager(store, options["secret_key"], clock=clock, **policy)
    others = _PARAMETERS.keys() - _POLICY - {"app", "store", "secret_key", "prefix"}
    changed = Middleware(entry.cls, **{n: options[n] for n in others} | {"manager": manager})
    before = starlette.user_middleware, starlette.middleware_stack
    starlette.user_middleware = [changed if e is entry else e for e in before[0]]
    starlette.middleware_stack = None  # built at the next request
    try:
        yield manager
    finally:
        starlette.user_middleware, starlette.middleware_stack = before


def _entry(app: Any) -> tuple[Any, Any]:
    """The application, and its entry of the SessionMiddleware."""
    found = [
        entry
        for entry in getattr(app, "user_middleware", ())
        if isinstance(entry.cls, type) and issubclass(entry.cls, SessionMiddleware)
    ]
    if len(found) != 1:
        raise ConfigurationError(
            f"{app!r} has {len(found)} times SessionMiddleware among its middleware: give an "
            "application of Starlette or FastAPI that has it once"
        )
    return app, found[0]


def _options_of(entry: Any) -> dict[str, Any]:
    """All options of the SessionMiddleware, by name. `ConfigurationError` for wrong ones."""
    try:
        bound = signature(SessionMiddleware).bind(None, *entry.args, **entry.kwargs)
    except TypeError as exc:
        raise ConfigurationError(f"SessionMiddleware: {exc}") from exc
    bound.apply_defaults()
    return bound.arguments


def _cookie_of(options: dict[str, Any]) -> CookieTransport:
    """The cookie of a SessionMiddleware with these options."""
    cookie = {name: (options[name], _PARAMETERS[name].default) for name in _COOKIE}
    for transport in transports_of(options["transport"], cookie).all:
        if isinstance(transport, CookieTransport):
            return transport
    raise ConfigurationError(
        "the tokens of this application travel in a header: store a session by "
        "store_session(manager, data), and send the token that it returns"
    )


def _both(first: EventHandler | None, second: EventHandler | None) -> EventHandler | None:
    if first is None or second is None:
        return first or second

    def both(event: Event) -> None:
        first(event)
        second(event)

    return both
