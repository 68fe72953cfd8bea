"""Signing in, using and signing out over HTTP, in Starlette and in FastAPI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from redis_sessions import SessionMiddleware
from redis_sessions.fastapi import PrincipalDep, SessionDep
from tests.support.apps import app_of, client_of, doing, serve, signed_in, token_in
from tests.support.asgi import COOKIE, KEY
from tests.support.redis_wire import Wire
from tests.support.servers import Server


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
