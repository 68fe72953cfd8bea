"""Signing in, using and signing out over HTTP, in Starlette and in FastAPI."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from redis_sessions import SessionError, SessionMiddleware, get_session
from redis_sessions.fastapi import PrincipalDep, SessionDep
from tests.integration.apps import (
    BASE,
    COOKIE,
    KEY,
    Events,
    Wire,
    app_of,
    client_of,
    doing,
    manager_on,
    request_of,
    serve,
    signed_in,
    token_in,
)
from tests.support import Server

# -- end to end: the same shop in both frameworks


def starlette_shop(**options: Any) -> ASGIApp:
    async def add(request: Request) -> Response:
        request.session.setdefault("cart", []).append(request.path_params["item"])
        return JSONResponse(request.session["cart"])

    def sign_in(request: Request) -> Response:  # a thread
        request.session["user_id"] = request.path_params["user"]
        return JSONResponse("hello")

    async def show(request: Request) -> Response:
        return JSONResponse(request.session)

    def sign_out(request: Request) -> Response:
        del request.session["user_id"]
        return JSONResponse("bye")

    async def leave(request: Request) -> Response:
        request.session.clear()
        return JSONResponse("bye")

    return app_of(
        Route("/add/{item}", add, methods=["POST"]),
        Route("/sign-in/{user}", sign_in, methods=["POST"]),
        Route("/show", show),
        Route("/sign-out", sign_out, methods=["POST"]),
        Route("/leave", leave, methods=["POST"]),
        **options,
    )


def fastapi_shop(**options: Any) -> ASGIApp:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, **options)

    @app.post("/add/{item}")
    def add(item: str, session: SessionDep) -> list[str]:  # a thread
        session.setdefault("cart", []).append(item)
        cart: list[str] = session["cart"]
        return cart

    @app.post("/sign-in/{user}")
    async def sign_in(user: str, session: SessionDep) -> str:
        session["user_id"] = user
        return "hello"

    @app.get("/show")
    def show(session: SessionDep) -> dict[str, Any]:
        return session

    @app.post("/sign-out")
    async def sign_out(session: SessionDep, user: PrincipalDep) -> str:
        del session["user_id"]
        return "bye"

    @app.post("/leave")
    def leave(session: SessionDep) -> str:
        session.clear()
        return "bye"

    return app


@pytest.mark.parametrize("shop", [starlette_shop, fastapi_shop])
def test_a_visit_from_end_to_end(server: Server, prefix: str, shop: Callable[..., ASGIApp]) -> None:
    """Over a real server: the id changes at sign-in, the cart stays, old tokens are dead."""
    app = shop(store=server.url, prefix=prefix, secret_key=KEY, https_only=False)
    with serve(app) as address, httpx2.Client(base_url=f"http://{address}") as browser:

        def post(path: str) -> str | None:
            response = browser.post(path)
            assert response.status_code == 200
            return token_in(response, "sid")

        def seen_with(token: str | None) -> dict[str, Any]:
            cookie = {} if token is None else {"Cookie": f"sid={token}"}
            response = httpx2.get(f"http://{address}/show", headers=cookie)
            assert "set-cookie" not in response.headers
            data: dict[str, Any] = response.json()
            return data

        anonymous = post("/add/tea")
        assert anonymous is not None
        assert post("/add/milk") is None
        assert seen_with(anonymous) == {"cart": ["tea", "milk"]}

        alice = post("/sign-in/alice")
        assert alice is not None
        assert alice[:20] != anonymous[:20]
        assert browser.get("/show").json() == {"cart": ["tea", "milk"], "user_id": "alice"}
        assert seen_with(anonymous) == {}

        bob = post("/sign-in/bob")
        assert bob is not None
        assert bob[:20] != alice[:20]
        assert browser.get("/show").json() == {"user_id": "bob"}
        assert seen_with(alice) == {}

        post("/add/honey")
        left = post("/sign-out")
        assert left is not None
        assert left[:20] != bob[:20]
        assert browser.get("/show").json() == {"cart": ["honey"]}
        assert seen_with(bob) == {}

        carol = post("/sign-in/carol")
        assert seen_with(carol)["user_id"] == "carol"
        assert post("/leave") == "null"
        assert "sid" not in browser.cookies
        assert browser.get("/show").json() == {}
        assert seen_with(carol) == {}
    with Wire.of(server.url) as redis:
        assert redis.records(prefix) == []


async def test_the_cookie_is_what_starlette_would_send(redis_url: str, prefix: str) -> None:
    """Name, attributes and lifetime of the default cookie."""
    async with client_of(doing(store=redis_url, prefix=prefix, secret_key=KEY)) as browser:
        response = await browser.get("/do?set=a:1")
        token = token_in(response)
        assert response.headers["set-cookie"] == (
            f"{COOKIE}={token}; path=/; Max-Age=1209600; httponly; samesite=lax; secure"
        )
        response = await browser.get("/do?clear=")
        assert response.headers["set-cookie"] == (
            f"{COOKIE}=null; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; "
            "httponly; samesite=lax; secure"
        )


async def test_a_switch_keeps_nothing_of_the_first(redis_url: str, prefix: str) -> None:
    """A → B without a sign-out: only what the switching request wrote is B's."""
    async with client_of(doing(store=redis_url, prefix=prefix, secret_key=KEY)) as browser:
        await signed_in(browser)
        await browser.get("/do?set=secret:alice's")
        await browser.get("/do?set=user_id:bob&set=theme:dark")
        assert (await browser.get("/do")).json() == {"user_id": "bob", "theme": "dark"}


async def test_what_a_sign_out_left_is_kept_from_the_next_user(redis_url: str, prefix: str) -> None:
    """A's leftovers stay with A: whoever signs in next gets them only if it is A again."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    for user, kept in (("alice", True), ("bob", False)):
        async with client_of(app) as browser:
            await signed_in(browser)
            await browser.get("/do?set=cart:tea")
            await browser.get("/do?drop=user_id")
            assert (await browser.get("/do")).json() == {"cart": "tea"}
            await signed_in(browser, user)
            assert ("cart" in (await browser.get("/do")).json()) is kept


async def test_a_write_after_clear_begins_another_session(redis_url: str, prefix: str) -> None:
    """clear(), then data: the old token is dead, and the new session has only what came after."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        old = await signed_in(browser)
        new = token_in(await browser.get("/do?clear=&set=message:bye"))
        assert new not in (None, "null", old)
        assert (await browser.get("/do")).json() == {"message": "bye"}
    async with client_of(app, old) as browser:
        assert (await browser.get("/do")).json() == {}


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


# -- other headers


@pytest.mark.standard(26, "ASVS 14.3.2")
async def test_vary_only_where_the_session_was_used(redis_url: str, prefix: str) -> None:
    """`Vary: Cookie` goes with request.session and get_session, not with a page that has none."""

    async def by_starlette(request: Request) -> Response:
        return JSONResponse(request.session)

    async def varies(request: Request) -> Response:
        return JSONResponse(request.session, headers={"Vary": "Accept"})

    app = doing(
        Route("/by-starlette", by_starlette),
        Route("/varies", varies),
        store=redis_url,
        prefix=prefix,
        secret_key=KEY,
    )
    async with client_of(app) as browser:
        for _ in ("without a session", "with one"):
            assert "vary" not in (await browser.get("/plain")).headers
            assert (await browser.get("/by-starlette")).headers["vary"] == "Cookie"
            assert (await browser.get("/do")).headers["vary"] == "Cookie"
            assert (await browser.get("/varies")).headers["vary"] == "Accept, Cookie"
            await browser.get("/do?set=a:1")


async def test_vary_also_where_a_session_was_loaded_late(redis_url: str, prefix: str) -> None:
    """lazy=True and `await get_session(request).refresh()`: the response depends on the cookie."""

    async def show(request: Request) -> Response:
        session = get_session(request)
        await session.refresh()
        return JSONResponse(dict(session))

    manager = manager_on(redis_url, prefix)
    eager = doing(manager=manager)
    async with client_of(eager) as browser:
        token = await signed_in(browser)
    async with client_of(app_of(Route("/", show), lazy=True, manager=manager), token) as browser:
        response = await browser.get("/")
        assert response.json() == {"user_id": "alice"}
        assert response.headers.get("vary") == "Cookie"


@pytest.mark.standard(26, "ASVS 14.3.2")
async def test_no_store_goes_with_a_token(redis_url: str, prefix: str) -> None:
    """A response with a token isn't stored; a weaker policy is replaced, and reported."""
    events = Events()

    async def cached(request: Request) -> Response:
        request.session["n"] = request.session.get("n", 0) + 1
        return JSONResponse("x", headers={"Cache-Control": "public, max-age=60"})

    app = doing(
        Route("/cached", cached), store=redis_url, prefix=prefix, secret_key=KEY, on_event=events
    )
    async with client_of(app) as browser:
        response = await browser.get("/cached")
        assert response.headers.get_list("cache-control") == ["no-store"]
        assert events.named("cache_control_replaced") == [None]
        response = await browser.get("/cached")  # no token this time
        assert response.headers["cache-control"] == "public, max-age=60"
        assert (await browser.get("/do?clear=")).headers["cache-control"] == "no-store"
        assert len(events.named("cache_control_replaced")) == 1


async def test_a_cross_site_post_begins_no_session(redis_url: str, prefix: str) -> None:
    """No anonymous session for a cross-site unsafe request; signing in is possible."""
    events = Events()
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY, on_event=events)
    cross = {"Sec-Fetch-Site": "cross-site"}
    async with client_of(app) as browser:
        response = await browser.post("/do?set=a:1", headers=cross)
        assert response.status_code == 200
        assert token_in(response) is None
        assert len(events.named("dropped")) == 1
        assert token_in(await browser.post("/do?set=user_id:alice", headers=cross))
    async with client_of(app) as browser:
        assert token_in(await browser.get("/do?set=a:1", headers=cross))
    async with client_of(app) as browser:
        same = {"Sec-Fetch-Site": "same-site"}
        assert token_in(await browser.post("/do?set=a:1", headers=same))


async def test_cross_site_posts_are_meant_with_samesite_none(redis_url: str, prefix: str) -> None:
    """With same_site="none" a cross-site POST may begin a session."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY, same_site="none")
    async with client_of(app) as browser:
        response = await browser.post("/do?set=a:1", headers={"Sec-Fetch-Site": "cross-site"})
        assert token_in(response)


async def test_headers_may_be_lists(redis_url: str, prefix: str) -> None:
    """Daphne and Mangum give headers as lists of two: the cross-site rule holds there too."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    for site, begins in ((b"same-origin", True), (b"cross-site", False)):
        _, headers = await request_of(
            app, "/do", [[b"sec-fetch-site", site]], method="POST", query_string=b"set=a:1"
        )
        assert (b"set-cookie" in headers) is begins


# -- warnings


async def test_a_secure_cookie_over_http_is_warned_of_once(
    redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A Secure cookie over plain http: one line, naming what to write."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    transport = httpx2.ASGITransport(app)
    for base, warned in ((BASE, 0), ("http://testserver", 1), ("http://127.0.0.1", 1)):
        async with httpx2.AsyncClient(transport=transport, base_url=base) as browser:
            await browser.get("/do?set=a:1")
        assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == warned
    assert "https_only=False" in caplog.text
    assert "https://testserver" in caplog.text


async def test_data_that_look_like_a_sign_in_are_warned_of_once(
    redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`username` without a principal: one line that names both."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        await browser.get("/do?set=username:alice")
        await browser.get("/do?set=email:alice@example.com")
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "'username'" in record.getMessage()
    assert "principal='user_id'" in record.getMessage()


async def test_no_warning_where_the_principal_is_set(
    redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Once somebody signed in, an `email` in an anonymous session is no reason to warn."""
    app = doing(store=redis_url, prefix=prefix, secret_key=KEY)
    async with client_of(app) as browser:
        await browser.get("/do?set=user_id:alice&set=email:alice@example.com")
        await browser.get("/do?clear=")
        await browser.get("/do?set=email:bob@example.com")
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]
