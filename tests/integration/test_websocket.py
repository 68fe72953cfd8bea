"""WebSockets: a session that is read, saved and ended while a connection lasts."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from redis_sessions import SessionError, SessionGoneError, SessionMiddleware, get_session
from redis_sessions.fastapi import PrincipalDep, SessionDep
from tests.support.apps import BASE, app_of, serve, token_in
from tests.support.asgi import KEY

# A Secure cookie doesn't go over ws://, to which the client resolves a mere path.
SOCKET = "wss://testserver/ws"


async def _show(request: Request) -> JSONResponse:
    return JSONResponse(request.session)


async def _write(request: Request) -> JSONResponse:
    request.session.update(request.query_params)
    return JSONResponse("done")


async def _leave(request: Request) -> JSONResponse:
    request.session.clear()
    return JSONResponse("bye")


def with_socket(endpoint: Any, **options: Any) -> Starlette:
    return app_of(
        Route("/show", _show),
        Route("/write", _write),
        Route("/leave", _leave),
        WebSocketRoute("/ws", endpoint),
        **options,
    )


async def test_a_socket_reads_and_saves(redis_url: str, prefix: str) -> None:
    """Over uvicorn: reads the session, saves, refreshes, and hears that it ended."""

    async def endpoint(socket: WebSocket) -> None:
        session = get_session(socket)
        await socket.accept()
        async for command in socket.iter_text():
            match command:
                case "show":
                    pass
                case "save":
                    session["from socket"] = 1
                    await session.save()
                case "refresh":
                    try:
                        await session.refresh()
                    except SessionGoneError:
                        await socket.send_json("gone")
                        continue
                case _:
                    session["at the end"] = 2
                    break
            await socket.send_json(session)
        await socket.close()

    options: dict[str, Any] = {"store": redis_url, "prefix": prefix, "secret_key": KEY}
    app = with_socket(endpoint, https_only=False, end_sockets=False, **options)
    with serve(app) as address:
        async with httpx2.AsyncClient(base_url=f"http://{address}") as browser:
            token = token_in(await browser.get("/write?user_id=alice"), "sid")
            headers = {"Cookie": f"sid={token}"}
            async with connect(f"ws://{address}/ws", additional_headers=headers) as socket:

                async def say(command: str) -> str:
                    await socket.send(command)
                    return str(await socket.recv())

                assert await say("show") == '{"user_id":"alice"}'
                assert await say("save") == '{"user_id":"alice","from socket":1}'
                assert (await browser.get("/show")).json() == {"user_id": "alice", "from socket": 1}
                await browser.get("/write?later=3")
                assert '"later":"3"' in await say("refresh")
                await socket.send("end")
                await socket.wait_closed()
            shown = (await browser.get("/show")).json()
            assert shown == {"user_id": "alice", "from socket": 1, "later": "3", "at the end": 2}

            async with connect(f"ws://{address}/ws", additional_headers=headers) as socket:
                assert "alice" in await say("show")
                await browser.get("/leave")
                assert await say("refresh") == '"gone"'


async def test_accepting_carries_the_cookie(redis_url: str, prefix: str) -> None:
    """What a socket's session needs before accept() goes out with the handshake."""

    async def endpoint(socket: WebSocket) -> None:
        socket.session["user_id"] = "alice"
        await socket.accept()
        await socket.close()

    app = with_socket(endpoint, store=redis_url, prefix=prefix, secret_key=KEY, https_only=False)
    with serve(app) as address:
        async with connect(f"ws://{address}/ws") as socket:
            assert socket.response is not None
            cookie = socket.response.headers["Set-Cookie"]
        async with httpx2.AsyncClient(base_url=f"http://{address}") as client:
            shown = await client.get("/show", headers={"Cookie": cookie.partition(";")[0]})
            assert shown.json() == {"user_id": "alice"}


def test_a_late_sign_in_on_a_socket_is_an_error(redis_url: str, prefix: str) -> None:
    """After accept() no token can be sent: save() says so, and nothing is stored."""

    async def endpoint(socket: WebSocket) -> None:
        session = get_session(socket)
        await socket.accept()
        session["user_id"] = "alice"
        with pytest.raises(SessionError, match="the response has started"):
            await session.save()
        session.pop("user_id")
        await socket.send_text("refused")
        await socket.close()

    app = with_socket(endpoint, store=redis_url, prefix=prefix, secret_key=KEY)
    with TestClient(app, base_url=BASE) as browser:
        browser.get("/write?a=1")
        with browser.websocket_connect(SOCKET) as socket:
            assert socket.receive_text() == "refused"
        assert browser.get("/show").json() == {"a": "1"}


def test_saving_where_the_session_ended_says_so(redis_url: str, prefix: str) -> None:
    """save() on a session that was signed out elsewhere: SessionGoneError, nothing revived."""

    async def endpoint(socket: WebSocket) -> None:
        session = get_session(socket)
        await socket.accept()
        await socket.receive_text()
        session["b"] = 2
        try:
            await session.save()
        except SessionGoneError:
            await socket.send_text("gone")
        await socket.close()

    options: dict[str, Any] = {"store": redis_url, "prefix": prefix, "secret_key": KEY}
    app = with_socket(endpoint, end_sockets=False, **options)
    with TestClient(app, base_url=BASE) as browser:
        browser.get("/write?user_id=alice")
        with browser.websocket_connect(SOCKET) as socket:
            browser.get("/leave")
            socket.send_text("go on")
            assert socket.receive_text() == "gone"
        assert browser.get("/show").json() == {}


async def test_a_denial_carries_the_cookie(redis_url: str, prefix: str) -> None:
    """A denial response is a response: a sign-out before it expires the cookie."""

    async def endpoint(socket: WebSocket) -> None:
        socket.session.clear()
        await socket.send_denial_response(JSONResponse("no", 403))

    app = with_socket(endpoint, store=redis_url, prefix=prefix, secret_key=KEY, https_only=False)
    with serve(app) as address:
        async with httpx2.AsyncClient(base_url=f"http://{address}") as browser:
            token = token_in(await browser.get("/write?user_id=alice"), "sid")
            headers = {"Cookie": f"sid={token}"}
            with pytest.raises(InvalidStatus) as denied:
                await connect(f"ws://{address}/ws", additional_headers=headers)
            assert denied.value.response.status_code == 403
            assert "sid=null" in denied.value.response.headers["Set-Cookie"]
            assert (await browser.get("/show")).json() == {}


async def test_a_close_before_accept_still_signs_out(redis_url: str, prefix: str) -> None:
    """A plain close carries no cookie, but an end holds."""

    async def endpoint(socket: WebSocket) -> None:
        socket.session.clear()
        await socket.close()

    app = with_socket(endpoint, store=redis_url, prefix=prefix, secret_key=KEY, https_only=False)
    with serve(app) as address:
        async with httpx2.AsyncClient(base_url=f"http://{address}") as browser:
            token = token_in(await browser.get("/write?user_id=alice"), "sid")
            headers = {"Cookie": f"sid={token}"}
            with pytest.raises(InvalidStatus):
                await connect(f"ws://{address}/ws", additional_headers=headers)
            assert (await browser.get("/show")).json() == {}


async def test_a_client_that_goes_away_leaves_what_was_written(redis_url: str, prefix: str) -> None:
    """A disconnect is no failure: what the handler wrote is committed at its end."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        async for _ in socket.iter_text():
            pass
        socket.session["last words"] = 1

    inner = with_socket(endpoint, store=redis_url, prefix=prefix, secret_key=KEY, https_only=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)
        if scope["type"] == "websocket":
            loop.call_soon_threadsafe(ended.set)

    with serve(app) as address:
        async with httpx2.AsyncClient(base_url=f"http://{address}") as browser:
            token = token_in(await browser.get("/write?a=1"), "sid")
            headers = {"Cookie": f"sid={token}"}
            async with connect(f"ws://{address}/ws", additional_headers=headers):
                pass
            async with asyncio.timeout(20):
                await ended.wait()
            assert (await browser.get("/show")).json() == {"a": "1", "last words": 1}


def test_fastapi_dependencies_on_a_socket(redis_url: str, prefix: str) -> None:
    """SessionDep and PrincipalDep work on WebSockets, also with lazy=True; 401 is a denial."""
    app = FastAPI()

    @app.post("/sign-in")
    async def sign_in(session: SessionDep) -> None:
        session["user_id"] = "alice"

    @app.websocket("/ws")
    async def endpoint(socket: WebSocket, session: SessionDep, user: PrincipalDep) -> None:
        await socket.accept()
        session["seen"] = user
        await session.save()
        await socket.send_json(session)
        await socket.close()

    app.add_middleware(SessionMiddleware, store=redis_url, prefix=prefix, secret_key=KEY, lazy=True)
    with TestClient(app, base_url=BASE) as browser:
        with pytest.raises(WebSocketDenialResponse) as denied, browser.websocket_connect(SOCKET):
            pass
        assert denied.value.status_code == 401
        assert denied.value.headers["www-authenticate"] == "Session"
        browser.post("/sign-in")
        with browser.websocket_connect(SOCKET) as socket:
            assert socket.receive_json() == {"user_id": "alice", "seen": "alice"}
