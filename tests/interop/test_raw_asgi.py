"""What reads `scope["session"]` directly, as FastHTML does, and other frameworks' ways to ours."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from redis_sessions import SessionMiddleware
from tests.interop.serving import HTTPS, Options, Records, Site


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """No framework: each request and socket counts in the session, and answers with it."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    session = scope["session"]
    assert isinstance(session, dict)
    if scope["path"] == "/clear":
        session.clear()
    elif scope["path"] == "/read":
        session.get("count")
    elif scope["path"] == "/marked":
        scope["session"].mark_accessed()
    else:
        session["count"] = session.get("count", 0) + 1
    body = json.dumps(session)
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})
    else:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": body})
        await send({"type": "websocket.close"})


def test_http(options: Options, records: Records, site: Site) -> None:
    """A pure ASGI application's session lasts, and ends with clear()."""
    app = SessionMiddleware(application, **options(https_only=site.https_only))
    with TestClient(app, base_url=site.url) as client:
        assert [client.get("/").json() for _ in range(2)] == [{"count": 1}, {"count": 2}]
        assert records.read(client.cookies[site.cookie]) == {"count": 2}
        assert client.get("/clear").json() == {}
        assert site.cookie not in client.cookies
        assert records.ids() == set()


def test_websocket(options: Options, records: Records, site: Site) -> None:
    """A WebSocket begins a session with its accept, and shares it with requests."""
    app = SessionMiddleware(application, **options(https_only=site.https_only))
    with TestClient(app, base_url=site.url) as client:
        for count in (1, 2):
            with client.websocket_connect(f"{site.socket_url}/") as connection:
                assert connection.receive_json() == {"count": count}
            if count == 1:
                # The TestClient doesn't keep a handshake's cookies.
                sent: Any = connection.extra_headers  # annotated as None
                (cookie,) = [value for name, value in sent if name == b"set-cookie"]
                token = cookie.decode().partition(";")[0].partition("=")[2]
                client.cookies.set(site.cookie, token, domain="testserver.local", path="/")
        assert client.get("/").json() == {"count": 3}
        assert records.read(client.cookies[site.cookie]) == {"count": 3}


def test_vary(options: Options) -> None:
    """A read from the scope can't be seen: who has a session gets `Vary`, others if marked."""
    with TestClient(SessionMiddleware(application, **options()), base_url=HTTPS.url) as client:
        assert "vary" not in client.get("/read").headers
        assert client.get("/marked").headers["vary"] == "Cookie"
        client.get("/")
        assert client.get("/read").headers["vary"] == "Cookie"


def test_without_lifespan(options: Options) -> None:
    """Where no lifespan arrives, the first request connects."""
    client = TestClient(SessionMiddleware(application, **options()), base_url=HTTPS.url)
    assert [client.get("/").json()["count"] for _ in range(2)] == [1, 2]


async def shout(request: Request) -> Response:
    request.scope["session"]["said"] = "hello"
    return JSONResponse(request.scope["session"])


@pytest.mark.parametrize("https", [True, False])
def test_as_fasthtml_constructs_it(options: Options, records: Records, https: bool) -> None:
    """FastHTML's `sess_cls=` gives these arguments by name; `partial` adds the store."""
    ours = options()
    key = ours.pop("secret_key")
    session_class: Any = partial(SessionMiddleware, **ours)
    middleware = Middleware(
        session_class,
        secret_key=key,
        session_cookie="session_",
        max_age=365 * 24 * 3600,
        path="/",
        same_site="lax",
        https_only=https,
        domain=None,
    )
    app = Starlette(routes=[Route("/", shout)], middleware=[middleware])
    with TestClient(app, base_url="https://testserver" if https else "http://testserver") as client:
        assert client.get("/").json() == {"said": "hello"}
        assert records.read(client.cookies["session_"]) == {"said": "hello"}
