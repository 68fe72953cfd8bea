"""Applications to be asked over HTTP: by a client in this event loop, or through uvicorn."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from redis_sessions import SessionManager, SessionMiddleware, get_session
from redis_sessions.events import Event
from redis_sessions.session.keyring import Keyring
from redis_sessions.stores import RedisStore
from redis_sessions.stores.protocols import Store
from tests.support.asgi import COOKIE, KEY

BASE: Final = "https://testserver"


def manager_on(
    store: str | Store, prefix: str = "session:", *, timeout: float = 2.0, **policy: Any
) -> SessionManager:
    """A manager on a store, or on a Redis under a prefix of its own."""
    if isinstance(store, str):
        store = RedisStore(store, prefix=prefix, timeout=timeout)
    return SessionManager(store, Keyring(KEY), **policy)


def app_of(*routes: BaseRoute, **options: Any) -> Starlette:
    """A Starlette application with our middleware."""
    return Starlette(routes=list(routes), middleware=[Middleware(SessionMiddleware, **options)])


# -- one application for many tests: each request says what it does to its session


async def _do(request: Request) -> Response:
    session = get_session(request)
    status = int(request.query_params.get("status", "200"))
    for step, value in request.query_params.multi_items():
        match step:
            case "set":
                key, _, text = value.partition(":")
                session[key] = text
            case "drop":
                session.pop(value, None)
            case "clear":
                session.clear()
            case "sign_out":
                session.sign_out()
            case "rotate":
                session.rotate()
            case "authenticated":
                session.authenticated()
            case "expire_in":
                session.expire_in(int(value))
            case "raise":
                raise RuntimeError(value)
            case _:
                pass
    return JSONResponse(dict(session), status)


async def _plain(request: Request) -> Response:
    return JSONResponse("untouched")


def doing(*routes: BaseRoute, **options: Any) -> Starlette:
    """`/do?set=key:value&drop=key&clear=&rotate=&status=500` does that; `/plain` nothing."""
    return app_of(
        Route("/do", _do, methods=["GET", "POST"]), Route("/plain", _plain), *routes, **options
    )


# -- clients


@asynccontextmanager
async def client_of(
    app: ASGIApp, cookie: str | None = None, *, raises: bool = True, **options: Any
) -> AsyncGenerator[httpx2.AsyncClient, None]:
    """A browser of an application in this event loop; `cookie` is what it begins with."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=raises)
    async with httpx2.AsyncClient(transport=transport, base_url=BASE, **options) as client:
        if cookie is not None:
            client.cookies.set(COOKIE, cookie, domain="testserver.local", path="/")
        yield client


def token_in(response: httpx2.Response, name: str = COOKIE) -> str | None:
    """The token that a response sets; "null" where it expires the cookie; None: neither."""
    for header in response.headers.get_list("set-cookie"):
        found, _, rest = header.partition("=")
        if found == name:
            return rest.partition(";")[0]
    return None


async def signed_in(client: httpx2.AsyncClient, user: str = "alice") -> str:
    """Sign in at `/do`; the token."""
    token = token_in(await client.get(f"/do?set=user_id:{user}"))
    assert token is not None
    return token


class Events(list[Event]):
    """An `on_event` that keeps what it is told."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def named(self, name: str) -> list[str | None]:
        return [event.reason for event in self if event.name == name]


# -- a real HTTP server


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    def run_in_thread(self, listener: socket.socket) -> None:
        with suppress(SystemExit):  # of a failed start
            self.run([listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.is_up.set()


@contextmanager
def serve(app: ASGIApp, **config: Any) -> Generator[str, None, None]:
    """A real uvicorn in a thread; its address, as `127.0.0.1:port`.

    RuntimeError if it doesn't start. What it logs goes to the root logger.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings: dict[str, Any] = {
            "log_config": None,
            "log_level": logging.INFO,
            "access_log": False,
            **config,
        }
        server = _Uvicorn(uvicorn.Config(app, **settings))
        thread = threading.Thread(target=server.run_in_thread, args=[listener])
        thread.start()
        try:
            assert server.is_up.wait(20)
            if not server.started:
                raise RuntimeError("uvicorn didn't start")
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
