"""Applications that fail, or use ASGI in an unusual way: what becomes of their session."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from redis_sessions import (
    MemoryStore,
    SessionMiddleware,
    get_session,
)
from tests.support.apps import BASE, doing
from tests.support.asgi import KEY, ask, scope_of


def test_error_pages_see_the_session() -> None:
    """A handler of 500s, which runs outside the middleware, reads who was signed in."""

    async def fail(request: Request) -> Response:
        raise RuntimeError("a bug")

    async def page(request: Request, exc: Exception) -> Response:
        return PlainTextResponse(f"sorry, {request.session['set']} {get_session(request).id}", 500)

    app = Starlette(
        routes=[*doing(store="memory://", secret_key=KEY).routes, Route("/fail", fail)],
        middleware=[Middleware(SessionMiddleware, store="memory://", secret_key=KEY)],
        exception_handlers={Exception: page},
    )
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        client.get("/do?set=set:Ada")
        id = client.cookies["__Host-session"][:20]
        assert client.get("/fail").text == f"sorry, Ada {id}"


async def test_one_scope_served_twice() -> None:
    """A scope that was served already, by another attempt, gets a session of its own."""
    app = doing(store="memory://", secret_key=KEY)
    scope = scope_of("/do?set=a:1")

    async def again(_: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    replies = [await ask(again) for _ in range(2)]
    assert [len(reply.cookies) for reply in replies] == [1, 1]


async def test_headers_that_can_be_read_once() -> None:
    """A response's headers may be any iterable: none is lost."""

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["a"] = 1
        pairs = iter([(b"content-type", b"text/plain"), (b"x-mine", b"yes")])
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": b""})

    reply = await ask(SessionMiddleware(bare, store="memory://", secret_key=KEY))
    names = [name for name, _ in reply.checked().headers]
    assert names[:2] == [b"content-type", b"x-mine"]
    assert b"set-cookie" in names


def test_a_failing_task_after_a_sign_out() -> None:
    """An exception after the response's start stores no data, and undoes no end."""

    async def failing(request: Request) -> Response:
        async def later() -> None:
            request.session.clear()
            raise RuntimeError("a bug")

        from starlette.background import BackgroundTask

        return JSONResponse({}, background=BackgroundTask(later))

    app = doing(Route("/failing", failing), store="memory://", secret_key=KEY)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        client.get("/do?set=user_id:ada")
        client.get("/failing")
        assert client.get("/do").json() == {}


def test_a_failing_request_after_a_sign_out() -> None:
    """What was left has no cookie to go on under: none begins, and the browser starts afresh."""
    store = MemoryStore()
    app = doing(store=store, secret_key=KEY)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        client.get("/do?set=user_id:ada&set=cart:1")
        assert client.get("/do?drop=user_id&raise=bug").status_code == 500
        assert len(store) == 1  # the tombstone
        client.get("/do?set=csrf:1")
        assert client.get("/do").json() == {"csrf": "1"}
