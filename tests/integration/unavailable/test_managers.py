"""A manager's methods in a request while Redis is away: a 503, wherever the application is."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import anyio.from_thread
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from redis_sessions import (
    SessionManager,
    SessionMiddleware,
    SessionToken,
    StoreUnavailableError,
)
from redis_sessions.fastapi import SessionManagerDep
from tests.integration.unavailable.outages import TIMEOUT, assert_unavailable
from tests.support.apps import BASE, client_of, manager_on
from tests.support.servers import Server


async def all_of(manager: SessionManager) -> list[Any]:
    return [each async for each in manager.sessions()]


async def one() -> int:
    return 1


CALLS: Final[dict[str, Callable[[SessionManager], Awaitable[Any]]]] = {
    "sessions": all_of,
    "count": lambda manager: manager.count(),
    "load": lambda manager: manager.load(SessionToken.generate().value),
    "sessions_of": lambda manager: manager.sessions_of("alice"),
    "revoke": lambda manager: manager.revoke("a" * 20, "alice"),
    "revoke_all": lambda manager: manager.revoke_all("alice"),
    "revoke_by": lambda manager: manager.revoke_by("sid", "s-1"),
    "forget": lambda manager: manager.cache.forget("a"),
    "to_all": lambda manager: manager.messages.to_all({"n": 1}),
}


def routes(manager: SessionManager) -> list[BaseRoute]:
    async def call(request: Request) -> JSONResponse:
        return JSONResponse(await CALLS[request.path_params["name"]](manager))

    def in_a_thread(request: Request) -> JSONResponse:
        return JSONResponse(anyio.from_thread.run(manager.revoke_all, "alice"))

    async def stream(request: Request) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield "begun"
            await manager.count()

        return StreamingResponse(body())

    async def talk(websocket: WebSocket) -> None:
        if "accept" in websocket.query_params:
            await websocket.accept()
        await manager.count()

    return [
        Route("/call/{name}", call),
        Route("/thread", in_a_thread),
        Route("/stream", stream),
        WebSocketRoute("/ws", talk),
    ]


def app_in(layout: str, manager: SessionManager) -> ASGIApp:
    """The application, alone or under `/sub`, with the middleware around all, or in both."""
    ours = Middleware(SessionMiddleware, manager=manager)
    match layout:
        case "alone":
            return Starlette(routes=[Mount("/sub", routes=routes(manager))], middleware=[ours])
        case "mounted":
            inner = Starlette(routes=routes(manager))
            return Starlette(routes=[Mount("/sub", inner)], middleware=[ours])
        case "both":
            inner = Starlette(routes=routes(manager), middleware=[ours])
            return Starlette(routes=[Mount("/sub", inner)], middleware=[ours])
        case _:
            app = FastAPI(middleware=[ours])
            app.mount("/sub", FastAPI(routes=routes(manager)))
            return app


layouts = pytest.mark.parametrize("layout", ["alone", "mounted", "both", "fastapi"])


@layouts
async def test_each_method(private: Server, manager: SessionManager, layout: str) -> None:
    """The answer is the same as to a request whose session can't be loaded."""
    private.kill()
    async with client_of(app_in(layout, manager)) as browser:
        for path in (*(f"/sub/call/{name}" for name in CALLS), "/sub/thread"):
            response = await browser.get(path)
            assert_unavailable(response)
            assert "The session store is unavailable" in response.text


async def test_a_mounted_application_of_fastapi(private: Server, manager: SessionManager) -> None:
    """It tells the 503 as JSON, and its own handler of our error gets it with the reason."""
    inner, app = FastAPI(), FastAPI()
    seen = list[Exception]()

    @inner.post("/out")
    async def out(manager: SessionManagerDep) -> int:
        return await manager.revoke_all("alice")

    async def handler(request: Request, exc: Exception) -> JSONResponse:
        seen.append(exc)
        return JSONResponse("sorry", 500)

    app.add_middleware(SessionMiddleware, manager=manager)
    app.mount("/sub", inner)
    private.kill()
    async with client_of(app) as browser:
        response = await browser.post("/sub/out")
        assert_unavailable(response)
        assert response.json() == {"detail": "The session store is unavailable"}
    inner.add_exception_handler(StoreUnavailableError, handler)
    inner.middleware_stack = None  # so that it is built with the handler
    async with client_of(app) as browser:
        assert (await browser.post("/sub/out")).json() == "sorry"
    (error,) = seen
    assert isinstance(error, StoreUnavailableError)
    assert error.reason == "connection"
    assert isinstance(error.__cause__, StoreUnavailableError)
    assert "can't be reached" in str(error.__cause__)


@layouts
async def test_after_the_response_began(
    private: Server, manager: SessionManager, layout: str
) -> None:
    """The error is raised as it is: nobody can be told of a status any more."""
    private.kill()
    async with client_of(app_in(layout, manager)) as browser:
        with pytest.raises(StoreUnavailableError, match="can't be reached"):
            await browser.get("/sub/stream")


@layouts
def test_websockets(private: Server, prefix: str, layout: str) -> None:
    """The handshake is denied with the 503, and an open one is closed: try again."""
    private.kill()
    app = app_in(layout, manager_on(private.url, prefix, timeout=TIMEOUT))
    with TestClient(app, BASE) as client:
        with (
            pytest.raises(WebSocketDenialResponse) as denied,
            client.websocket_connect("wss://testserver/sub/ws"),
        ):
            pass
        assert_unavailable(denied.value)
        with client.websocket_connect("wss://testserver/sub/ws?accept=") as socket:
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
            assert closed.value.code == 1013


async def test_outside_of_a_request(private: Server, manager: SessionManager) -> None:
    """A worker gets the plain error, whose text says what is wrong."""
    private.kill()
    for call in CALLS.values():
        with pytest.raises(StoreUnavailableError, match="can't be reached"):
            await call(manager)
