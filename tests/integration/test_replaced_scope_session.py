"""Applications that put something else into `scope["session"]`, and read it after the response."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import AsyncGenerator
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from redis_sessions import SessionManager, SessionMiddleware
from redis_sessions.errors import SessionError
from tests.support.apps import client_of, doing, manager_on, signed_in, token_in
from tests.support.asgi import ask, cookie


class Nothing(Enum):
    """As Litestar's `Empty` is."""

    EMPTY = 0


class PlainSessions:
    """A session middleware that puts a plain dict into the scope, as starsessions does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = {"whose": "theirs"}
        await self.app(scope, receive, send)


@pytest.fixture
def manager(redis_url: str, prefix: str) -> SessionManager:
    return manager_on(redis_url, prefix)


def replacing(by: Any) -> Route:
    async def replace(request: Request) -> Response:
        request.scope["session"] = by
        return Response()

    return Route("/replace", replace)


async def is_signed_in(manager: SessionManager, token: str) -> bool:
    return not (await manager.load(token)).is_new


@pytest.mark.parametrize("by", [None, Nothing.EMPTY])
async def test_replaced_by_nothing_is_cleared(manager: SessionManager, by: Any) -> None:
    """None, or an enum's member, in the session's place signs out as clear() does."""
    async with client_of(doing(replacing(by), manager=manager)) as browser:
        token = await signed_in(browser)
        response = await browser.get("/replace")
        assert token_in(response) == "null"
        assert not await is_signed_in(manager, token)


async def test_replaced_in_a_request_that_fails(manager: SessionManager) -> None:
    """A sign-out holds whatever the response is, also this one."""

    async def fail(request: Request) -> Response:
        request.scope["session"] = None
        raise ValueError("after the sign-out")

    async with client_of(doing(Route("/fail", fail), manager=manager)) as browser:
        token = await signed_in(browser)
        with pytest.raises(ValueError, match="after the sign-out"):
            await browser.get("/fail")
        assert not await is_signed_in(manager, token)


async def test_replaced_while_the_response_is_sent(manager: SessionManager) -> None:
    """What was replaced after the response has started is seen at its end."""

    async def show(request: Request) -> Response:
        async def parts() -> AsyncGenerator[bytes]:
            yield b"one"
            yield b"two"
            request.scope["session"] = None

        return StreamingResponse(parts())

    async with client_of(doing(Route("/stream", show), manager=manager)) as browser:
        token = await signed_in(browser)
        assert (await browser.get("/stream")).text == "onetwo"
        assert not await is_signed_in(manager, token)


async def test_replaced_on_a_websocket(manager: SessionManager) -> None:
    """A WebSocket's session that is replaced by nothing ends with the socket."""

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        websocket.scope["session"] = None
        await websocket.close()

    app = doing(WebSocketRoute("/socket", socket), manager=manager)
    async with client_of(app) as browser:
        token = await signed_in(browser)
    # Not by the TestClient, which cancels the application once the socket is closed.
    reply = await ask(app, [(b"cookie", cookie(token))], path="/socket", kind="websocket")
    assert reply.checked().kinds == ["websocket.accept", "websocket.close"]
    assert not await is_signed_in(manager, token)


async def test_replaced_by_a_dict_raises(manager: SessionManager) -> None:
    """Nobody would store it: an error says what to write, and the session stays as it was."""
    app = doing(replacing({"user_id": "mallory"}), manager=manager)
    async with client_of(app) as browser:
        await signed_in(browser)
        with pytest.raises(SessionError, match=r"session\.clear\(\) and session\.update"):
            await browser.get("/replace")
        assert (await browser.get("/do")).json() == {"user_id": "alice"}


PYTHONS_OWN: list[Any] = [OrderedDict(), UserDict(), "x", 0, SimpleNamespace()]


@pytest.mark.parametrize("by", PYTHONS_OWN, ids=lambda by: type(by).__name__)
async def test_replaced_by_an_object_of_pythons_own_raises(
    manager: SessionManager, by: Any
) -> None:
    """No session middleware's class: somebody meant it as data, or as nothing."""
    async with client_of(doing(replacing(by), manager=manager)) as browser:
        await signed_in(browser)
        with pytest.raises(
            SessionError, match=f"replaced by a value of type {type(by).__name__}, which"
        ):
            await browser.get("/replace")
        assert (await browser.get("/do")).json() == {"user_id": "alice"}


async def test_replaced_in_a_mount_by_what_is_no_session(manager: SessionManager) -> None:
    """A mounted application's own session would be a mapping."""
    inner = Starlette(routes=[replacing("x")])
    async with client_of(doing(Mount("/sub", inner), manager=manager)) as browser:
        with pytest.raises(SessionError, match="replaced by a value of type str, which"):
            await browser.get("/sub/replace")


@pytest.mark.parametrize("theirs", ["a class of its own", "a dict"])
async def test_a_mounted_applications_own_session(
    manager: SessionManager, theirs: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left alone; of a plain dict one warning says what it may be instead."""

    async def show(request: Request) -> Response:
        request.scope["session"]["more"] = "theirs"
        return JSONResponse(request.scope["session"])

    middleware = Middleware(PlainSessions)
    if theirs != "a dict":
        middleware = Middleware(StarlettesOwn, secret_key="x" * 32, https_only=True)
    inner = Starlette(routes=[Route("/show", show)], middleware=[middleware])
    async with client_of(doing(Mount("/sub", inner), manager=manager)) as browser:
        await signed_in(browser)
        for _ in range(2):
            assert (await browser.get("/sub/show")).json()["more"] == "theirs"
        assert (await browser.get("/do")).json() == {"user_id": "alice"}
    told = [
        r.getMessage()
        for r in caplog.records
        if "was replaced by a value of type dict" in r.getMessage()
    ]
    assert len(told) == (theirs == "a dict")


@pytest.mark.parametrize("twice", [False, True], ids=["ours once", "ours twice"])
async def test_a_mounted_applications_own_session_after_the_response(
    manager: SessionManager, twice: bool
) -> None:
    """NiceGUI and Gradio read `request.session` in event handlers, long after the response."""
    kept: list[Request] = []

    async def page(request: Request) -> Response:
        request.session["id"] = "theirs"
        kept.append(request)
        return Response()

    inner = Starlette(
        routes=[Route("/page", page)],
        middleware=[Middleware(StarlettesOwn, secret_key="x" * 32, https_only=True)],
    )
    if twice:
        ours = Middleware(SessionMiddleware, manager=manager)
        inner = Starlette(routes=[Mount("/in", inner)], middleware=[ours])
    async with client_of(doing(Mount("/sub", inner), manager=manager)) as browser:
        await signed_in(browser)
        response = await browser.get("/sub/in/page" if twice else "/sub/page")
        assert token_in(response, "session")
        assert kept[0].session == {"id": "theirs"}


@pytest.mark.parametrize("twice", [False, True], ids=["ours once", "ours twice"])
async def test_ours_is_back_after_an_exception(manager: SessionManager, twice: bool) -> None:
    """An error handler around us finds our session, whatever a mounted application put there."""
    seen: list[Any] = []

    async def fail(request: Request) -> Response:
        request.session["id"] = "theirs"
        raise ValueError("unexpected")

    async def error_page(request: Request, exc: Exception) -> Response:
        seen.append(dict(request.session))
        return Response(status_code=500)

    inner = Starlette(
        routes=[Route("/fail", fail)],
        middleware=[Middleware(StarlettesOwn, secret_key="x" * 32)],
    )
    ours = Middleware(SessionMiddleware, manager=manager)
    if twice:
        inner = Starlette(routes=[Mount("/in", inner)], middleware=[ours])
    app = Starlette(
        routes=[*doing(manager=manager).routes, Mount("/sub", inner)],
        middleware=[ours],
        exception_handlers={500: error_page},
    )
    async with client_of(app) as browser:
        await signed_in(browser)
        with pytest.raises(ValueError, match="unexpected"):
            await browser.get("/sub/in/fail" if twice else "/sub/fail")
    assert seen == [{"user_id": "alice"}]
