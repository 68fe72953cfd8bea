"""An application made of some values of options, its browsers, and what a journey shows of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Final, Literal, get_args

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
from tests.combinations.sources import Legacy, signed
from tests.combinations.traces import Shown, Trace
from tests.support.asgi import Reply, ask

KEYS: Final = ("the newer secret key of the combinations", "the older secret key of the combinations")
PREFIX: Final = "session:"
HOST: Final = b"shop.example"
PATH: Final = "/app/page"
OTHER: Final = "https://elsewhere.example"
TOKEN_HEADER: Final = b"x-session-token"
PERSONAL: Final = frozenset({"signed_in", "signed_out"})
"""Events that tell who it was, with `personal_events=True`."""
FOREIGN: Final = frozenset({"legacy", "older", "signed"})
"""The cookies of other libraries' sessions."""

_get_session: Final = get_args(SessionDep)[1].dependency

Act = Callable[[Session, "World", HTTPConnection], Any]
"""What a handler does. What it returns is shown."""


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
    beside: list[Callable[[World], object]] = field(default_factory=list[Callable[["World"], object]])
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
        self.began = self.clock.now
        self.events: list[Event] = []
        self.trace: Trace = {}
        self.tokens: list[str] = []
        self.names, self.vary, self.attributes = set[str](), set[str](), set[str]()
        """What the cookies of the token are called, what responses vary by, and what cookies have."""
        self.ends, self.idle = set[int](), set[int]()
        """When sessions end, in minutes from the start of the journey."""
        self.cleared = set[str]()
        """What becomes of the token in responses that have the browser clear its data."""
        self.hinted = False
        """Whether browsers were told that a copy may be older than what they wrote."""
        self.personal = set[bool]()
        """Whether events of people tell who it was."""
        self.legacy = {name: Legacy(name) for name in ("legacy", "older")}
        self.expired: list[str] = []
        """Whom `on_expired=` was called with."""
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
            own = {**plan.manager, "on_event": self._on_event}
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
        for make in plan.beside:
            make(self)

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        if self._told is not None:
            self._told(event)

    def _manager(self) -> SessionManager:
        plan = self.plan
        own = {**plan.manager, **plan.only_manager, "on_event": self._on_event}
        return plan.kind(self.store, Keyring(*plan.keys), clock=self.clock, **own)

    @property
    def cookie_name(self) -> str | None:
        """The cookie that has the token. None: it is in a header."""
        if self.plan.header:
            return None
        given = self.plan.middleware
        plain = given.get("https_only", True) and "domain" not in given and "path" not in given
        return str(given.get("session_cookie", "__Host-session" if plain else "sid"))

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
        if scope["loads"]:
            session = await self.session_of(connection)
            saw |= self.seen(session)
            done = None if act is None else act(session, self, connection)
        else:
            done = act(self)
        if isawaitable(done):
            done = await done
        saw["returned"] = done
        status = scope["answers"]
        body = json.dumps(status).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def session_of(self, connection: HTTPConnection) -> Session:
        """The session, as a handler gets it: by the dependency, or by what `lazy=True` says."""
        if connection.scope.get("method") != "GET":
            return await _get_session(connection)
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
        self.trace.clear()
        for seen in (self.tokens, self.names, self.vary, self.attributes, self.ends, self.idle):
            seen.clear()
        self.cleared.clear()
        self.personal.clear()

    async def elsewhere(self, step: str, act: Callable[[SessionManager], Awaitable[Any]]) -> None:
        """Something that another process does."""
        self.show(step, returned=await act(self.other_manager()))
        self.clock.advance(1)
        await self.ground.settle()

    async def audit(self) -> None:
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


def _in_minutes(attribute: str) -> str:
    """A cookie's attribute; its `Max-Age` in minutes, since by a real clock seconds pass."""
    name, _, value = attribute.partition("=")
    return attribute if name != "Max-Age" else f"{name}={round(int(value) / 60)} min"


class Browser:
    """One browser: its cookies, and its address."""

    def __init__(self, world: World, *, address: str = "198.51.100.7", agent: str = "Firefox") -> None:
        self.world = world
        self.address, self.agent = address, agent
        self.cookies: dict[str, str] = {}
        self.token: str | None = None

    def copy(self) -> Browser:
        """A thief's: with the same cookies."""
        other = Browser(self.world, address=self.address, agent=self.agent)
        other.cookies, other.token = dict(self.cookies), self.token
        return other

    def carry(self, token: str) -> None:
        """Have this token, where it has that of its session, or would have it."""
        name = self.world.cookie_name
        if name is None or self.token is not None:
            self.token = token
        else:
            self.cookies[name] = token

    def has(self, session: Mapping[str, Any], *, cookie: str = "legacy") -> None:
        """Give it a session of another library's."""
        if cookie == "signed":
            self.cookies[cookie] = signed(session)
        else:
            self.cookies[cookie] = self.world.legacy[cookie].begin(session)

    def headers(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        found = [(b"host", HOST), (b"user-agent", self.agent.encode())]
        if cookies:
            found.append((b"cookie", cookies.encode()))
        if self.token:
            found.append((TOKEN_HEADER, self.token.encode()))
        if origin is not None:
            found.append((b"origin", origin.encode()))
        return found

    async def get(self, step: str, act: Act | None = None, **fields: Any) -> Reply:
        """A request that changes nothing elsewhere."""
        return await self.ask(step, act, method="GET", **fields)

    async def post(self, step: str, act: Act | None = None, **fields: Any) -> Reply:
        """A request with an unsafe method."""
        return await self.ask(step, act, method="POST", **fields)

    async def ask(
        self,
        step: str,
        act: Any = None,
        *,
        method: str,
        answers: int = 200,
        origin: str | None = None,
        loads: bool = True,
    ) -> Reply:
        """Send a request, keep what cookies it brings, and show what came of it."""
        saw: Shown = {}
        world = self.world
        reply = await ask(
            world.app,
            self.headers(origin),
            path=PATH,
            method=method,
            client=(self.address, 1),
            act=act,
            saw=saw,
            answers=answers,
            loads=loads,
        )
        world.show(step, **self.shown(reply), **saw)
        await world.ground.settle()
        return reply

    def shown(self, reply: Reply) -> Shown:
        """What a browser sees of a response."""
        error = None if reply.error is None else type(reply.error).__name__
        token, others, headers, clears = "kept", Counter[str](), Counter[str](), False
        for name, value in reply.headers:
            text = value.decode()
            if name == TOKEN_HEADER:
                token = self._take(None, text)
            elif name != b"set-cookie":
                if name == b"vary":
                    self.world.vary.add(text)
                    headers["vary"] += 1
                elif name == b"clear-site-data":
                    clears = True
                elif name in (b"cache-control", b"retry-after"):
                    headers[f"{name.decode()}: {text}"] += 1
            else:
                pair, *rest = text.split("; ")
                cookie, _, given = pair.partition("=")
                if "expires=" in text:
                    given = ""
                if cookie.endswith("-fresh"):
                    self.world.hinted = True  # it isn't kept: all have heard of what was written
                elif cookie in FOREIGN or cookie in ("outer", "plain"):
                    others[f"{cookie} {'kept' if given else 'expired'}"] += 1
                    self._keep(cookie, given)
                else:
                    token = self._take(cookie, given)
                    self._note(cookie, token, rest)
        if clears:
            self.world.cleared.add(token)
        return {
            "status": 500 if error and not reply.status else reply.status,
            "error": error,
            "token": token,
            "other cookies": others,
            "headers": headers,
        }

    def _note(self, cookie: str, token: str, attributes: list[str]) -> None:
        """What ends a cookie has the attributes of what began it, or browsers keep both."""
        if token == "new":
            self.world.names.add(cookie)
            self.world.attributes.update(map(_in_minutes, attributes))
        else:
            own = {each for each in attributes if not each.startswith("expires=")}
            assert own <= self.world.attributes, own

    def _take(self, cookie: str | None, token: str) -> str:
        if cookie is None:
            self.token = token or None
        else:
            self._keep(cookie, token)
        if not token:
            return "expired"
        self.world.tokens.append(token)
        return "new"

    def _keep(self, cookie: str, value: str) -> None:
        if value:
            self.cookies[cookie] = value
        else:
            self.cookies.pop(cookie, None)

    async def socket(
        self,
        step: str,
        act: Callable[[Session, World], Awaitable[Any]] | None = None,
        *,
        meanwhile: Callable[[], Awaitable[Any]] | None = None,
        stays: bool = False,
        origin: str | None = None,
    ) -> None:
        """Open a WebSocket, and show how it ends.

        `meanwhile` runs when it is open. Then it is closed by the client if it `stays` open, and
        by the server otherwise.
        """
        saw: Shown = {}
        opened, left, over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        sent: list[Message] = []
        first = True

        async def receive() -> Message:
            nonlocal first
            if first:
                first = False
                return {"type": "websocket.connect"}
            await left.wait()
            return {"type": "websocket.disconnect", "code": 1000}

        async def send(message: Message) -> None:
            sent.append(message)
            kind = message["type"]
            if kind == "websocket.accept":
                opened.set()
            else:
                opened.set()
                over.set()

        async def handle(
            connection: HTTPConnection, receive: Receive, send: Send, saw: Shown
        ) -> None:
            await receive()
            session = await _get_session(connection)
            saw |= self.world.seen(session)
            await send({"type": "websocket.accept"})
            if act is not None:
                saw["returned"] = await act(session, self.world)
            await receive()

        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "wss",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": self.headers(origin),
            "client": (self.address, 1),
            "server": ("shop.example", 443),
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
            "act": handle,
            "saw": saw,
        }
        error: str | None = None

        async def run() -> None:
            nonlocal error
            try:
                await self.world.app(scope, receive, send)
            except Exception as exc:  # noqa: BLE001 - it is shown
                error = type(exc).__name__
            finally:
                opened.set()
                over.set()

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            task = group.create_task(run())
            await opened.wait()
            if meanwhile is not None and not over.is_set():
                await meanwhile()
                if not stays:
                    await over.wait()
            left.set()
            await task
        shown = [
            (m["type"].removeprefix("websocket."), m.get("code", m.get("status"))) for m in sent
        ]
        self.world.show(step, messages=shown, error=error, **saw)
        await self.world.ground.settle()
