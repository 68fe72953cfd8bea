"""The usual ways to call an application in its tests, and a real server."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from types import ModuleType
from typing import Any

import fastapi.testclient
import httpx
import httpx2
import pytest
import starlette.testclient
import uvicorn
import websockets
from fastapi import FastAPI, WebSocket
from starlette.requests import Request

from redis_sessions import SessionMiddleware, get_session
from redis_sessions.fastapi import PrincipalDep, SessionDep
from tests.interop.serving import HTTPS, Options, Records, Site, id_of

CLIENTS = {"fastapi": fastapi.testclient.TestClient, "starlette": starlette.testclient.TestClient}
TestClient = starlette.testclient.TestClient


def application(options: dict[str, Any]) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, **options)

    @app.post("/sign-in/{name}")
    async def sign_in(name: str, request: Request) -> None:
        request.session["user_id"] = name

    @app.post("/count")
    def count(session: SessionDep) -> int:
        session["count"] = session.get("count", 0) + 1
        found: int = session["count"]
        return found

    @app.get("/me")
    async def me(user: PrincipalDep) -> str:
        return user

    @app.websocket("/socket")
    async def in_socket(websocket: WebSocket) -> None:
        session = get_session(websocket)
        await websocket.accept()
        await websocket.send_json(dict(session))
        if not session.is_new:  # a new one would have to begin before accept()
            session["from"] = "socket"
            await session.save()
        await websocket.close()

    return app


@pytest.fixture(params=[True, False], ids=["with", "without with"])
def entered(request: pytest.FixtureRequest) -> bool:
    """Whether the client is entered: else each request has an event loop of its own."""
    found: bool = request.param
    return found


def opened(client: TestClient, entered: bool) -> AbstractContextManager[TestClient]:
    return client if entered else nullcontext(client)


@pytest.mark.parametrize("client_class", CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_testclient(
    options: Options,
    records: Records,
    site: Site,
    client_class: type[TestClient],
    entered: bool,
    uvloop: bool,
) -> None:
    """Both frameworks' TestClient keeps a session from request to request, on both loops."""
    app = application(options(https_only=site.https_only))
    client = client_class(app, base_url=site.url, backend_options={"use_uvloop": uvloop})
    with opened(client, entered):
        assert [client.post("/count").json() for _ in range(3)] == [1, 2, 3]
        visitor = client.cookies[site.cookie]
        assert client.get("/me").status_code == 401
        client.post("/sign-in/ann")
        assert client.get("/me").json() == "ann"
        assert client.post("/count").json() == 4
        token = client.cookies[site.cookie]
    assert id_of(token) != id_of(visitor)
    assert records.ids() == {id_of(token)}


def test_websocket(options: Options, records: Records, site: Site, entered: bool) -> None:
    """A WebSocket finds the session by its full URL, and saves what it changes."""
    client = TestClient(application(options(https_only=site.https_only)), base_url=site.url)
    with opened(client, entered):
        client.post("/count")
        with client.websocket_connect(f"{site.socket_url}/socket") as connection:
            assert connection.receive_json() == {"count": 1}
        assert records.read(client.cookies[site.cookie]) == {"count": 1, "from": "socket"}


def test_websocket_path_alone(options: Options) -> None:
    """A path alone is ws:// for the TestClient, which sends no Secure cookie there."""
    with TestClient(application(options()), base_url=HTTPS.url) as client:
        client.post("/sign-in/ann")
        with client.websocket_connect("/socket") as connection:
            assert connection.receive_json() == {}


def test_plain_http_by_mistake(options: Options, caplog: pytest.LogCaptureFixture) -> None:
    """On its default http://testserver a Secure cookie is lost, and the log names both cures."""
    with (
        caplog.at_level(logging.WARNING, "redis_sessions"),
        TestClient(application(options())) as client,
    ):
        assert [client.post("/count").json() for _ in range(2)] == [1, 1]
    (message,) = caplog.messages
    assert "https_only=False" in message
    assert 'base_url="https://testserver"' in message


def test_one_application_many_clients(options: Options, entered: bool) -> None:
    """Clients of one application, each with event loops of its own, don't meet."""
    app = application(options())
    for name in ("ann", "bob", "eve"):
        client = TestClient(app, base_url=HTTPS.url)
        with opened(client, entered):
            client.post(f"/sign-in/{name}")
            assert client.get("/me").json() == name


@pytest.mark.parametrize("module", [httpx, httpx2], ids=lambda module: module.__name__)
async def test_async_client(options: Options, module: ModuleType) -> None:
    """httpx and httpx2 call the application in the test's own loop, several requests at once."""
    app = application(options())
    transport = module.ASGITransport(app=app)
    async with module.AsyncClient(transport=transport, base_url=HTTPS.url) as client:
        await client.post("/sign-in/ann")
        answers = await asyncio.gather(*(client.get("/me") for _ in range(20)))
        assert {answer.json() for answer in answers} == {"ann"}


@pytest.fixture
def loopback() -> Iterator[socket.socket]:
    """A listening socket: whoever connects waits until the server is there."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


async def requests_left(client: httpx2.AsyncClient) -> int:
    """How many of uvicorn's objects for ten requests are there still, without a collector."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            await client.get("/me")
        return sum(type(each).__name__ == "RequestResponseCycle" for each in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_uvicorn(
    options: Options,
    records: Records,
    loopback: socket.socket,
    http: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """uvicorn, with both HTTP parsers, serves requests and a WebSocket; nothing on stderr."""
    app = application(options(https_only=False))
    config = uvicorn.Config(
        app, http=http, ws="websockets-sansio", lifespan="on", log_level="warning"
    )
    server = uvicorn.Server(config)

    @asynccontextmanager
    async def running() -> AsyncGenerator[str]:
        serving = asyncio.create_task(server.serve(sockets=[loopback]))
        yield f"http://127.0.0.1:{loopback.getsockname()[1]}"
        server.should_exit = True
        await serving

    async with running() as url, httpx2.AsyncClient(base_url=url) as client:
        await client.post("/sign-in/ann")
        assert (await client.get("/me")).json() == "ann"
        counts = [(await client.post("/count")).json() for _ in range(3)]
        assert counts == [1, 2, 3]
        assert await requests_left(client) <= 1  # the connection has the last one
        cookie = f"sid={client.cookies['sid']}"
        socket_url = f"{url.replace('http', 'ws')}/socket"
        async with websockets.connect(
            socket_url, additional_headers={"Cookie": cookie}
        ) as connection:
            assert json.loads(await connection.recv()) == {"user_id": "ann", "count": 3}
            await connection.wait_closed()
    assert records.ids() == {id_of(cookie.removeprefix("sid="))}
    assert capfd.readouterr().err == ""
