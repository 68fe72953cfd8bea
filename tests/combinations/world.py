"""An application made of some values of options, its browsers, and what a journey shows of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from inspect import isawaitable
from typing import Any, Final, Literal, get_args

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from redis_sessions import (
    Event,
    Keyring,
    Session,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from redis_sessions.fastapi import SessionDep
from redis_sessions.testing import Clock
from tests.combinations.grounds import Ground
from tests.combinations.sources import Legacy
from tests.combinations.traces import Shown, Trace

KEYS: Final = (
    "the newer secret key of the combinations",
    "the older secret key of the combinations",
)
PREFIX: Final = "session:"
PERSONAL: Final = frozenset({"signed_in", "signed_out"})
"""Events that tell who it was, with `personal_events=True`."""

_get_session: Final = get_args(SessionDep)[1].dependency

Act = Callable[[Session, "World", HTTPConnection], Any]
"""What a handler does with its session. What it returns is shown."""
Bare = Callable[["World"], Any]
"""What a handler does that asks for no session."""


def whose(data: Mapping[str, Any]) -> str | None:
    """A `principal=` that is a callable."""
    return data.get("who")


@dataclass
class Plan:
    """What an application is made of. Values change it."""

    middleware: dict[str, Any] = field(default_factory=dict[str, Any])
    """Options that only `SessionMiddleware` has."""
    manager: dict[str, Any] = field(default_factory=dict[str, Any])
    """Options that `SessionManager` has, too."""
    only_manager: dict[str, Any] = field(default_factory=dict[str, Any])
    """Options that only `SessionManager` has."""
    store: dict[str, Any] = field(default_factory=dict[str, Any])
    """Arguments of the store; those of its URL have the key `url`."""
    prefix: str = PREFIX
    keys: tuple[str, ...] = KEYS[1:]
    older: tuple[str, ...] = KEYS[1:]
    """The keys with which the sessions of yesterday were sealed."""
    kind: type[SessionManager] = SessionManager
    given_to: Literal["manager", "middleware"] = "manager"
    """Whether the middleware gets a manager, or makes one of its options."""
    around: list[Callable[[World, ASGIApp], ASGIApp]] = field(
        default_factory=list[Callable[["World", ASGIApp], ASGIApp]]
    )
    """What is around the middleware, from the inside."""
    inside: list[Callable[[World, ASGIApp], ASGIApp]] = field(
        default_factory=list[Callable[["World", ASGIApp], ASGIApp]]
    )
    """What is between the middleware and the handler, from the inside."""
    beside: list[Callable[[World], object]] = field(
        default_factory=list[Callable[["World"], object]]
    )
    """What else the process has. It is called when the middleware was made."""
    sources: list[Callable[[World], Any]] = field(default_factory=list[Callable[["World"], Any]])
    """Sources of `accept=`."""
    header: bool = False
    """Whether clients get the token in a header."""


class World:
    """One application with its store, and what one journey shows."""

    def __init__(self, plan: Plan, ground: Ground) -> None:
        self.plan = plan
        self.ground = ground
        self.clock = Clock()
        self.events: list[Event] = []
        self.legacy = {name: Legacy(name) for name in ("legacy", "older")}
        self._begin()
        self.store = ground.store(plan.prefix, self.clock, plan.store)
        self._told = plan.manager.get("on_event")
        self.manager = self._manager()
        options = dict(plan.middleware)
        if plan.sources:
            options["accept"] = [make(self) for make in plan.sources]
        app: ASGIApp = self.serve
        for wrap in plan.inside:
            app = wrap(self, app)
        if plan.given_to == "manager":
            self.door = SessionMiddleware(app, manager=self.manager, **options)
        else:
            own: dict[str, Any] = {**plan.manager, "on_event": self._on_event}
            self.door = SessionMiddleware(
                app, store=self.store, secret_key=list(plan.keys), **own, **options
            )
        self.refused: str | None = getattr(self.door, "_wrong", None)
        """Why the application doesn't start."""
        if self.refused is not None:
            return
        self.manager = self.door.manager
        self.app: ASGIApp = self.door
        for wrap in plan.around:
            self.app = wrap(self, self.app)
        self._beside = [make(self) for make in plan.beside]

    def _begin(self) -> None:
        self.began = self.clock.now
        self.trace: Trace = {}
        self.tokens: list[str] = []
        self.names, self.vary, self.attributes = set[str](), set[str](), set[str]()
        """What the token's cookies are called, what responses vary by, and what cookies have."""
        self.ends, self.idle = set[int](), set[int]()
        """When sessions end, in minutes from the start of the journey."""
        self.cleared = set[str]()
        """What becomes of the token in responses that have the browser clear its data."""
        self.hinted = False
        """Whether browsers were told that a copy may be older than what they wrote."""
        self.personal = set[bool]()
        """Whether events of people tell who it was."""
        self.events.clear()
        for each in self.legacy.values():
            each.sessions.clear()

    async def travel(self, journey: Callable[[World], Awaitable[None]]) -> Trace:
        """What a journey shows. Nothing is left of the one before but the time that it took."""
        self.ground.begin(self.store)
        self._begin()
        await journey(self)
        await self._audit()
        return self.trace

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        if self._told is not None:
            self._told(event)

    def _manager(self) -> SessionManager:
        plan = self.plan
        own: dict[str, Any] = {**plan.manager, **plan.only_manager, "on_event": self._on_event}
        return plan.kind(self.store, Keyring(*plan.keys), clock=self.clock, **own)

    @property
    def cookie_name(self) -> str | None:
        """The cookie that has the token. None: it is in a header."""
        if self.plan.header:
            return None
        given = self.plan.middleware
        plain = given.get("https_only", True) and "domain" not in given and "path" not in given
        return str(given.get("session_cookie", "__Host-session" if plain else "sid"))

    @cache  # noqa: B019 - a world doesn't live long
    def other_manager(self, keys: tuple[str, ...] | None = None) -> SessionManager:
        """A manager of another process: a worker's, or that of another server."""
        plan = self.plan
        store = self.ground.other(plan.prefix, self.clock, plan.store, self.store)
        own = {**plan.manager, **plan.only_manager}
        own.pop("on_expired", None)
        return SessionManager(store, Keyring(*(keys or plan.keys)), clock=self.clock, **own)

    # -- what handlers do

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application: it does what the request's `act` says."""
        if scope["type"] == "lifespan":
            return
        connection, act, saw = HTTPConnection(scope), scope["act"], scope["saw"]
        if scope["type"] == "websocket":
            await act(connection, receive, send, saw)
            return
        if scope["bare"] is not None:
            done = scope["bare"](self)
        else:
            session = await self.session_of(connection)
            saw |= self.seen(session)
            done = None if act is None else act(session, self, connection)
        if isawaitable(done):
            done = await done
        saw["returned"] = done
        status = scope["answers"]
        body = json.dumps(status).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    @staticmethod
    async def loaded(connection: HTTPConnection) -> Session:
        """What the dependency gives."""
        session: Session = await _get_session(connection)
        return session

    async def session_of(self, connection: HTTPConnection) -> Session:
        """The session, as a handler gets it: by the dependency, or by what `lazy=True` says."""
        if connection.scope.get("method") != "GET":
            return await self.loaded(connection)
        session = get_session(connection)
        if self.plan.middleware.get("lazy"):
            await session.refresh()
        return session

    def seen(self, session: Session) -> Shown:
        """What a handler sees of a session."""
        self._note_times(session)
        return {
            "principal": session.principal,
            "data": self.bare(session),
            "new": session.is_new,
            "methods": session.authentication_methods,
        }

    def _note_times(self, session: Session) -> None:
        for times, at in ((self.ends, session.expires_at), (self.idle, session.idle_expires_at)):
            if at is not None:
                times.add(round((at.timestamp() - self.began) / 60))

    @staticmethod
    def bare(data: Mapping[str, Any]) -> dict[str, Any]:
        """The data without what says who is signed in."""
        return {k: v for k, v in data.items() if k not in ("user_id", "user", "who")}

    def sign_in(self, session: Session, user: str, **proof: Any) -> None:
        """Sign a user in, as applications with this `principal=` do."""
        if self.plan.manager.get("principal") is whose:
            session["who"] = user
            proof.pop("aliases", None)
            session.authenticated(**proof)
        else:
            session.sign_in(user, **proof)

    def assign(self, session: Session, user: str) -> None:
        """Sign a user in as applications do that were written for Starlette's own sessions."""
        principal = self.plan.manager.get("principal", "user_id")
        if principal == "user.id":
            session["user"] = {"id": user}
        else:
            session["who" if principal is whose else "user_id"] = user

    def sign_out(self, session: Session) -> None:
        """Sign out whoever it is."""
        if self.plan.manager.get("principal") is whose:
            session.pop("who", None)
        else:
            session.sign_out()

    # -- what the journey does outside of requests

    def show(self, step: str, **shown: Any) -> None:
        """Note what a step shows."""
        assert step not in self.trace, step
        events, self.events[:] = self.events[:], []
        counted = Counter((e.name, e.name != "unavailable" and e.reason) for e in events)
        self.personal.update(e.principal is not None for e in events if e.name in PERSONAL)
        self.trace[step] = {**shown, "events": counted}

    def forget(self) -> None:
        """Show nothing of what was until now."""
        self._begin()

    async def elsewhere(self, step: str, act: Callable[[SessionManager], Awaitable[Any]]) -> None:
        """Something that another process does."""
        self.show(step, returned=await act(self.other_manager()))
        self.clock.advance(1)
        await self.ground.settle()

    async def _audit(self) -> None:
        """Show what is left of all that the journey has begun."""
        auditor = self.other_manager(KEYS)
        left: list[Any] = []
        users = dict[str, int]()
        for token in self.tokens:
            session = await auditor.load(token, check_binding=False)
            left.append(None if session.is_new else (session.principal, self.bare(session)))
            if session.principal is not None:
                listed = await auditor.sessions_of(session.principal)
                users[session.principal] = len(listed)
        self.show(
            "afterwards",
            sessions=left,
            names=sorted(self.names),
            vary=sorted(self.vary),
            attributes=frozenset(self.attributes),
            ends=frozenset(self.ends),
            idle=frozenset(self.idle),
            clears=frozenset(self.cleared),
            personal=sorted(self.personal),
            hinted=self.hinted,
            listed=users,
            legacy={name: sorted(each.sessions) for name, each in self.legacy.items()},
        )
