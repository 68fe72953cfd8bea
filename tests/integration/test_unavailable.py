"""Redis goes away, hangs, refuses or is too slow: who is served all the same, and what is told."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from redis_sessions import (
    SessionManager,
    SessionMiddleware,
    StoreError,
    StoreUnavailableError,
    get_session,
)
from redis_sessions.fastapi import PrincipalDep, SessionDep
from redis_sessions.stores import coalescing
from tests.integration.apps import (
    COOKIE,
    Wire,
    client_of,
    doing,
    manager_on,
    serve,
    signed_in,
    token_in,
)
from tests.support import Server, StartServer, as_user

TIMEOUT = 0.2


@pytest.fixture
def private(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture
def manager(private: Server) -> SessionManager:
    return manager_on(private.url, timeout=TIMEOUT)


def hang(server: Server) -> None:
    server.process.send_signal(signal.SIGSTOP)


def resume(server: Server) -> None:
    server.process.send_signal(signal.SIGCONT)


AWAY: list[tuple[Callable[[Server], None], Callable[[Server], object]]] = [
    (Server.kill, Server.start),
    (hang, resume),
]
away = pytest.mark.parametrize(("go", "come_back"), AWAY, ids=["gone", "hanging"])


async def _plain(request: Request) -> JSONResponse:
    return JSONResponse("untouched")


async def _show(request: Request) -> JSONResponse:
    return JSONResponse(request.session)


async def _ignores_errors(request: Request) -> JSONResponse:
    try:
        request.session.get("a")
    except StoreError:
        return JSONResponse("managed without")
    return JSONResponse("managed with")


def _starlette() -> Starlette:
    return Starlette(routes=[Route("/plain", _plain), Route("/show", _show)])


def _fastapi() -> FastAPI:
    app = FastAPI()

    @app.get("/plain")
    def plain() -> str:
        return "untouched"

    @app.get("/show")
    async def show(session: SessionDep) -> dict[str, Any]:
        return session

    @app.get("/me")
    async def me(user: PrincipalDep) -> str:
        return user

    return app


def everything(**options: Any) -> Starlette:
    """An application with a Starlette and a FastAPI application mounted."""
    return doing(
        Mount("/starlette", _starlette()),
        Mount("/fastapi", _fastapi()),
        Route("/ignores-errors", _ignores_errors),
        **options,
    )


def assert_unavailable(response: httpx2.Response) -> None:
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.headers.get_list("cache-control") == ["no-store"]
    assert "set-cookie" not in response.headers


PATHS = ["/do", "/do?set=a:1", "/do?clear=", "/starlette/show", "/fastapi/show", "/fastapi/me"]


@pytest.mark.standard(37, "ASVS 16.5.1", "ASVS 16.5.2", "ASVS 16.5.3")
@away
@pytest.mark.parametrize("lazy", [False, True])
async def test_while_redis_is_away(
    private: Server,
    manager: SessionManager,
    go: Callable[[Server], None],
    come_back: Callable[[Server], object],
    lazy: bool,
) -> None:
    """Who doesn't touch the session is served, the others get 503; then all is well again."""
    async with client_of(everything(manager=manager)) as browser:
        token = await signed_in(browser)
    async with client_of(everything(manager=manager, lazy=lazy), token) as browser:
        go(private)
        for path in ("/plain", "/starlette/plain", "/fastapi/plain"):
            response = await browser.get(path)
            assert response.json() == "untouched"
            assert "set-cookie" not in response.headers
        for path in PATHS[3 if lazy else 0 :]:
            if lazy and not path.startswith("/fastapi"):
                continue  # there it is a mistake of the application's
            assert_unavailable(await browser.get(path))
        if not lazy:
            assert (await browser.get("/ignores-errors")).json() == "managed without"
        come_back(private)
        response = await browser.get("/fastapi/show")
        assert response.status_code == 200
        # A server that was killed has forgotten the session; one that hung hasn't.
        assert response.json() == ({"user_id": "alice"} if come_back is resume else {})
        assert browser.cookies[COOKIE] == token


async def test_fastapi_tells_it_as_json(private: Server, manager: SessionManager) -> None:
    """The 503 has the form of FastAPI's errors, in an application and in a mounted one."""
    app = _fastapi()
    app.add_middleware(SessionMiddleware, manager=manager)
    private.kill()
    for application, path in ((app, "/show"), (everything(manager=manager), "/fastapi/show")):
        async with client_of(application, "x" * 64) as browser:
            response = await browser.get(path)
            assert_unavailable(response)
            assert response.json() == {"detail": "The session store is unavailable"}


async def test_without_a_token_nothing_is_missed(private: Server, manager: SessionManager) -> None:
    """A visitor without a cookie reads an empty session; only what has to be stored is a 503."""
    private.kill()
    async with client_of(everything(manager=manager)) as browser:
        assert (await browser.get("/do")).json() == {}
        assert_unavailable(await browser.get("/do?set=a:1"))
        assert_unavailable(await browser.get("/do?set=user_id:alice"))


@pytest.mark.parametrize(
    "what", ["set=a:1", "set=user_id:bob", "clear=", "drop=user_id", "rotate="]
)
@pytest.mark.parametrize("where", ["", "/starlette", "/fastapi"])
async def test_redis_goes_away_within_a_request(
    private: Server, manager: SessionManager, what: str, where: str
) -> None:
    """A commit that fails is a 503 in place of the response, and the cookie stays untouched."""

    async def loses(request: Request) -> JSONResponse:
        session = get_session(request)
        for step, value in request.query_params.multi_items():
            if step == "set":
                key, _, text = value.partition(":")
                session[key] = text
            elif step == "clear":
                session.clear()
            elif step == "drop":
                session.pop(value)
            elif step == "rotate":
                session.rotate()
        private.kill()
        return JSONResponse("done", headers={"Cache-Control": "public"})

    sub: Starlette = FastAPI() if where == "/fastapi" else Starlette()
    sub.add_route("/loses", loses)
    routes = [Mount(where, sub)] if where else [Route("/loses", loses)]
    async with client_of(doing(*routes, manager=manager)) as browser:
        await signed_in(browser)
        assert_unavailable(await browser.get(f"{where}/loses?{what}"))


async def test_a_touch_that_fails_is_no_error(private: Server) -> None:
    """A read whose touch can't be stored is answered as usual."""
    now = [time.time()]
    manager = manager_on(private.url, timeout=TIMEOUT, clock=lambda: now[0])

    async def loses(request: Request) -> JSONResponse:
        private.kill()
        return JSONResponse(request.session)

    async with client_of(doing(Route("/loses", loses), manager=manager)) as browser:
        await signed_in(browser)
        now[0] += 1000
        response = await browser.get("/loses")
        assert response.status_code == 200
        assert response.json() == {"user_id": "alice"}


async def test_redis_goes_away_after_the_response(private: Server, manager: SessionManager) -> None:
    """What a background task wrote can't be stored: the response is whole, the error raised."""

    def task(request: Request) -> None:
        private.kill()
        request.session["late"] = 1

    async def late(request: Request) -> JSONResponse:
        return JSONResponse("started", background=BackgroundTask(task, request))

    async with client_of(doing(Route("/late", late), manager=manager)) as browser:
        await signed_in(browser)
        with pytest.raises(StoreUnavailableError):
            await browser.get("/late")


async def test_anonymous_for_the_time_being(private: Server, manager: SessionManager) -> None:
    """on_unavailable="anonymous": an empty session, fine to read; to write it is the 503."""
    async with client_of(everything(manager=manager)) as browser:
        token = await signed_in(browser)
    private.kill()
    for lazy in (False, True):
        app = everything(manager=manager, on_unavailable="anonymous", lazy=lazy)
        async with client_of(app, token) as browser:
            for path in ["/fastapi/show"] if lazy else ["/do", "/starlette/show", "/fastapi/show"]:
                response = await browser.get(path)
                assert response.json() == {}
                assert response.headers["cache-control"] == "no-store"
                assert "set-cookie" not in response.headers
            assert (await browser.get("/fastapi/me")).status_code == 401
            if not lazy:
                for query in ("set=a:1", "set=user_id:bob", "clear=", "rotate="):
                    assert_unavailable(await browser.get(f"/do?{query}"))
            assert browser.cookies[COOKIE] == token


async def test_each_request_decides(private: Server, manager: SessionManager) -> None:
    """on_unavailable as a callable: it sees the request."""

    def decide(connection: HTTPConnection) -> Any:
        return "anonymous" if connection.url.path.startswith("/starlette") else "error"

    app = everything(manager=manager, on_unavailable=decide)
    private.kill()
    async with client_of(app, "x" * 64) as browser:
        assert (await browser.get("/starlette/show")).json() == {}
        assert_unavailable(await browser.get("/do"))


# -- WebSockets


async def _early(socket: WebSocket) -> None:
    socket.session.get("a")
    await socket.accept()
    await socket.close()


async def _late(socket: WebSocket) -> None:
    await socket.accept()
    socket.session.get("a")
    await socket.close()


async def _never(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("untouched")
    await socket.close()


async def _saves(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive_text()
    socket.session["a"] = 1
    await get_session(socket).save()
    await socket.close()


async def _ends(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive_text()
    socket.session["a"] = 1


SOCKETS = [
    WebSocketRoute("/early", _early),
    WebSocketRoute("/late", _late),
    WebSocketRoute("/never", _never),
    WebSocketRoute("/saves", _saves),
    WebSocketRoute("/ends", _ends),
]


@pytest.mark.parametrize("where", ["", "/starlette", "/fastapi"])
async def test_sockets_while_redis_is_away(
    private: Server, manager: SessionManager, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """503 as a denial before accept, close 1013 after; who doesn't touch the session is served."""
    app = doing(
        *SOCKETS,
        Mount("/starlette", Starlette(routes=SOCKETS)),
        Mount("/fastapi", FastAPI(routes=list(SOCKETS))),
        manager=manager,
        https_only=False,
    )
    with serve(app) as address:
        async with httpx2.AsyncClient(base_url=f"http://{address}") as browser:
            token = token_in(await browser.get("/do?set=user_id:alice"), "sid")

        def open_(path: str) -> connect:
            headers = {"Cookie": f"sid={token}"}
            return connect(f"ws://{address}{where}{path}", additional_headers=headers)

        async with open_("/saves") as saving, open_("/ends") as ending:
            private.kill()
            for socket in (saving, ending):
                await socket.send("go on")
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1013
        with pytest.raises(InvalidStatus) as denied:
            await open_("/early")
        assert denied.value.response.status_code == 503
        assert "Retry-After" in denied.value.response.headers
        async with open_("/late") as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        async with open_("/never") as socket:
            assert await socket.recv() == "untouched"
    assert "Exception in ASGI application" not in caplog.text


async def test_a_server_without_denials(private: Server, manager: SessionManager) -> None:
    """Where the server can't answer a handshake with a response, it is closed with 1013."""
    app = doing(WebSocketRoute("/early", _early), manager=manager)
    private.kill()
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    cookie = f"{COOKIE}={'x' * 64}".encode()
    scope: dict[str, Any] = {"type": "websocket", "scheme": "wss", "path": "/early"}
    scope |= {"root_path": "", "query_string": b"", "headers": [(b"cookie", cookie)]}
    await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert sent[0]["code"] == 1013


# -- how hard it is tried


class _Listener:
    """A port at which nobody answers; it counts who tries."""

    def __init__(self, *, hangs_up: bool) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._hangs_up = hangs_up
        self._held: list[socket.socket] = []
        self.count = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.count += 1
            if self._hangs_up:
                connection.close()
            else:
                self._held.append(connection)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        for connection in (self._socket, *self._held):
            connection.close()


@contextmanager
def listening(*, hangs_up: bool) -> Generator[_Listener, None, None]:
    listener = _Listener(hangs_up=hangs_up)
    try:
        yield listener
    finally:
        listener.close()


async def statuses(app: ASGIApp, count: int) -> list[int]:
    async with client_of(app) as browser:
        headers = [{"Cookie": f"{COOKIE}={number:064d}"} for number in range(count)]
        responses = await asyncio.gather(*(browser.get("/do", headers=h) for h in headers))
    return [response.status_code for response in responses]


async def test_few_wait_for_a_server_that_hangs() -> None:
    """A hundred requests at once share one attempt; later ones fail fast but for one probe."""
    with listening(hangs_up=False) as listener:
        url = f"redis://127.0.0.1:{listener.port}/0"
        app = doing(manager=manager_on(url, timeout=TIMEOUT))
        for wave in range(1, 4):
            begun = time.monotonic()
            assert await statuses(app, 100) == [503] * 100
            assert time.monotonic() - begun < 10 * TIMEOUT
            assert listener.count <= wave


async def test_few_try_a_server_that_hangs_up() -> None:
    """Where connections are cut at once, the number of attempts is bounded, too."""
    with listening(hangs_up=True) as listener:
        url = f"redis://127.0.0.1:{listener.port}/0"
        app = doing(manager=manager_on(url, timeout=TIMEOUT))
        for _ in range(3):
            assert await statuses(app, 100) == [503] * 100
        assert listener.count <= 30


async def test_failing_fast_doesnt_wait(private: Server, manager: SessionManager) -> None:
    """While one probe waits for a hanging server, the other requests are answered at once."""
    app = doing(manager=manager)
    hang(private)
    assert await statuses(app, 1) == [503]
    async with client_of(app, "x" * 64) as browser:
        probe = asyncio.create_task(browser.get("/do"))
        others: list[asyncio.Task[httpx2.Response]] = []
        while not probe.done():
            others.append(asyncio.create_task(browser.get("/do")))
            await asyncio.wait([probe, others[-1]], return_when=asyncio.FIRST_COMPLETED)
        assert len(others) > 10
        for task in (probe, *others):
            assert_unavailable(await task)
    resume(private)


async def test_it_is_logged_once(
    private: Server, manager: SessionManager, caplog: pytest.LogCaptureFixture
) -> None:
    """Going and coming back are a line each, not a line for each request."""
    app = doing(manager=manager)
    await statuses(app, 3)
    private.kill()
    for _ in range(5):
        await statuses(app, 3)
    private.start()
    await statuses(app, 3)
    records = [r for r in caplog.records if r.name == "redis_sessions"]
    assert [r.levelno for r in records] == [logging.ERROR, logging.WARNING]


async def test_a_full_queue(private: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much load is a 503 of its own kind: who waits is still served, nobody is away."""
    monkeypatch.setattr(coalescing, "CAPACITY_ITEMS", 4)
    manager = manager_on(private.url, timeout=2.0)
    app = doing(manager=manager)
    assert await statuses(app, 2) == [200] * 2  # together: so that they queue from now on
    hang(private)
    async with client_of(app) as browser:
        tasks = [
            asyncio.create_task(browser.get("/do", headers={"Cookie": f"{COOKIE}={number:064d}"}))
            for number in range(20)
        ]
        done: set[asyncio.Task[httpx2.Response]] = set()
        pending = set(tasks)
        while len(done) < 16:
            some, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            done |= some
        for task in done:
            assert_unavailable(task.result())
        resume(private)
        assert [(await task).status_code for task in pending] == [200] * 4
    assert await statuses(app, 4) == [200] * 4
    loads = (manager.load(f"{number:064d}") for number in range(5))
    results = await asyncio.gather(*loads, return_exceptions=True)
    (error,) = [result for result in results if isinstance(result, BaseException)]
    assert isinstance(error, StoreUnavailableError)
    assert error.reason == "full"


# -- a server that is there, and says no


async def test_a_server_that_is_out_of_memory(private: Server, manager: SessionManager) -> None:
    """Writing is a 503, reading goes on: Redis isn't away."""
    async with client_of(everything(manager=manager)) as browser:
        await signed_in(browser)
        with Wire(private.port) as redis:
            redis.ask("CONFIG", "SET", "maxmemory", "1")
            for _ in range(3):
                assert_unavailable(await browser.get("/do?set=a:1"))
                assert (await browser.get("/do")).json() == {"user_id": "alice"}
            redis.ask("CONFIG", "SET", "maxmemory", "0")
        assert (await browser.get("/do?set=a:1")).status_code == 200


@pytest.mark.parametrize("rights", ["-set", "-eval -evalsha", "-mget", "-@all"])
async def test_rights_that_are_taken_away(private: Server, rights: str) -> None:
    """A user who loses rights at run time: 503, not a bug of the application's."""
    with Wire(private.port) as redis:
        redis.ask("ACL", "SETUSER", "app", "on", ">sesame", "~*", "+@all")
        url = as_user(private.url, "app:sesame")
        async with client_of(everything(manager=manager_on(url)), raises=False) as browser:
            await signed_in(browser)
            redis.ask("ACL", "SETUSER", "app", *rights.split())
            assert_unavailable(await browser.get("/do?set=a:1"))
            redis.ask("ACL", "SETUSER", "app", "+@all")
            assert (await browser.get("/do?set=a:1")).status_code == 200


async def test_a_user_who_is_locked_out(private: Server) -> None:
    """A user who is deleted, whose connections Redis closes: 503, and well again afterwards."""
    with Wire(private.port) as redis:
        rules = ("ACL", "SETUSER", "app", "on", ">sesame", "~*", "+@all")
        redis.ask(*rules)
        url = as_user(private.url, "app:sesame")
        async with client_of(everything(manager=manager_on(url)), raises=False) as browser:
            await signed_in(browser)
            redis.ask("ACL", "DELUSER", "app")
            assert_unavailable(await browser.get("/do?set=a:1"))
            redis.ask(*rules)
            assert (await browser.get("/do?set=a:1")).status_code == 200


async def test_a_server_that_forgets_its_scripts(private: Server, manager: SessionManager) -> None:
    """SCRIPT FLUSH and a restart make EVALSHA fail: nobody notices."""
    async with client_of(everything(manager=manager)) as browser:
        await signed_in(browser)
        with Wire(private.port) as redis:
            redis.ask("SCRIPT", "FLUSH")
        assert (await browser.get("/do?set=a:1")).status_code == 200
        private.kill()
        private.start()
        assert token_in(await browser.get("/do?set=b:2"))
        assert (await browser.get("/do")).json() == {"b": "2"}


async def test_connections_that_redis_closes(private: Server, manager: SessionManager) -> None:
    """CLIENT KILL (or a server's `timeout`) between two requests costs no request."""
    async with client_of(everything(manager=manager)) as browser:
        await signed_in(browser)
        with Wire(private.port) as redis:
            for _ in range(3):
                redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                assert (await browser.get("/do")).json()["user_id"] == "alice"
                redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                assert (await browser.get("/do?set=a:1")).status_code == 200
