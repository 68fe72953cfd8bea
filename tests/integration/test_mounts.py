"""Applications inside applications, and several sessions in one process."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

from contextlib import nullcontext
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesOwn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from redis_sessions import (
    ConfigurationError,
    CookieTransport,
    HeaderTransport,
    MemoryStore,
    RedisStore,
    Session,
    SessionManager,
    SessionMiddleware,
    client_ip,
    get_session,
)
from redis_sessions.fastapi import SessionDep, session_security
from redis_sessions.http.transports import Transport
from tests.support.apps import client_of, doing, manager_on, signed_in, token_in
from tests.support.asgi import COOKIE, KEY


@pytest.fixture
def manager(redis_url: str, prefix: str) -> SessionManager:
    return manager_on(redis_url, prefix)


async def _show(request: Request) -> JSONResponse:
    return JSONResponse(request.session)


async def _add(request: Request) -> JSONResponse:
    request.session.update(request.query_params)
    return JSONResponse(request.session)


def inner_app(*middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route("/show", _show), Route("/add", _add)], middleware=middleware)


def ours(**options: Any) -> Middleware:
    return Middleware(SessionMiddleware, **options)


async def test_a_mount_without_a_middleware_shares_the_session(manager: SessionManager) -> None:
    """A mounted application works on the session of the application around it."""
    async with client_of(doing(Mount("/sub", inner_app()), manager=manager)) as browser:
        assert token_in(await browser.get("/sub/add?a=1"))
        assert (await browser.get("/do?set=b:2")).json() == {"a": "1", "b": "2"}
        assert (await browser.get("/sub/show")).json() == {"a": "1", "b": "2"}


@pytest.mark.parametrize("outer_is_lazy", [False, True])
@pytest.mark.parametrize("inner_is_lazy", [False, True])
async def test_the_same_middleware_inside_stands_aside(
    manager: SessionManager, outer_is_lazy: bool, inner_is_lazy: bool
) -> None:
    """Same manager, same cookie: one session, one cookie; an eager inner one loads it."""

    async def add(request: Request) -> JSONResponse:
        session = get_session(request)
        if outer_is_lazy and inner_is_lazy:
            await session.refresh()
        session.update(request.query_params)
        return JSONResponse(dict(session))

    inner = Starlette(
        routes=[Route("/add", add)], middleware=[ours(manager=manager, lazy=inner_is_lazy)]
    )
    app = Starlette(
        routes=[Mount("/sub", inner)], middleware=[ours(manager=manager, lazy=outer_is_lazy)]
    )
    async with client_of(app) as browser:
        response = await browser.get("/sub/add?a=1")
        assert len(response.headers.get_list("set-cookie")) == 1
        response = await browser.get("/sub/add?b=2")
        assert response.headers.get_list("set-cookie") == []
        assert response.json() == {"a": "1", "b": "2"}


async def test_another_cookie_inside_nests(redis_url: str, prefix: str) -> None:
    """Two sessions in one request; the outer is back in the scope when the inner is done."""
    seen: list[Any] = []
    inner = inner_app(ours(manager=manager_on(redis_url, prefix + "in:"), session_cookie="inner"))

    async def around(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["before"] = "1"
        await inner(scope, receive, send)
        seen.append(dict(scope["session"]))

    app = doing(Mount("/sub", around), manager=manager_on(redis_url, prefix + "out:"))
    async with client_of(app) as browser:
        response = await browser.get("/sub/add?a=1")
        assert token_in(response, COOKIE)
        assert token_in(response, "inner")
        assert seen == [{"before": "1"}]
        assert (await browser.get("/do")).json() == {"before": "1"}
        assert (await browser.get("/sub/show")).json() == {"a": "1"}


@pytest.mark.parametrize("whose", ["the same manager", "another manager"])
@pytest.mark.parametrize(
    "transport", [CookieTransport("inner"), HeaderTransport()], ids=["cookie", "header"]
)
async def test_another_cookie_with_the_same_prefix_is_refused(
    redis_url: str, prefix: str, whose: str, transport: Transport
) -> None:
    """A token of one would open as one of the other: the error names both remedies."""
    manager = manager_on(redis_url, prefix)
    other = manager if whose == "the same manager" else manager_on(redis_url, prefix)
    inner = inner_app(ours(manager=other, transport=transport))
    async with client_of(doing(Mount("/sub", inner), manager=manager)) as browser:
        with pytest.raises(ConfigurationError) as caught:
            await browser.get("/sub/show")
        assert (await browser.get("/do?set=a:1")).status_code == 200
    assert "another prefix=" in str(caught.value)
    assert "transport=[CookieTransport(), HeaderTransport()]" in str(caught.value)


async def test_side_by_side_with_the_same_prefix_is_told(
    redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A token of one does open as one of the other: the log says what to write instead."""

    def mount(name: str) -> Mount:
        store = RedisStore(redis_url, prefix=prefix)
        return Mount(f"/{name}", inner_app(ours(store=store, secret_key=KEY, session_cookie=name)))

    app = Starlette(routes=[mount("shop"), mount("admin")])
    async with client_of(app) as browser:
        token = token_in(await browser.get("/shop/add?a=1"), "shop")
        response = await browser.get("/admin/show", headers={"Cookie": f"admin={token}"})
    assert response.json() == {"a": "1"}
    told = [r.getMessage() for r in caplog.records if "the cookie 'shop'" in r.getMessage()]
    assert len(told) == 1
    assert f"share a store and the prefix {prefix!r}" in told[0]


@pytest.mark.parametrize(
    ("inner", "outer"),
    [("a:", "b:"), ("a:", "a:")],
    ids=["the same cookie", "the same prefix"],
)
def test_two_that_cannot_work_do_not_start(inner: str, outer: str) -> None:
    """In one application both see the lifespan: the start fails, and what was opened is closed."""
    managers = [manager_on(MemoryStore(prefix=prefix)) for prefix in (inner, outer)]
    cookies = ["sid", "sid" if inner != outer else "other"]
    app = Starlette(
        middleware=[
            ours(manager=manager, session_cookie=cookie)
            for manager, cookie in zip(managers, cookies, strict=True)
        ]
    )
    with pytest.raises(ConfigurationError, match="another prefix="), TestClient(app):
        pass


@pytest.mark.parametrize(("outer", "starts"), [(None, False), ("ip", True), (client_ip(), True)])
def test_the_outer_one_binds(outer: Any, starts: bool) -> None:
    """A binding that the inner one alone has would never be asked for: it doesn't start."""
    manager = manager_on(MemoryStore())
    stack = [ours(manager=manager, binding=outer), ours(manager=manager, binding="ip")]
    refused = nullcontext() if starts else pytest.raises(ConfigurationError, match="outer one")
    with refused, TestClient(Starlette(middleware=stack)):
        pass


def test_two_realms_and_the_same_twice_start() -> None:
    """Another cookie and another prefix; and the same manager with the same cookie."""
    first, second = manager_on(MemoryStore(prefix="a:")), manager_on(MemoryStore(prefix="b:"))
    stack = [ours(manager=first), ours(manager=second, session_cookie="b"), ours(manager=first)]
    with TestClient(Starlette(routes=[Route("/show", _show)], middleware=stack)) as client:
        assert client.get("/show").status_code == 200


async def test_get_session_is_the_innermost(redis_url: str, prefix: str) -> None:
    """A → B → A: get_session() agrees with request.session at each depth."""
    first, second = manager_on(redis_url, prefix + "a:"), manager_on(redis_url, prefix + "b:")
    agree: list[bool] = []

    async def check(request: Request) -> JSONResponse:
        agree.append(get_session(request) is request.session)
        return JSONResponse("checked")

    deepest = Starlette(routes=[Route("/check", check)], middleware=[ours(manager=first)])
    middle = Starlette(
        routes=[Route("/check", check), Mount("/deep", deepest)],
        middleware=[ours(manager=second, session_cookie="other")],
    )
    app = doing(Mount("/mid", middle), Route("/check", check), manager=first)
    async with client_of(app) as browser:
        for path in ("/check", "/mid/check", "/mid/deep/check"):
            await browser.get(path)
    assert agree == [True, True, True]


async def test_starlettes_own_middleware_inside(manager: SessionManager) -> None:
    """It replaces scope["session"]: ours is committed all the same, and its is its own."""

    async def around(scope: Any, receive: Any, send: Any) -> None:
        get_session(Request(scope))["before"] = "1"
        await inner(scope, receive, send)

    inner = inner_app(Middleware(StarlettesOwn, secret_key="x" * 32, https_only=True))
    async with client_of(doing(Mount("/sub", around), manager=manager)) as browser:
        response = await browser.get("/sub/add?a=1")
        assert response.json() == {"a": "1"}
        assert token_in(response, COOKIE)
        assert token_in(response, "session")
        assert (await browser.get("/do")).json() == {"before": "1"}
        assert (await browser.get("/sub/show")).json() == {"a": "1"}


async def test_the_same_cookie_with_another_manager_is_refused(redis_url: str, prefix: str) -> None:
    """Two managers behind one cookie can't work: an error at the first request says so."""
    inner = inner_app(ours(manager=manager_on(redis_url, prefix + "in:")))
    app = doing(Mount("/sub", inner), manager=manager_on(redis_url, prefix + "out:"))
    async with client_of(app) as browser:
        with pytest.raises(ConfigurationError, match="another name and another prefix="):
            await browser.get("/sub/show")
        assert (await browser.get("/do?set=a:1")).status_code == 200


async def test_each_dependency_picks_its_cookie(redis_url: str, prefix: str) -> None:
    """Several middlewares in one application: session_security() tells them apart."""
    shop, admin = session_security(cookie="shop"), session_security(cookie="admin")
    api = session_security(header="X-Api-Session")
    app = FastAPI()

    @app.get("/add/{value}")
    async def add(
        value: str,
        innermost: SessionDep,
        a: Annotated[Session, Depends(shop.session)],
        b: Annotated[Session, Depends(admin.session)],
        c: Annotated[Session, Depends(api.session)],
        managers: Annotated[SessionManager, Depends(admin.manager)],
    ) -> list[str]:
        for name, session in (("shop", a), ("admin", b), ("api", c)):
            session[name] = value
        return [*innermost, managers.store.prefix]

    @app.get("/elsewhere")
    async def elsewhere(
        session: Annotated[Session, Depends(session_security(cookie="no").session)],
    ) -> None: ...

    # Added last is outermost.
    app.add_middleware(
        SessionMiddleware, manager=manager_on(redis_url, f"{prefix}a:"), session_cookie="shop"
    )
    app.add_middleware(
        SessionMiddleware, manager=manager_on(redis_url, f"{prefix}b:"), session_cookie="admin"
    )
    app.add_middleware(
        SessionMiddleware,
        manager=manager_on(redis_url, f"{prefix}c:"),
        transport=HeaderTransport("X-Api-Session"),
    )
    async with client_of(app) as browser:
        response = await browser.get("/add/1")
        assert response.json() == ["shop", f"{prefix}b:"]
        tokens = [token_in(response, "shop"), token_in(response, "admin")]
        tokens.append(response.headers["X-Api-Session"])
        assert all(tokens)
        assert len(set(tokens)) == 3
        with pytest.raises(ConfigurationError, match="'no'"):
            await browser.get("/elsewhere")


async def test_signing_out_inside_a_mount(manager: SessionManager) -> None:
    """A mounted FastAPI application signs out of the session of the application around it."""
    sub = FastAPI()

    @sub.post("/leave")
    def leave(session: SessionDep) -> None:
        session.clear()

    async with client_of(doing(Mount("/sub", sub), manager=manager)) as browser:
        await signed_in(browser)
        assert token_in(await browser.post("/sub/leave")) == "null"
        assert (await browser.get("/do")).json() == {}


@pytest.mark.parametrize("kind", ["starlette", "fastapi"])
async def test_a_sign_out_holds_where_a_mounted_application_fails(
    manager: SessionManager, kind: str
) -> None:
    """A mount answers its exceptions with 500: what it ended has ended, what it wrote isn't."""

    async def leave(request: Request) -> JSONResponse:
        request.session.clear()
        raise RuntimeError("oops")

    async def write(request: Request) -> JSONResponse:
        request.session["user_id"] = "mallory"
        raise RuntimeError("oops")

    sub: ASGIApp
    if kind == "starlette":
        sub = Starlette(routes=[Route("/leave", leave), Route("/write", write)])
    else:
        fastapi = sub = FastAPI()
        fastapi.add_route("/leave", leave)
        fastapi.add_route("/write", write)
    async with client_of(doing(Mount("/sub", sub), manager=manager), raises=False) as browser:
        await signed_in(browser)
        assert (await browser.get("/sub/write")).status_code == 500
        assert (await browser.get("/do")).json() == {"user_id": "alice"}
        response = await browser.get("/sub/leave")
        assert response.status_code == 500
        assert token_in(response) == "null"
        assert (await browser.get("/do")).json() == {}
