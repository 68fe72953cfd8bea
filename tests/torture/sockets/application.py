"""What one uvicorn process serves: `python -m tests.torture.sockets.application '{"url": …}'`.

It prints its port, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from redis_sessions import (
    Keyring,
    RedisStore,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from tests.support.asgi import KEY

COOKIE: Final = "sid"


def application(manager: SessionManager) -> Starlette:
    """Requests that begin, read, change and end sessions, and connections that stay open."""

    async def sign_in(request: Request) -> Response:
        session = get_session(request)
        session["user_id"] = request.path_params["user"]
        return JSONResponse(session.id)

    async def sign_out(request: Request) -> Response:
        get_session(request).sign_out()
        return JSONResponse(None)

    async def revoke_all(request: Request) -> Response:
        return JSONResponse(await manager.revoke_all(request.path_params["user"]))

    async def change(request: Request) -> Response:
        get_session(request)[request.path_params["key"]] = request.path_params["value"]
        return JSONResponse(None)

    async def read(request: Request) -> Response:
        return JSONResponse(dict(get_session(request)))

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("open")
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    async def tab(websocket: WebSocket) -> None:
        session = get_session(websocket)
        await websocket.accept()

        async def show() -> None:
            await websocket.send_json(dict(session))
            async for keys in session.changes():
                await websocket.send_json({key: session.get(key) for key in keys})

        async with asyncio.TaskGroup() as group:
            group.create_task(show())
            async for _ in websocket.iter_text():  # until the tab is closed, or the session ends
                pass

    async def stream(_: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            yield "data: open\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(events(), media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/sign-in/{user}", sign_in, methods=["POST"]),
            Route("/sign-out", sign_out, methods=["POST"]),
            Route("/revoke-all/{user}", revoke_all, methods=["POST"]),
            Route("/change/{key}/{value:int}", change, methods=["POST"]),
            Route("/read", read),
            Route("/stream", stream),
            WebSocketRoute("/socket", echo),
            WebSocketRoute("/tab", tab),
        ],
        middleware=[
            Middleware(SessionMiddleware, manager=manager, session_cookie=COOKIE, https_only=False)
        ],
    )


def main() -> None:
    """Serve until the parent closes the standard input, or is gone."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    manager = SessionManager(RedisStore(**options), Keyring(KEY))
    config = uvicorn.Config(
        application(manager),
        log_level="warning",
        access_log=False,
        ws_ping_interval=None,
        timeout_keep_alive=600,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)

    def wait_for_the_end() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(listener.getsockname()[1], flush=True)
        server.run([listener])


if __name__ == "__main__":
    main()
