"""Requests that don't count as use: they renew no time, and what they change is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import (
    Answer,
    ConfigurationError,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from redis_sessions.fastapi import SessionDep, session_security, untouched
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.session import state_of
from redis_sessions.testing import Clock, store_session
from tests.support.asgi import COOKIE, Reply, ask, cookie
from tests.unit.near_copies.near import Processes
from tests.unit.setting import ALICE, DUE, KEY, START, Setting

IDLE = 1200
EVERY = 121
"""Seconds after which a touch is due with this idle timeout."""


@pytest.fixture
def at() -> Setting:
    return Setting(idle_timeout=IDLE)


def seen_at(session: Session) -> int:
    stored = state_of(session).stored
    assert stored is not None
    return stored.record.seen_at


async def poll(at: Setting, token: str, act: Callable[[Session], object] = len) -> Session:
    """A request that doesn't count."""
    session = await at.load(token)
    session.untouched()
    act(session)
    await at.commit(session)
    return session


async def test_polling_keeps_no_session_alive(at: Setting) -> None:
    """However often a page polls, the session ends as if it didn't, and nothing is written."""
    token = await at.begin(ALICE)
    at.store.asked.clear()
    for _ in range(9):
        at.clock.advance(EVERY)
        assert dict(await poll(at, token)) == ALICE
    assert at.store.asked == []
    assert at.reported("touched") == []
    at.clock.advance(IDLE - 9 * EVERY)
    assert await at.data(token) == {}


CHANGES: dict[str, Callable[[Session], object]] = {
    "a change": lambda session: session.update(n=1),
    "mark_modified": lambda session: session.mark_modified(),
    "rotate": lambda session: session.rotate(),
}


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
async def test_what_it_changes_is_stored(act: Callable[[Session], object], at: Setting) -> None:
    """The change is stored, but neither the record nor its TTL gets a later end by it."""
    token = await at.begin(ALICE)
    began = int(at.clock.now)
    at.store.asked.clear()
    at.clock.advance(EVERY)

    session = await poll(at, token, act)

    assert "commit" in at.store.asked
    assert "touch" not in at.store.asked
    assert (seen_at(session), session.id) == (began, token[:20])
    at.clock.advance(IDLE - EVERY - 1)
    assert await at.store.load(token[:20]) is not None
    at.clock.advance(1)
    assert await at.store.load(token[:20]) is None


async def test_late_and_atomic_changes_do_not_count_either(at: Setting) -> None:
    """`save()`, `update()` and `exclusive()` of such a request store, and renew nothing."""
    token = await at.begin(ALICE)
    began = int(at.clock.now)

    async def work(session: Session) -> None:
        session.untouched()
        for n in range(3):
            at.clock.advance(EVERY)
            session["n"] = n
            await session.save()
            await session.refresh()
            await at.manager.update(session, lambda data: data.update(m=data["n"]))
            async with session.exclusive():
                session["k"] = n

    assert (await at.request(work, token, late=True)).error is None

    assert await at.data(token) == {**ALICE, "n": 2, "m": 2, "k": 2}
    assert seen_at(await at.load(token)) == began
    assert "touch" not in at.store.asked


async def test_what_begins_a_time_anew_counts(at: Setting) -> None:
    """A sign-in, `authenticated()` and `expire_in()` do so in such a request, too."""
    acts: list[Callable[[Session], object]] = [
        lambda session: session.sign_in("alice"),
        lambda session: session.sign_in("bob"),
        lambda session: session.authenticated(),
        lambda session: session.expire_in(10_000),
    ]
    for act in acts:
        token = await at.begin(ALICE)
        at.clock.advance(EVERY)
        assert seen_at(await poll(at, token, act)) == at.clock.now


async def test_a_touch_survives_such_a_change(at: Setting) -> None:
    """A request that counts renews the time, though one that doesn't was faster to change data."""
    token = await at.begin(ALICE)
    at.clock.advance(EVERY)
    counting = await at.load(token)

    async def change() -> None:
        await poll(at, token, lambda session: session.update(n=1))

    at.store.meanwhile = change
    assert await at.commit(counting) == Answer(Outcome.TOUCH)

    newest = await at.load(token)
    assert (dict(newest), seen_at(newest)) == ({**ALICE, "n": 1}, at.clock.now)
    counting["m"] = 1
    assert await at.commit(counting) == Answer(Outcome.CHANGE)
    assert await at.data(token) == {**ALICE, "n": 1, "m": 1}


# -- the option


def counts_unless_polled(connection: HTTPConnection) -> bool:
    return connection.url.path != "/poll"


async def visit(manager: SessionManager, token: str | None, path: str, **options: Any) -> Reply:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if not options.get("lazy"):
            assert isinstance(scope["session"], Session)
        else:
            await get_session(HTTPConnection(scope)).refresh()
        await send(START)
        await send({"type": "http.response.body", "body": b""})

    headers = [] if token is None else [(b"cookie", cookie(token))]
    return await ask(SessionMiddleware(app, manager=manager, **options), headers, path=path)


@pytest.mark.parametrize("lazy", [False, True])
async def test_a_callable_says_which_requests_count(lazy: bool, at: Setting) -> None:
    """`touch=` is asked about each request with a token, and about no other."""
    token, asked = await at.begin(ALICE), list[str]()

    def touch(connection: HTTPConnection) -> bool:
        asked.append(connection.url.path)
        return counts_unless_polled(connection)

    at.clock.advance(EVERY)
    for path, brought, touched in (("/poll", token, 0), ("/", None, 0), ("/page", token, 1)):
        (await visit(at.manager, brought, path, touch=touch, lazy=lazy)).checked()
        assert len(at.reported("touched")) == touched
    assert asked == ["/poll", "/page"]


@pytest.mark.parametrize(("touch", "touched"), [(True, 1), (False, 0)])
async def test_all_or_none(touch: bool, touched: int, at: Setting) -> None:
    """`touch=False` says that no request of this middleware counts."""
    token = await at.begin(ALICE)
    at.clock.advance(EVERY)
    (await visit(at.manager, token, "/", touch=touch)).checked()
    assert len(at.reported("touched")) == touched


async def test_the_inner_one_of_two_says_it_for_its_own(at: Setting) -> None:
    """A mounted application with the same manager may say that its requests don't count."""
    token = await at.begin(ALICE)
    at.clock.advance(EVERY)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b""})

    inner = SessionMiddleware(app, manager=at.manager, touch=False)
    for outer, touched in ((inner, 0), (app, 1)):
        middleware = SessionMiddleware(outer, manager=at.manager)
        (await ask(middleware, [(b"cookie", cookie(token))])).checked()
        assert len(at.reported("touched")) == touched


async def test_a_callable_s_mistakes(at: Setting) -> None:
    """What it raises is the application's error; anything but a bool is refused."""
    token = await at.begin(ALICE)

    def raises(connection: HTTPConnection) -> bool:
        raise LookupError("mine")

    assert isinstance((await visit(at.manager, token, "/", touch=raises)).error, LookupError)

    def nothing(connection: HTTPConnection) -> None: ...

    async def later(connection: HTTPConnection) -> bool:
        return True

    error = (await visit(at.manager, token, "/", touch=later)).error
    assert "write a bool, or a callable that isn't async" in str(error)
    error = (await visit(at.manager, token, "/", touch=nothing)).error
    assert isinstance(error, ConfigurationError)
    assert str(error) == "touch returned None: return True or False"


async def test_near_copies_serve_such_requests() -> None:
    """With near copies a poll asks the store for nothing, long after a touch is due."""
    at = Processes(idle_timeout=IDLE)
    token = await at.begin(user_id="alice")
    for _ in range(5):
        at.clock.advance(EVERY)
        visited = at.here.visit(token, touch=False)
        assert await at.here.asked(visited) == ({"user_id": "alice"}, 0)
    assert at.here.manager.counts["touched"] == 0


# -- FastAPI, WebSockets and streams


NAMED = session_security(cookie=COOKIE)


class Site:
    """An application whose poll doesn't count, and its clock."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        store = MemoryStore(clock=self.clock)
        self.manager = SessionManager(store, KEY, clock=self.clock, idle_timeout=IDLE)
        self.app = FastAPI()
        self.app.add_middleware(SessionMiddleware, manager=self.manager, **options)
        self.token = asyncio.run(store_session(self.manager, ALICE))

    def client(self) -> TestClient:
        return TestClient(
            self.app, base_url="https://testserver", headers={"cookie": f"{COOKIE}={self.token}"}
        )

    @property
    def touched(self) -> int:
        return self.manager.counts["touched"]


@pytest.mark.parametrize("lazy", [False, True])
def test_a_dependency(lazy: bool) -> None:
    """`Depends(untouched)` loads nothing, and works beside `SessionDep` and before it."""
    site = Site(lazy=lazy)

    @site.app.get("/poll", dependencies=[Depends(untouched)])
    async def poll(session: SessionDep) -> int:
        return len(session)

    @site.app.get("/named", dependencies=[Depends(NAMED.untouched)])
    async def named_poll(session: Annotated[Session, Depends(NAMED.session)]) -> int:
        return len(session)

    @site.app.get("/status", dependencies=[Depends(untouched)])
    def status() -> int:
        return 0

    @site.app.get("/page")
    async def page(session: SessionDep) -> int:
        return len(session)

    with site.client() as browser:
        site.clock.advance(EVERY)
        for path, touched in (("/poll", 0), ("/named", 0), ("/status", 0), ("/page", 1)):
            assert browser.get(path).json() == (path != "/status")
            assert site.touched == touched
    assert "parameters" not in site.app.openapi()["paths"]["/status"]["get"]


def is_request(connection: HTTPConnection) -> bool:
    return bool(connection.scope["type"] == "http")


@pytest.mark.parametrize("says", ["nothing", "the route", "the middleware"])
def test_when_a_socket_counts(says: str) -> None:
    """Its opening, each `save()` and its end count where a touch is due, unless it says not."""
    site = Site(touch=is_request if says == "the middleware" else True)
    counts = list[int]()

    @site.app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        session = get_session(socket)
        if says == "the route":
            session.untouched()
        await socket.accept()
        counts.append(site.touched)
        site.clock.advance(EVERY)
        await socket.receive_text()  # an open socket doesn't count, whatever it receives
        counts.append(site.touched)
        await session.save()
        counts.append(site.touched)
        site.clock.advance(EVERY)

    with site.client() as browser:
        site.clock.advance(EVERY)
        with browser.websocket_connect("wss://testserver/socket") as connected:
            connected.send_text("hello")
    counts.append(site.touched)
    assert counts == ([1, 1, 2, 3] if says == "nothing" else [0, 0, 0, 0])


# -- when it ends


def seconds_left(at: Setting, session: Session) -> float:
    assert session.idle_expires_at is not None
    assert session.idle_expires_at.tzinfo is UTC
    return session.idle_expires_at.timestamp() - at.clock.now


async def test_idle_expires_at(at: Setting) -> None:
    """The end if nobody uses the session from now on. A touch that is due counts already."""
    new = await at.load(None)
    assert new.idle_expires_at is None
    token = await at.begin(ALICE)

    for passed, left in ((0, IDLE), (EVERY - 1, IDLE - EVERY + 1), (1, IDLE)):
        at.clock.advance(passed)
        session = await at.load(token)
        assert seconds_left(at, session) == left
        before = session.idle_expires_at
        await at.commit(session)
        assert session.idle_expires_at == before == (await at.load(token)).idle_expires_at

    at.clock.advance(EVERY)
    session = await at.load(token)
    session.untouched()
    assert seconds_left(at, session) == IDLE - EVERY
    session.clear()
    assert session.idle_expires_at is None


async def test_idle_expires_at_is_never_after_expires_at() -> None:
    """The absolute lifetime ends it, too, however much it is used."""
    at = Setting(max_age=1500, idle_timeout=IDLE)
    token = await at.begin(ALICE)
    for _ in range(4):
        at.clock.advance(EVERY)
        await at.commit(await at.load(token))
    session = await at.load(token)
    assert session.idle_expires_at == session.expires_at
    assert session.idle_expires_at == datetime.fromtimestamp(at.clock.now - 4 * EVERY + 1500, UTC)


@pytest.mark.parametrize("idle", [60, IDLE, 3600, 7 * 24 * 3600])
async def test_it_holds(idle: int) -> None:
    """The session lives until the moment that a page was told, and ends then, to the second."""
    at = Setting(idle_timeout=idle)
    token = await at.begin(ALICE)
    for passed in (0, 3, idle // 20, idle // 9, DUE % idle):
        at.clock.advance(passed)
        session = await at.load(token)
        left = seconds_left(at, session)
        await at.commit(session)
        at.clock.advance(left - 1)
        assert await at.data(token) == ALICE
        at.clock.advance(1)
        assert await at.data(token) == {}
        token = await at.begin(ALICE)
