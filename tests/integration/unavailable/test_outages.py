"""Redis goes away or hangs: who is served all the same, and what the others are told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from redis_sessions import (
    Event,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
    get_session,
)
from redis_sessions.testing import store_session
from tests.integration.unavailable.outages import (
    TIMEOUT,
    assert_unavailable,
    everything,
    fastapi_app,
    hang,
    resume,
)
from tests.support.apps import app_of, client_of, doing, manager_on, signed_in
from tests.support.asgi import COOKIE
from tests.support.servers import Server

AWAY: list[tuple[Callable[[Server], None], Callable[[Server], object]]] = [
    (Server.kill, Server.start),
    (hang, resume),
]
away = pytest.mark.parametrize(("go", "come_back"), AWAY, ids=["gone", "hanging"])
PATHS = ["/do", "/do?set=a:1", "/do?clear=", "/starlette/show", "/fastapi/show", "/fastapi/me"]


@pytest.mark.standard(37, "ASVS 16.5.1", "ASVS 16.5.2", "ASVS 16.5.3")
@away
@pytest.mark.parametrize("lazy", [False, True])
async def test_while_redis_is_away(
    private: Server,
    manager: SessionManager,
    go: Callable[[Server], None],
    come_back: Callable[[Server], object],
    lazy: bool,
) -> None:
    """Who doesn't touch the session is served, the others get 503; then all is well again."""
    async with client_of(everything(manager=manager)) as browser:
        token = await signed_in(browser)
    async with client_of(everything(manager=manager, lazy=lazy), token) as browser:
        go(private)
        for path in ("/plain", "/starlette/plain", "/fastapi/plain"):
            response = await browser.get(path)
            assert response.json() == "untouched"
            assert "set-cookie" not in response.headers
        for path in PATHS[3 if lazy else 0 :]:
            if lazy and not path.startswith("/fastapi"):
                continue  # there it is a mistake of the application's
            assert_unavailable(await browser.get(path))
        if not lazy:
            assert (await browser.get("/ignores-errors")).json() == "managed without"
        come_back(private)
        response = await browser.get("/fastapi/show")
        assert response.status_code == 200
        # A server that was killed has forgotten the session; one that hung hasn't.
        assert response.json() == ({"user_id": "alice"} if come_back is resume else {})
        assert browser.cookies[COOKIE] == token


async def test_fastapi_tells_it_as_json(private: Server, manager: SessionManager) -> None:
    """The 503 has the form of FastAPI's errors, in an application and in a mounted one."""
    app = fastapi_app()
    app.add_middleware(SessionMiddleware, manager=manager)
    private.kill()
    for application, path in ((app, "/show"), (everything(manager=manager), "/fastapi/show")):
        async with client_of(application, "x" * 64) as browser:
            response = await browser.get(path)
            assert_unavailable(response)
            assert response.json() == {"detail": "The session store is unavailable"}


async def test_without_a_token_nothing_is_missed(private: Server, manager: SessionManager) -> None:
    """A visitor without a cookie reads an empty session; only what has to be stored is a 503."""
    private.kill()
    async with client_of(everything(manager=manager)) as browser:
        assert (await browser.get("/do")).json() == {}
        assert_unavailable(await browser.get("/do?set=a:1"))
        assert_unavailable(await browser.get("/do?set=user_id:alice"))


@pytest.mark.parametrize(
    "what", ["set=a:1", "set=user_id:bob", "clear=", "drop=user_id", "rotate="]
)
@pytest.mark.parametrize("where", ["", "/starlette", "/fastapi"])
async def test_redis_goes_away_within_a_request(
    private: Server, manager: SessionManager, what: str, where: str
) -> None:
    """A commit that fails is a 503 in place of the response, and the cookie stays untouched."""

    async def loses(request: Request) -> JSONResponse:
        session = get_session(request)
        for step, value in request.query_params.multi_items():
            if step == "set":
                key, _, text = value.partition(":")
                session[key] = text
            elif step == "clear":
                session.clear()
            elif step == "drop":
                session.pop(value)
            elif step == "rotate":
                session.rotate()
        private.kill()
        return JSONResponse("done", headers={"Cache-Control": "public"})

    sub: Starlette = FastAPI() if where == "/fastapi" else Starlette()
    sub.add_route("/loses", loses)
    routes = [Mount(where, sub)] if where else [Route("/loses", loses)]
    async with client_of(doing(*routes, manager=manager)) as browser:
        await signed_in(browser)
        assert_unavailable(await browser.get(f"{where}/loses?{what}"))


async def test_a_touch_that_fails_is_no_error(private: Server) -> None:
    """A read whose touch can't be stored is answered as usual."""
    now = [time.time()]
    manager = manager_on(private.url, timeout=TIMEOUT, clock=lambda: now[0])

    async def loses(request: Request) -> JSONResponse:
        private.kill()
        return JSONResponse(request.session)

    async with client_of(doing(Route("/loses", loses), manager=manager)) as browser:
        await signed_in(browser)
        now[0] += 1000
        response = await browser.get("/loses")
        assert response.status_code == 200
        assert response.json() == {"user_id": "alice"}


async def test_redis_goes_away_after_the_response(private: Server, manager: SessionManager) -> None:
    """What a background task wrote can't be stored: the response is whole, the error raised."""

    def task(request: Request) -> None:
        private.kill()
        request.session["late"] = 1

    async def late(request: Request) -> JSONResponse:
        return JSONResponse("started", background=BackgroundTask(task, request))

    async with client_of(doing(Route("/late", late), manager=manager)) as browser:
        await signed_in(browser)
        with pytest.raises(StoreUnavailableError):
            await browser.get("/late")


async def test_anonymous_for_the_time_being(private: Server, manager: SessionManager) -> None:
    """on_unavailable="anonymous": an empty session, fine to read; to write it is the 503."""
    async with client_of(everything(manager=manager)) as browser:
        token = await signed_in(browser)
    private.kill()
    for lazy in (False, True):
        app = everything(manager=manager, on_unavailable="anonymous", lazy=lazy)
        async with client_of(app, token) as browser:
            for path in ["/fastapi/show"] if lazy else ["/do", "/starlette/show", "/fastapi/show"]:
                response = await browser.get(path)
                assert response.json() == {}
                assert response.headers["cache-control"] == "no-store"
                assert "set-cookie" not in response.headers
            assert (await browser.get("/fastapi/me")).status_code == 401
            if not lazy:
                for query in ("set=a:1", "set=user_id:bob", "clear=", "rotate="):
                    assert_unavailable(await browser.get(f"/do?{query}"))
            assert browser.cookies[COOKIE] == token


def always_anonymous(connection: HTTPConnection) -> str:
    return "anonymous"


@pytest.mark.parametrize(("query", "personal"), [("", False), ("?client_cache=1.0", True)])
@pytest.mark.parametrize("choice", ["anonymous", always_anonymous], ids=["word", "callable"])
async def test_anonymous_where_refresh_loads(
    private: Server, prefix: str, choice: Any, query: str, personal: bool
) -> None:
    """With lazy=True `refresh()` loads as a dependency does, and a write is the 503."""
    events = list[Event]()
    manager = manager_on(
        private.url + query, prefix, on_event=events.append, personal_events=personal
    )

    async def show(request: Request) -> JSONResponse:
        session = get_session(request)
        await session.refresh()
        await session.refresh()  # there is nothing more to load
        if "n" in request.query_params:
            session["n"] = 1
        return JSONResponse(dict(session))

    token = await store_session(manager, {"user_id": "alice"})
    app = app_of(Route("/", show), manager=manager, lazy=True, on_unavailable=choice, touch=False)
    async with client_of(app, token) as browser:
        assert (await browser.get("/")).json() == {"user_id": "alice"}
        private.kill()
        response = await browser.get("/")
        assert (response.status_code, response.text) == (200, "{}")
        assert response.headers["cache-control"] == "no-store"
        assert [event.reason for event in events if event.name == "unavailable"] == ["connection"]
        assert_unavailable(await browser.get("/?n="))
        private.start()
        assert (await browser.get("/?n=")).json() == {"n": 1}  # the server has lost the session
    await manager.close()


async def test_each_request_decides(private: Server, manager: SessionManager) -> None:
    """on_unavailable as a callable: it sees the request."""

    def decide(connection: HTTPConnection) -> Any:
        return "anonymous" if connection.url.path.startswith("/starlette") else "error"

    app = everything(manager=manager, on_unavailable=decide)
    private.kill()
    async with client_of(app, "x" * 64) as browser:
        assert (await browser.get("/starlette/show")).json() == {}
        assert_unavailable(await browser.get("/do"))
