"""Starlette's own session middleware in the same application, inside ours or around it."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from redis_sessions import SessionMiddleware
from tests.interop.serving import HTTPS, SECRET, Options, Records, Site

THEIRS = Middleware(StarlettesMiddleware, secret_key=SECRET)


async def write(request: Request) -> Response:
    request.session["path"] = request.url.path
    return Response()


async def show(request: Request) -> Response:
    return JSONResponse(request.session)


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    websocket.session["socket"] = "was here"
    await websocket.close()


def routes() -> list[Route | WebSocketRoute]:
    return [
        Route("/write", write, methods=["POST"]),
        Route("/show", show),
        WebSocketRoute("/socket", socket),
    ]


def application(outer: Middleware, inner: Middleware) -> Starlette:
    mounted = Mount("/inner", routes=routes(), middleware=[inner])
    return Starlette(routes=[*routes(), mounted], middleware=[outer])


@pytest.mark.parametrize("ours_outside", [True, False], ids=["ours outside", "ours inside"])
@pytest.mark.parametrize("first", ["", "/inner"], ids=["outer first", "inner first"])
def test_both(
    options: Options, records: Records, site: Site, ours_outside: bool, first: str
) -> None:
    """Each has its own data and cookie, whichever is outside."""
    ours = Middleware(SessionMiddleware, **options(https_only=site.https_only))
    app = application(ours, THEIRS) if ours_outside else application(THEIRS, ours)
    with TestClient(app, base_url=site.url) as client:
        for prefix in (first, "/inner" if first == "" else ""):
            client.post(f"{prefix}/write")
        assert client.get("/show").json() == {"path": "/write"}
        assert client.get("/inner/show").json() == {"path": "/inner/write"}
        assert set(client.cookies) == {site.cookie, "session"}
        in_ours = "/write" if ours_outside else "/inner/write"
        assert records.read(client.cookies[site.cookie]) == {"path": in_ours}


def test_theirs_around_ours(options: Options) -> None:
    """In one stack, theirs outside, handlers have ours, and nothing goes into their cookie."""
    ours = Middleware(SessionMiddleware, **options())
    app = Starlette(routes=routes(), middleware=[THEIRS, ours])
    with TestClient(app, base_url=HTTPS.url) as client:
        client.post("/write")
        assert client.get("/show").json() == {"path": "/write"}
        assert set(client.cookies) == {HTTPS.cookie}


def test_ours_around_theirs(options: Options, records: Records) -> None:
    """In one stack, theirs inside, handlers have theirs, and nothing goes into Redis."""
    ours = Middleware(SessionMiddleware, **options())
    app = Starlette(routes=routes(), middleware=[ours, THEIRS])
    with TestClient(app, base_url=HTTPS.url) as client:
        client.post("/write")
        assert client.get("/show").json() == {"path": "/write"}
        assert set(client.cookies) == {"session"}
        assert records.ids() == set()


def test_websocket_inside_theirs(options: Options, records: Records) -> None:
    """A WebSocket under both has the inner session, ours, and it is stored."""
    ours = Middleware(SessionMiddleware, **options())
    with TestClient(application(THEIRS, ours), base_url=HTTPS.url) as client:
        client.post("/inner/write")
        with client.websocket_connect(f"{HTTPS.socket_url}/inner/socket"):
            pass
        assert records.read(client.cookies[HTTPS.cookie]) == {
            "path": "/inner/write",
            "socket": "was here",
        }
