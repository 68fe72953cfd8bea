"""The lifecycle over a real Redis: many at once, many sessions, late changes, what is left."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Annotated, Any, Final

import anyio.from_thread
import pytest
from fastapi import Depends, FastAPI
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from redis_sessions import (
    Event,
    Keyring,
    MemoryStore,
    RedisStore,
    Session,
    SessionConflictError,
    SessionGoneError,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
    get_session,
)
from redis_sessions.fastapi import SessionDep, SessionManagerDep
from redis_sessions.testing import store_session
from redis_sessions.token import SessionToken
from tests.integration.apps import (
    BASE,
    KEY,
    Events,
    Wire,
    app_of,
    client_of,
    doing,
    manager_on,
    signed_in,
    token_in,
)
from tests.support import ROOT, Server, StartServer

HOUR: Final = 3_600_000
SOCKET: Final = "wss://testserver/ws"


@pytest.fixture
async def manager(redis_url: str, prefix: str) -> AsyncIterator[SessionManager]:
    manager = manager_on(redis_url, prefix)
    yield manager
    await manager.close()


@pytest.fixture
async def workers(redis_url: str, prefix: str) -> AsyncIterator[list[SessionManager]]:
    """Four processes' managers, each with a store of its own."""
    managers = [manager_on(redis_url, prefix) for _ in range(4)]
    yield managers
    for manager in managers:
        await manager.close()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Wire]:
    with Wire.of(redis_url) as wire:
        yield wire


def index_key(manager: SessionManager, prefix: str, who: str = "alice") -> str:
    return f"{prefix}of:{manager.keyring.primary.index(who)}"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again: for what a server does by its own clock, and doesn't announce."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def count(data: dict[str, Any]) -> int:
    data["n"] += 1
    return int(data["n"])


# -- many at once


async def test_64_keys(workers: list[SessionManager]) -> None:
    """64 parallel requests that each set their own key on one session: all 64 are there."""
    token = await store_session(workers[0], {"user_id": "alice"})
    apps = [doing(manager=worker) for worker in workers]

    async def change(number: int) -> None:
        async with client_of(apps[number % 4], token) as browser:
            response = await browser.get(f"/do?set=k{number}:{number}")
            assert (response.status_code, token_in(response)) == (200, None)

    await asyncio.gather(*(change(number) for number in range(64)))
    data = dict(await workers[0].load(token))
    assert data == {"user_id": "alice", **{f"k{number}": str(number) for number in range(64)}}


async def test_64_increments(workers: list[SessionManager]) -> None:
    """64 parallel increments by update(), through several processes: the counter is 64."""
    token = await store_session(workers[0], {"n": 0})

    async def increment(number: int) -> int:
        worker = workers[number % 4]
        return await worker.update(await worker.load(token), count)

    results = await asyncio.gather(*(increment(number) for number in range(64)))
    assert sorted(results) == list(range(1, 65))
    assert dict(await workers[0].load(token)) == {"n": 64}


async def test_64_under_the_lock(workers: list[SessionManager], redis: Wire, prefix: str) -> None:
    """64 parallel blocks under exclusive(), through several processes: the counter is 64."""
    token = await store_session(workers[0], {"n": 0})
    inside = 0

    async def increment(number: int) -> None:
        nonlocal inside
        session = await workers[number % 4].load(token)
        async with session.exclusive(timeout=30):
            inside += 1
            assert inside == 1
            session["n"] += 1
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(increment(number) for number in range(64)))
    assert dict(await workers[0].load(token)) == {"n": 64}
    assert redis.keys(f"{prefix}lock:") == []


async def test_a_value_is_taken_once(workers: list[SessionManager]) -> None:
    """Of 16 requests that take a one-time value one gets it."""
    token = await store_session(workers[0], {"otp": "1"})

    async def take(worker: SessionManager) -> object:
        return await worker.update(await worker.load(token), lambda data: data.pop("otp", None))

    taken = await asyncio.gather(*(take(worker) for worker in workers * 4))
    assert [value for value in taken if value is not None] == ["1"]


# -- the lock


async def test_the_lock_is_a_key_with_an_end(
    manager: SessionManager, redis: Wire, prefix: str
) -> None:
    """The lock's key has a TTL, should its process die; released, it is gone."""
    token = await store_session(manager, {"n": 0})
    session = await manager.load(token)
    async with session.exclusive():
        assert redis.keys(f"{prefix}lock:") == [f"{prefix}lock:{token[:20]}"]
        assert 0 < redis.ask("PTTL", f"{prefix}lock:{token[:20]}") <= 30_000
    assert redis.keys(f"{prefix}lock:") == []


async def test_another_process_holds_the_lock(workers: list[SessionManager]) -> None:
    """The lock counts across processes: who can't have it in time is told so."""
    token = await store_session(workers[0], {"n": 0})
    one, other = [await worker.load(token) for worker in workers[:2]]
    async with one.exclusive():
        with pytest.raises(SessionConflictError, match="locked"):
            async with other.exclusive(timeout=0.05):
                raise AssertionError("it isn't free")
    async with other.exclusive(timeout=0.05):
        pass


async def test_a_lock_that_lapsed_is_anothers(
    workers: list[SessionManager], redis: Wire, prefix: str
) -> None:
    """Whose lock lapsed doesn't release the lock of who has it now; its change is merged."""
    token = await store_session(workers[0], {"n": 0})
    one, other = [await worker.load(token) for worker in workers[:2]]
    async with one.exclusive():
        one["a"] = 1
        redis.ask("DEL", f"{prefix}lock:{token[:20]}")  # as if 30 seconds had passed
        async with other.exclusive(timeout=0.05):
            other["b"] = 2
            held = redis.ask("GET", f"{prefix}lock:{token[:20]}")
            await one.save()
            assert redis.ask("GET", f"{prefix}lock:{token[:20]}") == held
    assert dict(await workers[2].load(token)) == {"n": 0, "a": 1, "b": 2}


async def test_a_cancelled_waiter_holds_nobody_up(
    workers: list[SessionManager], redis: Wire, prefix: str
) -> None:
    """Requests cancelled while they wait for the lock, or take it: the next one gets it."""
    token = await store_session(workers[0], {"n": 0})
    holder = await workers[0].load(token)

    async def take(worker: SessionManager) -> None:
        async with (await worker.load(token)).exclusive():
            pass

    async with holder.exclusive():
        tasks = [asyncio.create_task(take(worker)) for worker in workers]
        await asyncio.sleep(0.03)  # some polls of the lock: whenever they are cancelled
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert redis.keys(f"{prefix}lock:") == []
    await take(workers[1])


@pytest.mark.parametrize("steps", range(1, 13))
async def test_a_request_cancelled_at_any_step_leaves_no_lock(
    redis_url: str, prefix: str, redis: Wire, steps: int
) -> None:
    """exclusive() cancelled after any number of the loop's turns: the lock is free again."""
    manager = manager_on(redis_url, prefix)
    token = await store_session(manager, {"n": 0})
    session = await manager.load(token)

    async def hold() -> None:
        async with session.exclusive():
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    async with (await manager.load(token)).exclusive(timeout=0.5):
        pass
    assert redis.keys(f"{prefix}lock:") == []
    await manager.close()


# -- many sessions


async def test_50_000_entries(manager: SessionManager, redis: Wire, prefix: str) -> None:
    """A principal with 50,000 entries is listed, kept one of, and revoked; the counts are right."""
    kept, *others = [await store_session(manager, {"user_id": "alice"}) for _ in range(50)]
    key = manager.keyring.primary.index("alice")
    enter = partial(manager.store.enter, key, age=0, own=-1, ttl=HOUR, descriptor=b"x" * 100)
    for _ in range(50):
        ids = [SessionToken.generate().id for _ in range(1000)]
        await asyncio.gather(*(enter(id) for id in ids))
    assert redis.ask("HLEN", f"{prefix}of:{key}") == 50_050 + 1  # ... and when the last came
    shown = {info.id for info in await manager.sessions_of("alice")}
    assert shown == {token[:20] for token in (kept, *others)}
    assert await manager.revoke_all("alice", keep=kept[:20]) == 49
    assert [info.id for info in await manager.sessions_of("alice")] == [kept[:20]]
    assert dict(await manager.load(kept)) == {"user_id": "alice"}
    assert not any([await manager.load(token) for token in others])
    assert redis.ask("PTTL", f"{prefix}of:{key}") > HOUR


async def test_nothing_is_left_of_10_000_sessions(start_server: StartServer) -> None:
    """10,000 sessions that expired, of 100 principals and of nobody: not one key is left."""
    server = start_server()
    manager = manager_on(server.url, max_age=1)
    with Wire(server.port) as redis:
        for start in range(0, 10_000, 1000):
            await asyncio.gather(
                *(
                    store_session(manager, {"user_id": n % 100} if n % 10 else {"cart": n})
                    for n in range(start, start + 1000)
                )
            )
        assert redis.ask("DBSIZE") > 0

        async def empty() -> bool:
            return bool(redis.ask("DBSIZE") == 0)

        await until(empty)
    await manager.close()


async def test_an_index_that_stays_in_use_does_not_grow(
    manager: SessionManager, redis: Wire, prefix: str
) -> None:
    """10,000 expired entries of a principal who goes on: later writes let them go."""
    token = await store_session(manager, {"user_id": "alice"})
    key = manager.keyring.primary.index("alice")
    enter = partial(manager.store.enter, key, age=0, own=-1, ttl=1, descriptor=b"")
    for _ in range(10):
        await asyncio.gather(*(enter(SessionToken.generate().id) for _ in range(1000)))
    touch = partial(manager.store.touch, key, token[:20], authenticated=1, ttl=HOUR, descriptor=b"")
    for _ in range(10):
        await asyncio.gather(*(touch() for _ in range(200)))
    assert redis.ask("HLEN", f"{prefix}of:{key}") <= 10
    assert [info.id for info in await manager.sessions_of("alice")] == [token[:20]]


async def test_every_key_has_an_end(manager: SessionManager, redis: Wire, prefix: str) -> None:
    """Whatever happens to sessions, every key of theirs has a TTL."""
    app = doing(manager=manager)
    queries = [
        "set=a:1", "set=user_id:alice", "rotate=", "authenticated=", "expire_in=5000000",
        "set=user_id:bob", "drop=user_id", "set=user_id:alice", "clear=&set=user_id:alice",
        "clear=", "set=user_id:alice&status=500", "set=user_id:alice",
    ]  # fmt: skip
    async with client_of(app) as browser:
        for query in queries:
            await browser.get(f"/do?{query}")
    await manager.revoke_all("bob")
    (info,) = await manager.sessions_of("alice")
    await manager.revoke(info.id, principal="alice")
    await manager.revoke_all("carol", keep="x" * 20)
    keys = redis.keys(prefix)
    assert len(keys) >= 8
    assert {key: redis.ask("PTTL", key) > 0 for key in keys} == dict.fromkeys(keys, True)


async def test_revoking_an_id_of_ones_making(manager: SessionManager) -> None:
    """An id that a client sent is an id, not the name of another field of the index."""
    session = await manager.load()
    session["user_id"] = "alice"
    await manager.revoke_all("alice")
    assert await manager.revoke("revoked", principal="alice") is False
    with pytest.raises(StoreUnavailableError):
        await manager.commit(session)


async def test_max_sessions(redis_url: str, prefix: str) -> None:
    """20 sign-ins at once with max_sessions=3: none is refused, and 3 are left."""
    manager = manager_on(redis_url, prefix, max_sessions=3)
    app = doing(manager=manager)

    async def sign_in() -> str:
        async with client_of(app) as browser:
            return await signed_in(browser)

    for _ in range(3):
        await sign_in()
    tokens = await asyncio.gather(*(sign_in() for _ in range(20)))
    assert 1 <= len(await manager.sessions_of("alice")) <= 3
    assert any([await manager.load(token) for token in tokens])
    await manager.close()


# -- requests that revoke


def revoked(manager: SessionManagerDep) -> int:
    return anyio.from_thread.run(manager.revoke_all, "alice")


def shop(manager: SessionManager) -> FastAPI:
    """Endpoints that list and revoke: async, in threads, and in tasks of their own."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager)

    @app.get("/sign-in")
    async def sign_in(session: SessionDep) -> None:
        session["user_id"] = "alice"

    @app.get("/devices")
    async def devices(manager: SessionManagerDep) -> list[dict[str, Any]]:
        return [
            {"current": info.current, "browser": info.browser, "address": info.address}
            for info in await manager.sessions_of("alice")
        ]

    @app.get("/reset/async")
    async def reset(session: SessionDep, manager: SessionManagerDep) -> int:
        ended = await manager.revoke_all("alice")
        session["user_id"] = "alice"
        return ended

    @app.get("/reset/task")
    async def in_a_task(session: SessionDep, manager: SessionManagerDep) -> int:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(manager.revoke_all("alice"))
        session["user_id"] = "alice"
        return task.result()

    @app.get("/reset/thread")
    def in_a_thread(session: SessionDep, manager: SessionManagerDep) -> int:
        ended = anyio.from_thread.run(manager.revoke_all, "alice")
        session["user_id"] = "alice"
        return ended

    @app.get("/reset/dependency")
    async def by_a_dependency(session: SessionDep, ended: Annotated[int, Depends(revoked)]) -> int:
        session["user_id"] = "alice"
        return ended

    @app.get("/everywhere/{how}")
    def everywhere(how: str, session: SessionDep, manager: SessionManagerDep) -> int:
        keep = session.id if how == "else" else None
        return anyio.from_thread.run(partial(manager.revoke_all, "alice", keep=keep))

    return app


async def test_devices(manager: SessionManager) -> None:
    """A page of devices: each with its browser and address, the current one marked."""
    agents = {
        "Firefox 140": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        None: "no browser at all",
    }
    app = shop(manager)
    shown: list[dict[str, Any]] = []
    for agent in agents.values():
        async with client_of(app, headers={"User-Agent": agent}) as browser:
            await browser.get("/sign-in")
            shown = (await browser.get("/devices")).json()
    assert [(d["current"], d["address"]) for d in shown] == [
        (True, "127.0.0.1"),
        (False, "127.0.0.1"),
    ]
    assert [d["browser"] for d in shown] == [None, "Firefox 140"]


@pytest.mark.parametrize("how", ["async", "task", "thread", "dependency"])
@pytest.mark.parametrize("was_in", [False, True], ids=["anonymous", "signed in"])
async def test_password_reset(manager: SessionManager, how: str, was_in: bool) -> None:
    """revoke_all, then a sign-in, in one request: signed in, and nobody else."""
    app = shop(manager)
    async with client_of(app) as thief, client_of(app) as browser:
        await thief.get("/sign-in")
        if was_in:
            await browser.get("/sign-in")
        response = await browser.get(f"/reset/{how}")
        assert (response.status_code, response.json()) == (200, 2 if was_in else 1)
        assert [d["current"] for d in (await browser.get("/devices")).json()] == [True]
        assert [d["current"] for d in (await thief.get("/devices")).json()] == [False]


async def test_signing_out_everywhere(manager: SessionManager) -> None:
    """Everywhere else: the others end. Everywhere: the own cookie expires in that response."""
    app = shop(manager)
    async with client_of(app) as one, client_of(app) as other:
        for browser in (one, other):
            await browser.get("/sign-in")
        response = await one.get("/everywhere/else")
        assert (response.json(), token_in(response)) == (1, None)
        assert len((await one.get("/devices")).json()) == 1
        response = await one.get("/everywhere/too")
        assert (response.json(), token_in(response)) == (1, "null")
        assert (await other.get("/devices")).json() == []


async def test_revoked_while_a_request_is_under_way(manager: SessionManager) -> None:
    """A slow request of a revoked session: its change is dropped, and no cookie is sent."""
    events = Events()
    began, revoked = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> JSONResponse:
        began.set()
        await revoked.wait()
        request.session["late"] = 1
        return JSONResponse("done")

    watching = SessionManager(manager.store, manager.keyring, on_event=events)
    app = doing(Route("/slow", slow), manager=watching)
    async with client_of(app) as browser:
        token = await signed_in(browser)
        task = asyncio.create_task(browser.get("/slow"))
        await began.wait()
        assert await manager.revoke_all("alice") == 1
        revoked.set()
        response = await task
        assert (response.status_code, token_in(response)) == (200, None)
        assert events.named("dropped") == ["ended elsewhere"]
        assert not await manager.load(token)


async def test_a_refused_sign_in_is_503(manager: SessionManager) -> None:
    """revoke_all while a sign-in is under way: 503, Retry-After, no cookie, the cart intact."""

    async def slow(request: Request) -> JSONResponse:
        request.session["user_id"] = "alice"
        await asyncio.sleep(0.01)  # the server's clock counts milliseconds
        await manager_elsewhere.revoke_all("alice")
        return JSONResponse("done")

    manager_elsewhere = SessionManager(manager.store, manager.keyring)
    app = doing(Route("/slow", slow), manager=manager)
    async with client_of(app) as browser:
        await browser.get("/do?set=cart:tea")
        response = await browser.get("/slow")
        assert response.status_code == 503
        assert "retry-after" in response.headers
        assert token_in(response) is None
        assert (await browser.get("/do")).json() == {"cart": "tea"}
        assert await manager.sessions_of("alice") == []


# -- late changes


async def _show(request: Request) -> Response:
    return JSONResponse(dict(request.session))


class Talking:
    """An application with a socket, which tells when all that a socket leaves was stored."""

    def __init__(self, endpoint: Any, **options: Any) -> None:
        self._app = doing(Route("/show", _show), WebSocketRoute("/ws", endpoint), **options)
        self._left = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            self._left.set()

    def let_go(self, socket: WebSocketTestSession) -> None:
        """Tell the socket to go on, and wait until it is over."""
        socket.send_text("go")
        assert self._left.wait(10)


@pytest.mark.parametrize("changes", [False, True], ids=["read only", "its own key"])
def test_a_socket_that_ends_overwrites_nothing(redis_url: str, prefix: str, changes: bool) -> None:
    """What other requests stored while a socket was open stays, whatever the socket held."""

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()
        if changes:
            socket.session["socket"] = 1
        await socket.close()

    app = Talking(endpoint, store=redis_url, prefix=prefix, secret_key=KEY)
    with TestClient(app, base_url=BASE) as browser:
        browser.get("/do?set=user_id:alice&set=old:1&set=kept:1")
        with browser.websocket_connect(SOCKET) as socket:
            browser.get("/do?set=newer:1&set=kept:2&drop=old")
            app.let_go(socket)
        expected = {"user_id": "alice", "newer": "1", "kept": "2"}
        assert browser.get("/show").json() == expected | ({"socket": 1} if changes else {})


@pytest.mark.parametrize("how", ["clear=", "set=user_id:bob", "rotate="])
def test_a_socket_revives_nothing(redis_url: str, prefix: str, how: str) -> None:
    """Ended, switched or rotated while a socket was open: its late change goes nowhere."""
    events = Events()

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()
        socket.session["late"] = 1
        await socket.close()

    app = Talking(endpoint, store=redis_url, prefix=prefix, secret_key=KEY, on_event=events)
    with TestClient(app, base_url=BASE) as browser:
        browser.get("/do?set=user_id:alice")
        with browser.websocket_connect(SOCKET) as socket:
            browser.get(f"/do?{how}")
            app.let_go(socket)
        assert "late" not in browser.get("/show").json()
        assert "dropped" in {event.name for event in events}


def test_a_socket_signs_out_late(redis_url: str, prefix: str) -> None:
    """A socket that signs out ends the session, though no cookie can be sent any more."""

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()
        socket.session.pop("user_id")
        await socket.close()

    app = Talking(endpoint, store=redis_url, prefix=prefix, secret_key=KEY)
    with TestClient(app, base_url=BASE) as browser:
        browser.get("/do?set=user_id:alice")
        with browser.websocket_connect(SOCKET) as socket:
            app.let_go(socket)
        assert browser.get("/show").json() == {}


@pytest.mark.parametrize("how", ["clear", "remove", "revoke_all"])
async def test_a_visit_after_a_late_end(manager: SessionManager, how: str) -> None:
    """The browser wasn't told, so it has no newer cookie to keep: it starts afresh at once."""

    async def late(session: Session) -> None:
        if how == "clear":
            session.clear()
        elif how == "remove":
            del session["user_id"]
        else:
            await manager.revoke_all("alice")

    async def endpoint(request: Request) -> Response:
        return JSONResponse("done", background=BackgroundTask(late, get_session(request)))

    app = doing(Route("/late", endpoint), manager=manager)
    async with client_of(app) as browser:
        token = await signed_in(browser)
        assert token_in(await browser.get("/late")) is None
        assert not await manager.load(token)
        await browser.get("/do?set=csrf:1")
        assert (await browser.get("/do")).json() == {"csrf": "1"}


async def test_a_password_reset_before_the_session_is_loaded(manager: SessionManager) -> None:
    """With lazy=True, too, a request may revoke all sessions of a principal and then sign in."""

    async def reset(request: Request) -> Response:
        session = get_session(request)
        await manager.revoke_all("alice")
        await session.refresh()
        session["user_id"] = "alice"
        return JSONResponse(None)

    app = app_of(Route("/reset", reset), manager=manager, lazy=True)
    old = await store_session(manager, {"user_id": "alice"})
    async with client_of(app, old) as browser:
        new = token_in(await browser.get("/reset"))
    assert not await manager.load(old)
    assert dict(await manager.load(new)) == {"user_id": "alice"}


@pytest.mark.parametrize("kind", ["stream", "events", "background"])
async def test_late_changes_are_merged(manager: SessionManager, kind: str) -> None:
    """What a stream or a background task changes is stored on top of what came meanwhile."""
    began, go = asyncio.Event(), asyncio.Event()

    async def late(session: Session) -> None:
        began.set()
        await go.wait()
        session["late"] = 1

    async def endpoint(request: Request) -> Response:
        session = get_session(request)
        session["early"] = 1
        if kind == "background":
            return JSONResponse("done", background=BackgroundTask(late, session))

        async def body() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            await late(session)
            yield "data: 2\n\n"

        media = "text/event-stream" if kind == "events" else "text/plain"
        return StreamingResponse(body(), media_type=media)

    app = doing(Route("/late", endpoint), manager=manager)
    async with client_of(app) as browser:
        token = await signed_in(browser)
        task = asyncio.create_task(browser.get("/late"))
        await began.wait()
        async with client_of(app, token) as other:
            await other.get("/do?set=other:1")
        go.set()
        assert token_in(await task) is None
    assert dict(await manager.load(token)) == {
        "user_id": "alice", "early": 1, "other": "1", "late": 1,
    }  # fmt: skip


async def test_a_late_change_after_a_revocation(manager: SessionManager) -> None:
    """A background task of a session that was revoked meanwhile: dropped, and nothing revived."""
    elsewhere = SessionManager(manager.store, manager.keyring)  # not the request's own doing

    async def late(session: Session) -> None:
        await elsewhere.revoke_all("alice")
        session["late"] = 1

    async def endpoint(request: Request) -> Response:
        return JSONResponse("done", background=BackgroundTask(late, get_session(request)))

    app = doing(Route("/late", endpoint), manager=manager)
    async with client_of(app) as browser:
        token = await signed_in(browser)
        assert token_in(await browser.get("/late")) is None
        assert (await browser.get("/do")).json() == {}
    assert not await manager.load(token)


async def test_saving_in_a_background_task(manager: SessionManager) -> None:
    """save() stores at once; on a session that ended it says so."""
    caught: list[bool] = []

    async def late(session: Session, token: str) -> None:
        session["late"] = 1
        await session.save()
        assert (await manager.load(token))["late"] == 1
        other = await manager.load(token)
        other.clear()
        await manager.commit(other)
        session["late"] = 2
        with pytest.raises(SessionGoneError):
            await session.save()
        caught.append(True)

    async def endpoint(request: Request) -> Response:
        session, token = get_session(request), request.cookies["__Host-session"]
        return JSONResponse("done", background=BackgroundTask(late, session, token))

    app = doing(Route("/late", endpoint), manager=manager)
    async with client_of(app) as browser:
        await signed_in(browser)
        await browser.get("/late")
        assert caught
        assert (await browser.get("/do")).json() == {}


# -- events


async def test_events() -> None:
    """Everything that happens is told by name, reason and id; never a token, a key or data."""
    told: list[Event] = []
    now = [1_800_000_000.0]
    # The store keeps the time as well, so that it can be set.
    store = MemoryStore(clock=lambda: now[0])
    manager = SessionManager(store, Keyring(KEY), clock=lambda: now[0], on_event=told.append)
    app = doing(manager=manager)

    def names() -> list[tuple[str, str | None]]:
        found = [(event.name, event.reason) for event in told]
        told.clear()
        return found

    async with client_of(app) as browser:
        tokens = [token_in(await browser.get("/do?set=cart:secret-tea"))]
        assert names() == [("created", "create")]
        tokens.append(token_in(await browser.get("/do?set=user_id:secret-alice")))
        assert names() == [("created", "gain"), ("ended", "signed in")]
        tokens.append(token_in(await browser.get("/do?rotate=")))
        assert names() == [("rotated", "rotate")]
        tokens.append(token_in(await browser.get("/do?authenticated=")))
        assert names() == [("rotated", "reauthenticate")]
        now[0] += 301
        await browser.get("/do")
        assert names() == [("touched", None)]
        one, other = [await manager.load(tokens[-1]) for _ in range(2)]
        one["a"], other["b"] = 1, 2
        await manager.commit(one)
        await manager.commit(other)
        assert names() == [("merged", None)]
        tokens.append(token_in(await browser.get("/do?set=user_id:secret-bob")))
        assert names() == [("created", "switch"), ("ended", "switched")]
        late = await manager.load(tokens[-1])
        await browser.get("/do?clear=")
        assert names() == [("ended", "cleared")]
        late["a"] = 1
        await manager.commit(late)
        assert names() == [("dropped", "ended elsewhere")]
        tokens.append(token_in(await browser.get("/do?set=user_id:secret-alice")))
        await browser.get("/do?drop=user_id&drop=cart")
        assert [name for name, _ in names()] == ["created", "ended"]
        late = await manager.load()
        late["user_id"] = "secret-alice"
        now[0] += 1
        await manager.revoke_all("secret-alice")
        with pytest.raises(StoreUnavailableError):
            await manager.commit(late)
        assert names() == [("revoked", "all"), ("refused", "revoked meanwhile")]
        browser.cookies.clear()
        await browser.get("/do", headers={"Cookie": f"__Host-session={'x' * 64}"})
        assert names() == [("rejected", "unknown id")]


async def test_events_hold_ids_alone(redis_url: str, prefix: str) -> None:
    """No token, principal, data or key in any event of a life that is as long as this one."""
    told = Events()
    manager = manager_on(redis_url, prefix, on_event=told, max_sessions=1)
    app = doing(manager=manager)
    tokens: set[str] = set()
    async with client_of(app) as browser, client_of(app) as other:
        for client in (browser, other, browser):
            for query in ("set=cart:secret", "set=user_id:secret", "rotate=", "set=a:secret"):
                tokens.add(token_in(await client.get(f"/do?{query}")) or "")
        await manager.revoke_all("secret")
    text = repr(told)
    assert len(told) > 10
    assert "secret" not in text
    assert KEY not in text
    assert not any(token[20:] in text for token in tokens if token)
    assert all(event.id is None or re.fullmatch(r"[\w-]{20}", event.id) for event in told)
    await manager.close()


# -- the deployment


async def test_the_deployed_user_suffices(start_server: StartServer) -> None:
    """deploy/redis: the application's user may do all that a session's life takes."""
    deploy = ROOT / "deploy" / "redis"
    server: Server = start_server(
        "--aclfile", str(deploy / "users.acl"), kind="redis", config=deploy / "redis.conf"
    )
    url = server.url.replace("//", "//app:development@")
    manager = SessionManager(RedisStore(url), Keyring(KEY), max_sessions=2)
    await manager.connect()
    app = doing(manager=manager)
    async with client_of(app) as browser:
        for query in ("set=a:1", "set=user_id:alice", "authenticated=", "rotate=", "set=b:2"):
            assert (await browser.get(f"/do?{query}")).status_code == 200
    tokens = [await store_session(manager, {"user_id": "alice", "n": 0}) for _ in range(3)]
    session = await manager.load(tokens[-1])
    assert await manager.update(session, count) == 1
    async with session.exclusive():
        session["n"] += 1
    assert (await manager.load(tokens[-1]))["n"] == 2
    one, _ = await manager.sessions_of("alice")
    assert await manager.revoke(one.id, principal="alice")
    assert await manager.revoke_all("alice") == 1
    await manager.close()
