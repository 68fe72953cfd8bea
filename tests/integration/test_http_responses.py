"""What a response decides: by its status, and by having started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from redis_sessions import SessionError, get_session
from tests.support.apps import client_of, doing, serve, signed_in, token_in
from tests.support.asgi import KEY
from tests.support.redis_wire import Wire

# -- status rules


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_a_failed_response_signs_nobody_in(redis_url: str, prefix: str, status: int) -> None:
    """A gain at 400 or more stores nothing of the request, and sends no cookie."""
    async with client_of(doing(store=redis_url, prefix=prefix, secret_key=KEY)) as browser:
        await browser.get("/do?set=cart:tea")
        response = await browser.get(f"/do?set=user_id:alice&set=other:x&status={status}")
        assert "set-cookie" not in response.headers
        assert (await browser.get("/do")).json() == {"cart": "tea"}


@pytest.mark.parametrize(
    ("status", "stored"), [(302, True), (404, True), (499, True), (500, False)]
)
async def test_a_change_is_stored_below_500(
    redis_url: str, prefix: str, status: int, stored: bool
) -> None:
    """Data of a request that ended in a server error are not stored; of others they are."""
    async with client_of(doing(store=redis_url, prefix=prefix, secret_key=KEY)) as browser:
        await browser.get("/do?set=a:1")
        await browser.get(f"/do?set=b:2&status={status}")
        assert ("b" in (await browser.get("/do")).json()) is stored


@pytest.mark.parametrize("what", ["clear=", "drop=user_id"])
@pytest.mark.parametrize("how", ["status=404", "status=500", "raise=oops"])
async def test_a_sign_out_holds_whatever_the_response(
    redis_url: str, prefix: str, what: str, how: str
) -> None:
    """The session has ended, also where the request failed or raised."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app, raises=False) as browser:
        old = await signed_in(browser)
        response = await browser.get(f"/do?{what}&{how}")
        assert response.status_code in (404, 500)
    async with client_of(app, old) as browser:
        assert (await browser.get("/do")).json() == {}


async def test_at_500_only_the_removal_of_the_principal_counts(redis_url: str, prefix: str) -> None:
    """What is left goes on under a new id, without what the failed request wrote."""
    async with client_of(doing(store=redis_url, prefix=prefix, secret_key=KEY)) as browser:
        old = await signed_in(browser)
        await browser.get("/do?set=cart:tea")
        new = token_in(await browser.get("/do?drop=user_id&set=cart:milk&status=500"))
        assert new is not None
        assert new[:20] != old[:20]
        assert (await browser.get("/do")).json() == {"cart": "tea"}


@pytest.mark.parametrize(
    ("what", "status", "done"),
    [
        ("rotate", 200, True),
        ("rotate", 404, True),
        ("rotate", 500, False),
        ("authenticated", 200, True),
        ("authenticated", 400, False),
    ],
)
async def test_when_a_token_is_replaced_in_place(
    redis_url: str, prefix: str, what: str, status: int, done: bool
) -> None:
    """rotate() below 500 and authenticated() below 400: same id, new secret, the old one dead."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        old = await signed_in(browser)
        new = token_in(await browser.get(f"/do?{what}=&status={status}"))
        assert (new is not None) is done
        if new is not None:
            assert new[:20] == old[:20]
            assert new != old
        assert (await browser.get("/do")).json() == {"user_id": "alice"}
    async with client_of(app, old) as browser:
        assert (await browser.get("/do")).json() == ({} if done else {"user_id": "alice"})


# -- after the response has started


def late_app(task: Callable[[Request], None], **options: Any) -> Starlette:
    async def show(request: Request) -> Response:
        return JSONResponse(request.session)

    async def late(request: Request) -> Response:
        return JSONResponse("started", background=BackgroundTask(task, request))

    return doing(Route("/late", late), Route("/show", show), **options)


async def test_a_background_task_changes_the_session(redis_url: str, prefix: str) -> None:
    """What a background task wrote is committed when the application returns."""

    def task(request: Request) -> None:
        request.session["seen"] = 1

    async with client_of(late_app(task, store=redis_url, prefix=prefix, secret_key=KEY)) as browser:
        await browser.get("/do?set=a:1")
        assert "set-cookie" not in (await browser.get("/late")).headers
        assert (await browser.get("/show")).json() == {"a": "1", "seen": 1}


async def test_a_background_task_signs_out(redis_url: str, prefix: str) -> None:
    """An end holds also after the response: the session is gone."""

    def task(request: Request) -> None:
        request.session.clear()

    async with client_of(late_app(task, store=redis_url, prefix=prefix, secret_key=KEY)) as browser:
        await signed_in(browser)
        await browser.get("/late")
        assert (await browser.get("/show")).json() == {}


@pytest.mark.parametrize("what", ["gain", "rotation", "new session"])
async def test_a_late_token_is_an_error(redis_url: str, prefix: str, what: str) -> None:
    """A gain, rotation or first visit whose token can't be sent any more says so."""

    def task(request: Request) -> None:
        if what == "rotation":
            get_session(request).rotate()
        else:
            request.session["user_id" if what == "gain" else "b"] = "alice"

    app = late_app(task, store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        if what != "new session":
            await browser.get("/do?set=a:1")
        with pytest.raises(SessionError, match="the response has started"):
            await browser.get("/late")
        expected = {} if what == "new session" else {"a": "1"}
        assert (await browser.get("/show")).json() == expected


def test_a_late_token_is_in_the_servers_log(
    redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Under uvicorn: the response is whole, and the error that says so is logged."""

    def task(request: Request) -> None:
        request.session["user_id"] = "alice"

    app = late_app(task, store=redis_url, prefix=prefix, secret_key=KEY, https_only=False)
    with serve(app) as address:
        response = httpx2.get(f"http://{address}/late")
        assert response.json() == "started"
        assert "set-cookie" not in response.headers
    assert "the browser can't learn a new token" in caplog.text
    with Wire.of(redis_url) as redis:
        assert redis.records(prefix) == []


async def test_an_exception_after_the_start_stores_nothing(redis_url: str, prefix: str) -> None:
    """A background task that fails leaves the session as the response stored it."""

    def task(request: Request) -> None:
        request.session["half"] = "done"
        raise RuntimeError("oops")

    app = late_app(task, store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        await browser.get("/do?set=a:1")
        with pytest.raises(RuntimeError, match="oops"):
            await browser.get("/late")
        assert (await browser.get("/show")).json() == {"a": "1"}
