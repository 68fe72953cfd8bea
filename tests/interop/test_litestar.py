"""Litestar: our session in its handlers, and its own `set_session()` and `clear_session()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
from litestar import Litestar, Request, get, post
from litestar.exceptions import LitestarException
from litestar.middleware import DefineMiddleware
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from redis_sessions import SessionManager, SessionMiddleware
from redis_sessions.errors import SessionError
from redis_sessions.stores import open_store
from tests.interop.serving import HTTPS, SECRET, Options, Records, id_of

Asks = Request[Any, Any, Any]


@dataclass
class Visitor:
    user_id: str


@get("/show", sync_to_thread=False)
def show(request: Asks) -> dict[str, Any]:
    return dict(request.session)


@post("/add", sync_to_thread=False)
def add(request: Asks) -> dict[str, Any]:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return dict(request.session)


@post("/sign-in", sync_to_thread=False)
def sign_in(request: Asks) -> None:
    request.session["user_id"] = "ann"


@post("/set-session", sync_to_thread=False)
def set_session(request: Asks) -> None:
    request.set_session({"user_id": "bob"})


@post("/set-copy", sync_to_thread=False)
def set_copy(request: Asks) -> None:
    request.set_session({**request.session, "user_id": "bob", "cart": ["Bob's"]})


@post("/add-name", sync_to_thread=False)
def add_name(request: Asks) -> None:
    request.session["name"] = "Ann Example"


@post("/set-model", sync_to_thread=False)
def set_model(request: Asks) -> None:
    request.set_session(Visitor("bob"))


@post("/sign-out", sync_to_thread=False)
def sign_out(request: Asks) -> None:
    request.clear_session()


@post("/sign-out-and-fail", sync_to_thread=False)
def sign_out_and_fail(request: Asks) -> None:
    request.clear_session()
    raise ValueError("after the sign-out")


BARE: Any = {"openapi_config": None, "logging_config": None}
HANDLERS: Any = [
    *(show, add, add_name, sign_in, sign_out, sign_out_and_fail),
    *(set_session, set_copy, set_model),
]


def as_middleware(options: dict[str, Any]) -> ASGIApp:
    """With one manager: Litestar makes a middleware for each route handler."""
    ours: Any = SessionMiddleware  # Litestar has types of its own for ASGI
    store = open_store(options["store"], prefix=options.get("prefix"))
    manager = SessionManager(store, options["secret_key"])
    app = Litestar(
        HANDLERS,
        middleware=[DefineMiddleware(ours, manager=manager)],
        on_startup=[manager.connect],
        on_shutdown=[manager.close],
        **BARE,
    )
    return cast("ASGIApp", app)


def around(options: dict[str, Any]) -> ASGIApp:
    app: Any = Litestar(HANDLERS, **BARE)
    return SessionMiddleware(app, **options)


def mounted(options: dict[str, Any]) -> ASGIApp:
    app: Any = Litestar(HANDLERS, **BARE)
    ours = Middleware(SessionMiddleware, **options)
    return Starlette(routes=[Mount("/", app)], middleware=[ours])


@pytest.fixture(params=[as_middleware, around, mounted], ids=lambda make: make.__name__)
def client(request: pytest.FixtureRequest, options: Options) -> TestClient:
    make: Callable[[dict[str, Any]], ASGIApp] = request.param
    return TestClient(make(options()), base_url=HTTPS.url)


def token_of(client: TestClient) -> str:
    return client.cookies[HTTPS.cookie]


@pytest.mark.parametrize("make", [as_middleware, around, mounted], ids=lambda make: make.__name__)
def test_handlers_share_one_store(make: Callable[[dict[str, Any]], ASGIApp]) -> None:
    """Also where Litestar makes the middlewares: a sign-in at one handler holds at all others."""
    with TestClient(make({"store": "memory://", "secret_key": SECRET}), base_url=HTTPS.url) as one:
        one.post("/sign-in")
        assert one.get("/show").json() == {"user_id": "ann"}
        one.post("/sign-out")
        assert one.get("/show").json() == {}


def test_session(client: TestClient, records: Records) -> None:
    """`request.session` is ours: it lasts, and signing in gives it a new id."""
    assert [client.post("/add").json()["visits"] for _ in range(2)] == [1, 2]
    before = token_of(client)
    client.post("/sign-in")
    assert client.get("/show").json() == {"visits": 2, "user_id": "ann"}
    assert id_of(token_of(client)) != id_of(before)
    assert records.ids() == {id_of(token_of(client))}


def test_vary(client: TestClient) -> None:
    """Litestar reads the session from the scope: a shared cache is told all the same."""
    client.post("/sign-in")
    assert client.get("/show").headers["vary"] == "Cookie"


@pytest.mark.parametrize("path", ["/sign-out", "/sign-out-and-fail"])
def test_clear_session(client: TestClient, records: Records, path: str) -> None:
    """A sign-out by `clear_session()` holds, in Redis and in the browser."""
    client.post("/sign-in")
    token = token_of(client)
    assert client.post(path).status_code == (201 if path == "/sign-out" else 500)
    assert HTTPS.cookie not in client.cookies
    assert records.read(token) is None
    assert records.ids() == set()


def test_set_session(client: TestClient, records: Records) -> None:
    """`set_session()` ends the session, and begins one with what it is given."""
    client.post("/add")
    client.post("/sign-in")
    before = token_of(client)
    client.post("/set-session")
    assert client.get("/show").json() == {"user_id": "bob"}
    assert records.read(before) is None
    assert records.ids() == {id_of(token_of(client))}


def test_set_session_with_a_copy(client: TestClient) -> None:
    """What was another user's isn't in the session that `set_session()` begins for Bob."""
    client.post("/sign-in")
    client.post("/add-name")
    client.post("/set-copy")
    assert client.get("/show").json() == {"user_id": "bob", "cart": ["Bob's"]}


def test_set_session_without_a_dict(client: TestClient) -> None:
    """A session is a dict: what else is given to `set_session()` raises, and says so."""
    client.post("/sign-in")
    with pytest.raises((SessionError, LitestarException)) as raised:
        client.post("/set-model")
    error = raised.value.__cause__ if raised.type is LitestarException else raised.value
    assert isinstance(error, SessionError)
    assert "Visitor: give it a dict" in str(error)
    assert client.get("/show").json() == {"user_id": "ann"}


@pytest.mark.parametrize(
    "config", [CookieBackendConfig(secret=b"k" * 16), ServerSideSessionConfig()]
)
def test_its_own_sessions_inside(
    options: Options, records: Records, config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Litestar's own session middleware in a mounted application: each session is its own."""
    inner: Any = Litestar(HANDLERS, middleware=[config.middleware], **BARE)

    async def enter(request: Any) -> JSONResponse:
        request.session["user_id"] = "outer"
        return JSONResponse("in")

    app = Starlette(
        routes=[Route("/enter", enter, methods=["POST"]), Mount("/inner", inner)],
        middleware=[Middleware(SessionMiddleware, **options())],
    )
    client = TestClient(app, base_url=HTTPS.url)
    client.post("/enter")
    token = token_of(client)
    client.post("/inner/add")
    client.post("/inner/set-session")
    assert client.get("/inner/show").json() == {"user_id": "bob"}
    assert records.read(token) == {"user_id": "outer"}
    assert token_of(client) == token
    assert "was replaced" not in caplog.text
