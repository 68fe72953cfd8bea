"""Where the middleware meets others: error handlers, odd servers, clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from redis_sessions import (
    MemoryStore,
    SessionConflictError,
    SessionMiddleware,
    get_session,
)
from redis_sessions.fastapi import SessionDep, fresh
from redis_sessions.testing import Clock
from tests.integration.apps import BASE, KEY, app_of, doing, manager_on

WSS = "wss://testserver/ws"


def test_error_pages_see_the_session() -> None:
    """A handler of 500s, which runs outside the middleware, reads who was signed in."""

    async def fail(request: Request) -> Response:
        raise RuntimeError("a bug")

    async def page(request: Request, exc: Exception) -> Response:
        return PlainTextResponse(f"sorry, {request.session['set']} {get_session(request).id}", 500)

    app = Starlette(
        routes=[*doing(store="memory://", secret_key=KEY).routes, Route("/fail", fail)],
        middleware=[Middleware(SessionMiddleware, store="memory://", secret_key=KEY)],
        exception_handlers={Exception: page},
    )
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        client.get("/do?set=set:Ada")
        id = client.cookies["__Host-session"][:20]
        assert client.get("/fail").text == f"sorry, Ada {id}"


async def test_one_scope_served_twice() -> None:
    """A scope that was served already, by another attempt, gets a session of its own."""
    app = doing(store="memory://", secret_key=KEY)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope: Scope = {
        "type": "http", "method": "GET", "path": "/do", "query_string": b"set=a:1",
        "headers": [], "scheme": "https",
    }  # fmt: skip
    for _ in range(2):
        await app(scope, receive, send)
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert ["set-cookie" in dict(_text(start)) for start in starts] == [True, True]


def _text(start: Message) -> list[tuple[str, str]]:
    return [(name.decode(), value.decode()) for name, value in start["headers"]]


async def test_headers_that_can_be_read_once() -> None:
    """A response's headers may be any iterable: none is lost."""

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        pairs = iter([(b"content-type", b"text/plain"), (b"x-mine", b"yes")])
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": b""})

    middleware = SessionMiddleware(bare, store="memory://", secret_key=KEY)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "scheme": "https"}
    await middleware(scope, cast("Receive", None), send)
    names = [name for name, _ in _text(sent[0])]
    assert names[:2] == ["content-type", "x-mine"]
    assert "set-cookie" in names


# -- clients that leave


def socket(handler: Callable[[WebSocket], Awaitable[None]], store: MemoryStore) -> Starlette:
    async def seed(request: Request) -> Response:
        request.session.update(user_id="ada", n=0)
        return JSONResponse({})

    async def show(request: Request) -> Response:
        return JSONResponse(dict(request.session))

    return app_of(
        WebSocketRoute("/ws", handler), Route("/seed", seed), Route("/show", show),
        store=store, secret_key=KEY,
    )  # fmt: skip


@pytest.mark.parametrize("what", ["change", "clear"])
def test_a_client_that_leaves_a_socket(what: str) -> None:
    """What a WebSocket's handler did holds, however the client leaves."""

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.receive_text()
            if what == "change":
                websocket.session["n"] = 1
            else:
                websocket.session.clear()
            await websocket.send_text("done")

    app = socket(handler, MemoryStore())
    with TestClient(app, base_url=BASE) as client:
        client.get("/seed")
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(WSS) as ws:
            ws.send_text("go")
            assert ws.receive_text() == "done"
            ws.close()
            ws.receive_text()
        expected = {"user_id": "ada", "n": 1} if what == "change" else {}
        assert client.get("/show").json() == expected


def test_a_failing_task_after_a_sign_out() -> None:
    """An exception after the response's start stores no data, and undoes no end."""

    async def failing(request: Request) -> Response:
        async def later() -> None:
            request.session.clear()
            raise RuntimeError("a bug")

        from starlette.background import BackgroundTask

        return JSONResponse({}, background=BackgroundTask(later))

    app = doing(Route("/failing", failing), store="memory://", secret_key=KEY)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        client.get("/do?set=user_id:ada")
        client.get("/failing")
        assert client.get("/do").json() == {}


def test_a_failing_request_after_a_sign_out() -> None:
    """What was left has no cookie to go on under: none begins, and the browser starts afresh."""
    store = MemoryStore()
    app = doing(store=store, secret_key=KEY)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        client.get("/do?set=user_id:ada&set=cart:1")
        assert client.get("/do?drop=user_id&raise=bug").status_code == 500
        assert len(store) == 1  # the tombstone
        client.get("/do?set=csrf:1")
        assert client.get("/do").json() == {"csrf": "1"}


@pytest.mark.parametrize("how", ["clear", "drop"])
@pytest.mark.parametrize(("error", "code"), [("conflict", 1013), ("unencodable", 1011)])
def test_a_failing_socket_after_a_sign_out(how: str, error: str, code: int) -> None:
    """An error of ours closes the socket, saying what it is, and undoes no end."""

    async def handler(websocket: WebSocket) -> None:
        session = get_session(websocket)
        await websocket.accept()
        await websocket.receive_text()
        if how == "clear":
            session.clear()
        else:
            del session["user_id"]
        if error == "conflict":
            raise SessionConflictError("somebody else has the lock")
        session["n"] = object()
        await session.save()

    with TestClient(socket(handler, MemoryStore()), base_url=BASE) as client:
        client.get("/seed")
        with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect(WSS) as ws:
            ws.send_text("go")
            ws.receive_text()
        assert caught.value.code == code
        assert client.get("/show").json() == {}


def test_errors_of_others_on_a_socket() -> None:
    """A socket that fails for another reason isn't told to try again."""
    from starlette.exceptions import HTTPException

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        raise HTTPException(403)

    app = socket(handler, MemoryStore())
    with TestClient(app, base_url=BASE) as client:
        client.get("/seed")
        with pytest.raises(Exception) as caught, client.websocket_connect(WSS) as ws:  # noqa: PT011 - Starlette's own
            ws.send_text("go")
            ws.receive_text()
        assert getattr(caught.value, "code", None) != 1013


def test_a_session_that_ended_under_a_socket() -> None:
    """The socket of an ended session closes with 1008: trying again is of no use."""
    store = MemoryStore()

    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        await get_session(websocket).refresh()

    app = socket(handler, store)
    with TestClient(app, base_url=BASE) as client:
        client.get("/seed")
        id = client.cookies["__Host-session"][:20]
        with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect(WSS) as ws:
            asyncio.run(store.end(id, bytes(33), 30_000))
            ws.send_text("go")
            ws.receive_text()
        assert caught.value.code == 1008


# -- configuration and clocks


def test_fresh_goes_by_the_managers_clock() -> None:
    """Step-up asks the same clock that the sign-in was timed with."""
    from fastapi import Depends, FastAPI

    clock = Clock()
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager_on(MemoryStore(clock=clock), clock=clock))

    @app.post("/in")
    async def enter(session: SessionDep) -> None:
        session["user_id"] = 1

    @app.get("/pay", dependencies=[Depends(fresh(within=300))])
    async def pay() -> None: ...

    with TestClient(app, base_url=BASE) as client:
        client.post("/in")
        clock.advance(299)
        assert client.get("/pay").status_code == 200
        clock.advance(2)
        assert client.get("/pay").status_code == 401
