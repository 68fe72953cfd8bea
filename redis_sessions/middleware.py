"""The ASGI middleware: it puts a session into the scope, and a new token into the response."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from redis_sessions.errors import ConfigurationError, StoreError, check_event_loop
from redis_sessions.events import EventHandler, logger
from redis_sessions.http import response, websocket
from redis_sessions.http.accepting import accepting_of
from redis_sessions.http.binding import BindingOption, bind_to
from redis_sessions.http.connection import (
    NONE_YET,
    SCOPE_KEY,
    Connection,
    Connections,
    stored_session,
)
from redis_sessions.http.copies import near_session
from redis_sessions.http.cross_site import SAFE, CrossSite, checked_guard
from redis_sessions.http.foreign import shut_out
from redis_sessions.http.lifespan import fail_start, run_lifespan
from redis_sessions.http.options import (
    SecretKeys,
    SiteData,
    Touch,
    check_own_load,
    checked_choice,
    clearing,
    manager_of,
    touch_by,
    transports_of,
)
from redis_sessions.http.realms import warn_of_side_by_side
from redis_sessions.http.replaced import restore, send_outside
from redis_sessions.http.setup import COPIES, STORE, First, OnUnavailable, Setup
from redis_sessions.http.sources import Source
from redis_sessions.http.transports import CookieTransport, SameSite, Transport, is_ambient
from redis_sessions.lifecycle.copies import reads_replicas
from redis_sessions.lifecycle.expiry import OnExpired
from redis_sessions.lifecycle.loading import is_one
from redis_sessions.lifecycle.manager import SessionManager, backend_of
from redis_sessions.session.keywords import COOKIES, suggesting
from redis_sessions.session.placeholder import Unloaded
from redis_sessions.session.policy import DEFAULT_MAX_AGE, DEFAULT_MAX_SIZE
from redis_sessions.session.principal import PrincipalOption
from redis_sessions.session.record import Stored
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import Duration
from redis_sessions.session.token import ID
from redis_sessions.tracebacks import strip, stripped

__all__ = ["SessionMiddleware", "active_session", "get_session"]


class SessionMiddleware:
    """Sessions for a Starlette or FastAPI application, over HTTP and WebSocket.

        secret_key = os.environ["SESSION_SECRET_KEY"]
        app.add_middleware(SessionMiddleware, store="redis://localhost", secret_key=secret_key)

    The arguments of Starlette's own middleware have the same names here. Further ones:

    - `store`: a URL (`redis://`, `redis+sentinel://`, `redis+cluster://`, `memory://` …), a
      redis-py asyncio client, or a `SessionStore`
    - `secret_key`: one key, `[new, old]`, or a `Keyring`
    - `idle_timeout`, `principal`, `rotate_on`, `max_sessions`, `on_expired` and others: as
      `SessionManager` has them
    - `transport`: how the token travels, instead of the cookie's arguments. Of a list, the one
      that brought the token answers
    - `binding`: what a session is bound to: `"ip"`, `"user_agent"`, `client_ip(v4=24, v6=56)` for
      networks, or a callable that returns a text for the connection
    - `on_unavailable`: what a request gets while the store can't be used. `"error"`: 503 if it
      touches the session. `"anonymous"`: an empty session that can't be written. A callable
      chooses one of the two by the connection
    - `touch`: whether a request counts as use and so renews the idle timeout: True, False, or a
      callable that says so of the connection. It is asked about requests with a token
    - `lazy=True`: a session is loaded only if `SessionDep` or `await session.refresh()` asks for it
    - `end_sockets=False`: open WebSockets and event streams stay open when their session ends
    - `cross_site`: what a request gets that another origin caused, if it isn't GET, HEAD, OPTIONS
      or QUERY, or is a WebSocket. `"anonymous"`: an empty session, which raises `CrossSiteError`
      (403) when it is written. `"refuse"`: 403. `"allow"`: its session
    - `trusted_origins`: origins whose requests are as the application's own
    - `clear_site_data`: what browsers clear with the response that ends a session, such as
      `["cache", "storage"]` (`Clear-Site-Data`)
    - `accept`: sources of other libraries' sessions (`redis_sessions.accept`). A browser that has
      one of these, and none of ours, is known at its first request
    - `manager`: a `SessionManager`, instead of the store, the key and all of its options

    If the configuration can't work, the application doesn't start, and the server logs why. If
    the server runs no ASGI lifespan, each request raises the `ConfigurationError` instead.
    """

    _wrong: str | None = None

    def _refuse(self, error: ConfigurationError) -> None:
        # It isn't raised here. The server constructs the middleware when it begins the lifespan,
        # and it would take an exception for an application without a lifespan.
        self._wrong = str(error)
        logger.error("sessions: %s", error)

    @stripped
    @suggesting(COOKIES, _refuse)
    def __init__(
        self,
        app: ASGIApp,
        secret_key: SecretKeys | None = None,
        session_cookie: str | None = None,
        max_age: Duration | None = DEFAULT_MAX_AGE,
        path: str = "/",
        same_site: SameSite = "lax",
        https_only: bool = True,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        store: Any = None,
        idle_timeout: Duration | None = None,
        principal: PrincipalOption = "user_id",
        rotate_on: Collection[str] = (),
        transport: Transport | Sequence[Transport] | None = None,
        binding: BindingOption | None = None,
        on_binding_mismatch: Literal["reject", "report"] = "reject",
        max_sessions: int | None = None,
        on_conflict: Literal["merge", "error"] = "merge",
        max_size: int = DEFAULT_MAX_SIZE,
        on_unavailable: OnUnavailable = "error",
        on_event: EventHandler | None = None,
        personal_events: bool = False,
        on_expired: OnExpired | None = None,
        prefix: str | None = None,
        touch: Touch = True,
        lazy: bool = False,
        end_sockets: bool = True,
        cross_site: CrossSite = "anonymous",
        trusted_origins: Collection[str] = (),
        clear_site_data: Collection[SiteData] = (),
        accept: Sequence[Source] = (),
        manager: SessionManager | None = None,
    ) -> None:
        self.app: ASGIApp = app
        policy = {
            "max_age": (max_age, DEFAULT_MAX_AGE),
            "idle_timeout": (idle_timeout, None),
            "principal": (principal, "user_id"),
            "rotate_on": (rotate_on, ()),
            "on_binding_mismatch": (on_binding_mismatch, "reject"),
            "max_sessions": (max_sessions, None),
            "on_conflict": (on_conflict, "merge"),
            "max_size": (max_size, DEFAULT_MAX_SIZE),
            "on_event": (on_event, None),
            "personal_events": (personal_events, False),
            "on_expired": (on_expired, None),
        }
        cookie = {
            "session_cookie": (session_cookie, None),
            "path": (path, "/"),
            "same_site": (same_site, "lax"),
            "https_only": (https_only, True),
            "domain": (domain, None),
            "partitioned": (partitioned, False),
        }
        try:
            ready = manager_of(manager, store, secret_key, prefix, policy)
            self.manager: SessionManager = ready
            transports = transports_of(transport, cookie)
            only = transports.all[0] if len(transports.all) == 1 else None
            backend = backend_of(self.manager)
            # A manager with a load() of its own is called for each session: no copy goes past it.
            loads = getattr(self.manager.load, "__func__", None) is SessionManager.load
            copies = backend.copies if loads else None
            accepting = accepting_of(accept, transports, backend)
            if accepting is not None:
                check_own_load(loads)
                copies = None if accepting.follows else copies  # each request asks the source
            replicas = reads_replicas(backend)
            guard = checked_guard(cross_site, trusted_origins)
            guards = guard.choice != "allow" and any(map(is_ambient, transports.all))
            first: First = None
            if not lazy and copies is not None:
                first = COPIES
            elif loads and not (lazy or accepting or replicas or backend.reporter.personal):
                first = STORE
            self._setup = Setup(
                manager=self.manager,
                backend=backend,
                transports=transports,
                transport=only,
                read=transports.read if only is None else only.read,
                vary=(b"vary", transports.vary.encode()),
                on_unavailable=checked_choice(on_unavailable),
                binding=bind_to(binding),
                touch=touch_by(touch),
                lazy=lazy,
                replicas=replicas and loads,
                personal=backend.reporter.personal,
                copies=copies,
                end_sockets=end_sockets and backend.watchable is not None,
                read_with_hint=only.read_with_hint
                if copies is not None and type(only) is CookieTransport
                else None,
                clear_site_data=clearing(clear_site_data, transports),
                hints=(replicas or copies is not None)
                and any(isinstance(each, CookieTransport) for each in transports.all),
                cross_site=guard,
                guard=guard if guards else None,
                accepting=accepting,
                unguarded=None,
                first=first,
            )
            others = transports.unguarded() if guards else None
            if others is not None:
                follows = accepting.without_cookies if accepting is not None else None
                unguarded = replace(
                    self._setup, transports=others, read=others.read, accepting=follows
                )
                self._setup = replace(self._setup, unguarded=unguarded)
        except ConfigurationError as exc:
            self._refuse(exc)
            return
        warn_of_side_by_side(self.manager, transports.keys)
        self._runs = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            kind = scope["type"]
            if self._wrong is not None:
                # A new error each time, since each raise adds to its traceback.
                error = ConfigurationError(self._wrong)
                if kind != "lifespan":
                    raise error
                await fail_start(error, receive, send)
            if kind != "http" and kind != "websocket":  # noqa: PLR1714 - on every request
                if kind == "lifespan":
                    await run_lifespan(self.app, self._setup, scope, receive, send)
                else:
                    await self.app(scope, receive, send)
                return
            if not self._runs:  # the first request: perhaps there was no lifespan to check it
                check_event_loop()
                self._runs = True
                observer = self._setup.backend.observer
                if observer is not None:
                    self.app = observer.around(self.app)
            outer: Connections | None = scope.get(SCOPE_KEY)
            if outer:
                same = self._same_in(outer)
                if same is not None:
                    await self._pass_through(same, scope, receive, send)
                    return
            setup, app = self._setup, self.app
            hint: str | None = None
            if setup.read_with_hint is None:
                tokens = setup.read(scope)
            else:
                tokens, hint = setup.read_with_hint(scope)
            method = scope.get("method")
            is_socket = kind == "websocket"
            if is_socket:
                method = None  # some servers give the handshake's, a GET, which isn't safe here
            guard = setup.guard
            objection = None if guard is None or method in SAFE else guard.objection(scope)
            # What many requests hold while they wait gets cold. So all else is made afterwards.
            session = NONE_YET
            trouble: StoreError | None = None
            before: Stored | None = None
            first = setup.first if objection is None else None
            if first is STORE:
                if is_one(tokens):
                    try:
                        sealed = await setup.backend.store.load(tokens[0][ID])
                    except StoreError as exc:
                        strip(exc)
                        trouble = exc
                    else:
                        session = stored_session(setup, scope, tokens[0], sealed)
                        del sealed  # it isn't needed while the application runs
            elif first is COPIES:
                session = near_session(setup, scope, tokens, hint)
                if session is not None:
                    before = state_of(session).stored
            near = before is not None
            connection = Connection(setup, scope, send, tokens, session, hint, before, near)  # pyright: ignore[reportArgumentType] - None is NONE_YET
            on_send: Send = connection.on_send
            if is_socket:
                connection.is_socket = True
                connection.response_start = "websocket.http.response.start"
                on_send = partial(websocket.on_send, connection)
                receive = partial(websocket.on_receive, connection, receive)
            if session is None:
                if objection is not None:
                    app = shut_out(connection, objection, app)
                if trouble is not None:
                    connection.go_on_without(trouble)
                    trouble = None
                elif setup.lazy and (
                    connection.tokens
                    or (setup.accepting is not None and setup.accepting.brings(scope))
                ):
                    connection.load_later()
                else:
                    await connection.load()
            session, others = connection.session, scope.get("session")
            served = connection.enter(outer, others)
            try:
                await app(scope, receive, on_send)
                late = connection.failure is not None or not connection.started
                if late or not connection.is_settled():
                    await response.finish(connection)
            except asyncio.CancelledError:
                if connection.live is None or not connection.live.absorbs():
                    raise
            except Exception as exc:  # noqa: BLE001 - what it doesn't answer it raises again
                strip(exc)  # what it answers may be logged later
                if connection.live is not None:
                    connection.live.returned()
                try:
                    fail = websocket.fail if connection.is_socket else response.fail
                    await fail(connection, exc)
                finally:
                    scope["session"] = session  # error handlers around us may show a page with it
            finally:
                try:
                    if connection.live is not None:
                        await connection.live.finish()
                finally:  # else the collector wouldn't find the circle that `leave` opens
                    connection.leave(served)
                    # Otherwise the session stays there. A mounted application may have put one of
                    # its own there, which its event handlers read long after the response.
                    if others is not None:
                        scope["session"] = others
                    if outer:
                        scope[SCOPE_KEY] = outer
        except BaseException as exc:
            strip(exc)
            raise

    def _same_in(self, outer: Connections) -> Connection | None:
        """The connection of the same middleware around this one. None: there is no such one."""
        same = None
        for connection in outer:
            if not connection.over and self._setup.is_same_as(connection.setup):
                same = connection
        return same

    async def _pass_through(
        self, connection: Connection, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Run the application. The same middleware is around this one, and does everything else."""
        # What is lazy there may be eager here. What that one tried in vain isn't tried once more.
        if not self._setup.lazy and not isinstance(state_of(connection.session).why, StoreError):
            await connection.load()
        self._setup.judge(connection.session, connection.tokens, scope)
        before, outer = scope.get("session"), scope[SCOPE_KEY]
        if before is not connection.session:
            send = send_outside(scope, before, send)
        scope["session"] = connection.session
        scope[SCOPE_KEY] = (*outer, connection)
        failed = True
        try:
            await self.app(scope, receive, send)
            failed = False
        finally:
            scope[SCOPE_KEY] = outer
            if failed or before is not connection.session:
                restore(scope, before)


def get_session(connection: HTTPConnection, *, watch: bool = True) -> Session:
    """The session of a request or WebSocket. For type checkers `request.session` is a dict.

    `watch=False`: this WebSocket or event stream stays open when its session ends.
    """
    active = active_session(connection)
    session = active.session
    if not watch:
        active.watches = False
        if active.live is not None:
            active.live.unwatch()
    if not isinstance(session, Unloaded):  # the handler may want to call refresh()
        session.mark_accessed()
    return session


def active_session(connection: HTTPConnection, key: tuple[str, str] | None = None) -> Connection:
    """What a middleware has put into the scope: the innermost one, or that with this `key`."""
    found: Connections = connection.scope.get(SCOPE_KEY) or ()
    for active in reversed(found):
        if key is None or key in active.setup.transports.keys:
            return active
    what = "" if key is None else f" for the {key[0]} {key[1]!r}"
    raise ConfigurationError(
        f"no session{what}: write app.add_middleware(redis_sessions.SessionMiddleware, …)"
    )
