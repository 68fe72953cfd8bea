"""Changes after the response: of sockets, streams and background tasks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from redis_sessions import Session, SessionGoneError, SessionManager, get_session
from redis_sessions.lifecycle.manager import backend_of
from tests.support.apps import BASE, Events, client_of, doing, signed_in, token_in
from tests.support.asgi import KEY

SOCKET: Final = "wss://testserver/ws"


# -- sockets


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
    """Ended, switched or rotated while a socket stays open: its late change goes nowhere."""
    events = Events()

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()
        socket.session["late"] = 1
        await socket.close()

    options: dict[str, Any] = {"store": redis_url, "prefix": prefix, "on_event": events}
    app = Talking(endpoint, secret_key=KEY, end_sockets=False, **options)
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


# -- streams and background tasks


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


@pytest.mark.everywhere
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


@pytest.mark.everywhere
async def test_a_late_change_after_a_revocation(manager: SessionManager) -> None:
    """A background task of a session that was revoked meanwhile: dropped, and nothing revived."""
    elsewhere = SessionManager(
        manager.store, backend_of(manager).keyring
    )  # not the request's own doing

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


@pytest.mark.everywhere
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
