"""WebSockets whose client leaves or whose handler fails: what is stored, and how each closes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from redis_sessions import (
    MemoryStore,
    SessionConflictError,
    get_session,
)
from tests.support.apps import BASE, app_of
from tests.support.asgi import KEY

WSS = "wss://testserver/ws"


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
