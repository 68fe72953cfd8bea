"""WebSockets while Redis is away: denied, closed, or served all the same."""

from __future__ import annotations

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from redis_sessions import SessionManager, get_session
from tests.support.apps import doing, serve, token_in
from tests.support.asgi import ask, cookie
from tests.support.servers import Server


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
    reply = await ask(app, [(b"cookie", cookie("x" * 64))], path="/early", kind="websocket")
    (closed,) = reply.checked().messages
    assert (closed["type"], closed["code"]) == ("websocket.close", 1013)
