"""Ways in which a server goes away, and an application that has to go on without it."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

import signal
from typing import Any

import httpx2
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from redis_sessions import StoreError
from redis_sessions.fastapi import PrincipalDep, SessionDep
from tests.support.apps import doing
from tests.support.servers import Server

TIMEOUT = 0.2


def hang(server: Server) -> None:
    server.process.send_signal(signal.SIGSTOP)


def resume(server: Server) -> None:
    server.process.send_signal(signal.SIGCONT)


async def _plain(request: Request) -> JSONResponse:
    return JSONResponse("untouched")


async def _show(request: Request) -> JSONResponse:
    return JSONResponse(request.session)


async def _ignores_errors(request: Request) -> JSONResponse:
    try:
        request.session.get("a")
    except StoreError:
        return JSONResponse("managed without")
    return JSONResponse("managed with")


def starlette_app() -> Starlette:
    return Starlette(routes=[Route("/plain", _plain), Route("/show", _show)])


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.get("/plain")
    def plain() -> str:
        return "untouched"

    @app.get("/show")
    async def show(session: SessionDep) -> dict[str, Any]:
        return session

    @app.get("/me")
    async def me(user: PrincipalDep) -> str:
        return user

    return app


def everything(**options: Any) -> Starlette:
    """An application with a Starlette and a FastAPI application mounted."""
    return doing(
        Mount("/starlette", starlette_app()),
        Mount("/fastapi", fastapi_app()),
        Route("/ignores-errors", _ignores_errors),
        **options,
    )


def assert_unavailable(response: httpx2.Response) -> None:
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.headers.get_list("cache-control") == ["no-store"]
    assert "set-cookie" not in response.headers
