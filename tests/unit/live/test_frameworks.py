"""With FastAPI's dependencies, and with Starlette's test client, which has a loop for each call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from redis_sessions import MemoryStore, SessionMiddleware, get_session
from redis_sessions.fastapi import PrincipalDep, SessionDep
from tests.support.apps import BASE
from tests.unit.setting import KEY


@pytest.fixture(params=["lazy", "eager"])
def app(request: pytest.FixtureRequest) -> FastAPI:
    app = FastAPI()
    app.add_middleware(
        SessionMiddleware, store=MemoryStore(), secret_key=KEY, lazy=request.param == "lazy"
    )

    @app.post("/in")
    async def sign_in(session: SessionDep) -> None:
        session.sign_in(1)

    @app.post("/out")
    async def sign_out(session: SessionDep) -> None:
        session.clear()

    @app.post("/cart/{item}")
    async def add(session: SessionDep, item: str) -> None:
        session["cart"] = [*session.get("cart", []), item]

    @app.websocket("/echo")
    async def echo(socket: WebSocket, user: PrincipalDep) -> None:
        await socket.accept()
        await socket.send_text(user)
        async for text in socket.iter_text():
            await socket.send_text(text)

    @app.websocket("/unwatched")
    async def unwatched(socket: WebSocket, session: SessionDep) -> None:
        assert get_session(socket, watch=False) is session
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)

    @app.websocket("/cart")
    async def cart(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        await socket.send_json(session.get("cart"))
        async for keys in session.changes():
            await socket.send_json({key: session[key] for key in keys})

    @app.get("/events")
    async def events(session: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            session.clear()
            await session.save()
            async for _ in session.changes():
                pass
            yield "data: 2\n\n"

        return StreamingResponse(body(), media_type="text/event-stream")

    return app


@pytest.fixture(params=["one loop", "a loop for each call"])
def browser(app: FastAPI, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    browser = TestClient(app, base_url=BASE)
    if request.param == "one loop":
        with browser:
            yield browser
    else:
        yield browser


def test_a_socket(browser: TestClient) -> None:
    """It is closed when its user signs out."""
    browser.post("/in")
    with browser.websocket_connect("wss://testserver/echo") as socket:
        assert socket.receive_text() == "1"
        browser.post("/cart/apple")
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
        browser.post("/out")
        closed = socket.receive()
    assert (closed["code"], closed["reason"]) == (1008, "the session has ended")


def test_a_socket_that_is_not_watched(browser: TestClient) -> None:
    """It stays open."""
    browser.post("/in")
    with browser.websocket_connect("wss://testserver/unwatched") as socket:
        browser.post("/out")
        socket.send_text("hello")
        assert socket.receive_text() == "hello"


def test_a_cart_in_two_tabs(browser: TestClient) -> None:
    """What one tab puts into it arrives in the other."""
    browser.post("/in")
    with browser.websocket_connect("wss://testserver/cart") as tab:
        assert tab.receive_json() is None
        browser.post("/cart/apple")
        assert tab.receive_json() == {"cart": ["apple"]}
        browser.post("/cart/pear")
        assert tab.receive_json() == {"cart": ["apple", "pear"]}
        browser.post("/out")
        assert tab.receive()["code"] == 1008


def test_a_stream_that_ends_its_own_session(browser: TestClient) -> None:
    """It goes on, and there is nothing more to wait for."""
    browser.post("/in")
    assert browser.get("/events").text == "data: 1\n\ndata: 2\n\n"
