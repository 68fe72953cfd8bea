"""`SessionAuthBackend`: Starlette's `AuthenticationMiddleware` and `@requires` over a session."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from redis_sessions import (
    ConfigurationError,
    Session,
    SessionAuthBackend,
    SessionMiddleware,
    get_session,
    safe_next,
)
from redis_sessions.testing import store_session
from tests.support.apps import client_of, token_in
from tests.support.asgi import Reply, ask, cookie
from tests.unit.setting import ALICE, Setting


async def whoami(request: Request) -> JSONResponse:
    user = request.user
    names = [user.display_name, user.identity] if user.is_authenticated else []
    return JSONResponse([user.is_authenticated, *names, *request.auth.scopes])


@requires("authenticated", redirect="login")
async def page(request: Request) -> Response:
    return JSONResponse(request.user.identity)


@requires("authenticated", status_code=401)
def in_a_thread(request: Request) -> Response:
    return JSONResponse(request.user.identity)


@requires(["authenticated", "admin"])
async def admin(request: Request) -> Response:
    return JSONResponse(request.user.identity)


@requires("authenticated")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.user.identity)
    await websocket.close()


async def login(request: Request) -> Response:
    if request.method == "POST":
        get_session(request).sign_in("alice")
        return RedirectResponse(safe_next(request), 303)
    return Response()


def app_with(
    setting: Setting,
    scopes: Callable[[Session], str | Iterable[str]] | None = None,
    **options: Any,
) -> Starlette:
    return Starlette(
        routes=[
            Route("/", whoami),
            Route("/page", page),
            Route("/thread", in_a_thread),
            Route("/admin", admin),
            Route("/login", login, methods=["GET", "POST"]),
            WebSocketRoute("/socket", socket),
        ],
        middleware=[
            Middleware(SessionMiddleware, manager=setting.manager, **options),
            Middleware(AuthenticationMiddleware, backend=SessionAuthBackend(scopes=scopes)),
        ],
    )


async def visit(app: Starlette, path: str, token: str | None = None, **fields: Any) -> Reply:
    headers = [] if token is None else [(b"cookie", cookie(token))]
    return await ask(app, headers, path=path, **fields)


@pytest.mark.parametrize("lazy", [False, True])
async def test_who_is_signed_in(at: Setting, lazy: bool) -> None:
    """The user is the principal, as a str; without one it is Starlette's own, with no scopes."""
    app = app_with(at, lazy=lazy)
    nobody = await visit(app, "/")
    assert nobody.checked().body == b"[false]"
    assert (b"vary", b"Cookie") in nobody.headers
    assert (await visit(app, "/", await at.begin({"cart": 1}))).body == b"[false]"
    token = await at.begin({"user_id": 7})
    assert (await visit(app, "/", token)).body == b'[true,"7","7","authenticated"]'
    assert (await visit(app, "/thread", token)).body == b'"7"'
    assert (await visit(app, "/thread")).status == 401


async def test_the_way_back(at: Setting) -> None:
    """`@requires(redirect=…)` has an absolute `next`, of which safe_next() takes the path."""
    async with client_of(app_with(at)) as browser:
        response = await browser.get("/page?a=1&b=%20")
        assert response.status_code == 303
        assert response.headers["location"].startswith("https://testserver/login?next=https%3A")
        response = await browser.post(response.headers["location"])
        assert (response.status_code, response.headers["location"]) == (303, "/page?a=1&b=%20")
        assert token_in(response) is not None
        assert (await browser.get("/page")).json() == "alice"


SCOPES: dict[str, tuple[Callable[[Session], str | Iterable[str]] | None, int]] = {
    "none": (None, 403),
    "several": (lambda session: session["roles"], 200),
    "one": (lambda session: session.get("role", "admin"), 200),
    "others": (lambda session: (role for role in session["roles"] if role != "admin"), 403),
}


@pytest.mark.parametrize("kind", SCOPES)
async def test_scopes(at: Setting, kind: str) -> None:
    """`scopes` gives one, or several, of a session; visitors have none, whatever it says."""
    scopes, status = SCOPES[kind]
    app = app_with(at, scopes)
    token = await at.begin({**ALICE, "roles": ["editor", "admin"]})
    assert (await visit(app, "/admin", token)).status == status
    assert (await visit(app, "/admin", await at.begin({"roles": ["admin"]}))).status == 403


def test_scopes_are_not_awaited() -> None:
    """Like other options, `scopes=` is checked where it is written."""

    async def scopes(session: Session) -> list[str]:
        raise AssertionError

    for wrong in (scopes, "admin"):
        with pytest.raises(ConfigurationError, match="write a callable that isn't async"):
            SessionAuthBackend(scopes=wrong)  # type: ignore[arg-type]  # what is tested  # pyright: ignore[reportArgumentType] - what is tested


async def test_websockets(at: Setting) -> None:
    """A WebSocket is told who is signed in, and is closed before it is accepted otherwise."""
    app = app_with(at)
    there = await visit(app, "/socket", await at.begin(ALICE), kind="websocket")
    assert there.kinds == ["websocket.accept", "websocket.send", "websocket.close"]
    assert (await visit(app, "/socket", kind="websocket")).kinds == ["websocket.close"]


@pytest.mark.parametrize("lazy", [False, True])
async def test_while_the_store_is_away(at: Setting, lazy: bool) -> None:
    """The answer is 503, and not the 400 that Starlette gives to a backend's errors."""
    token = await at.begin(ALICE)
    at.store.away = True
    for path in ("/", "/page", "/thread"):
        reply = await visit(app_with(at, lazy=lazy), path, token)
        assert reply.checked().status == 503
        assert (b"retry-after", b"1") in reply.headers
    closed = await visit(app_with(at, lazy=lazy), "/socket", token, kind="websocket")
    assert closed.checked().messages[0]["code"] == 1013
    empty = await visit(app_with(at, lazy=lazy, on_unavailable="anonymous"), "/", token)
    assert empty.body == b"[false]"


async def test_a_sign_in_counts_from_the_next_request(at: Setting) -> None:
    """The user is the one with whom the request began."""

    async def sign_in(request: Request) -> Response:
        get_session(request).sign_in("bob")
        return await whoami(request)

    app = app_with(at)
    app.routes.append(Route("/in", sign_in))
    reply = await visit(app, "/in")
    assert reply.checked().body == b"[false]"
    assert (await visit(app, "/", reply.token.value)).body.startswith(b'[true,"bob"')


async def test_the_wrong_order(at: Setting) -> None:
    """Around SessionMiddleware there is no session, and the error says in which order they go."""
    app = Starlette(routes=[Route("/", whoami)])
    app.add_middleware(SessionMiddleware, manager=at.manager)
    app.add_middleware(AuthenticationMiddleware, backend=SessionAuthBackend())
    with pytest.raises(ConfigurationError, match="after it with add_middleware"):
        (await visit(app, "/")).checked()


async def test_a_backend_without_starlettes_middleware(at: Setting) -> None:
    """`authenticate()` may be called by an application's own middleware."""
    token = await store_session(at.manager, ALICE)
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(await SessionAuthBackend().authenticate(HTTPConnection(scope)))

    headers = [(b"cookie", cookie(token))]
    await ask(SessionMiddleware(app, manager=at.manager), headers)
    credentials, user = found[0]
    assert (credentials.scopes, user.identity) == (["authenticated"], "alice")
