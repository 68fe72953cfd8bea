"""starlette-login keeps its user's id in the session, inside an AuthenticationMiddleware."""

# The package carries no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from starlette_login.backends import SessionAuthBackend
from starlette_login.decorator import fresh_login_required, login_required, ws_login_required
from starlette_login.login_manager import Config, LoginManager, ProtectionLevel
from starlette_login.middleware import AuthenticationMiddleware
from starlette_login.mixins import UserMixin
from starlette_login.utils import login_user, logout_user

from redis_sessions import SessionMiddleware
from tests.interop.serving import HTTPS, SECRET, Options, Records, Site, id_of


class User(UserMixin):  # type: ignore[misc]  # to mypy its classes are Any
    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def display_name(self) -> str:
        return self.name.title()

    @property
    def identity(self) -> str:
        return self.name


USERS = {name: User(name) for name in ("ann", "bob")}


async def load_user(connection: HTTPConnection, user_id: str) -> User | None:
    return USERS.get(user_id)


async def log_in(request: Request) -> Response:
    user = USERS[request.path_params["name"]]
    remember = request.query_params.get("remember") == "yes"
    await login_user(request, user, remember=remember, duration=timedelta(days=2))
    return Response()


async def log_out(request: Request) -> Response:
    await logout_user(request)
    return Response()


async def cart(request: Request) -> Response:
    request.session["cart"] = ["apples"]
    return Response()


async def whoami(request: Request) -> Response:
    return JSONResponse(request.user.display_name)


async def protected(request: Request) -> Response:
    return JSONResponse(request.user.display_name)


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(websocket.user.display_name)
    await websocket.close()


def application(options: dict[str, Any], *, strong: bool = False) -> Starlette:
    level = ProtectionLevel.Strong if strong else ProtectionLevel.Basic
    manager: Any = LoginManager("/login", SECRET, Config(protection_level=level))
    manager.set_user_loader(load_user)
    app = Starlette(
        routes=[
            Route("/log-in/{name}", log_in, methods=["POST"]),
            Route("/log-out", log_out, methods=["POST"]),
            Route("/cart", cart, methods=["POST"]),
            Route("/whoami", whoami),
            Route("/protected", login_required(protected)),
            Route("/fresh", fresh_login_required(protected)),
            WebSocketRoute("/socket", ws_login_required(socket)),
        ],
        middleware=[
            Middleware(SessionMiddleware, **options),
            Middleware(
                AuthenticationMiddleware,
                backend=SessionAuthBackend(manager),
                login_manager=manager,
            ),
        ],
    )
    app.state.login_manager = manager
    return app


def browser(app: Starlette, site: Site = HTTPS) -> TestClient:
    return TestClient(app, base_url=site.url, follow_redirects=False)


@pytest.mark.parametrize("principal", ["_user_id", "user_id"])
@pytest.mark.parametrize("strong", [False, True], ids=["basic", "strong"])
def test_log_in_and_out(
    options: Options, records: Records, site: Site, principal: str, strong: bool
) -> None:
    """Its log-in and log-out work unchanged, at both of its levels of protection."""
    app = application(options(https_only=site.https_only, principal=principal), strong=strong)
    with browser(app, site) as client:
        assert client.get("/protected").status_code == 302
        client.post("/log-in/ann")
        assert client.get("/protected").json() == "Ann"
        assert client.get("/fresh").json() == "Ann"
        stored = records.read(client.cookies[site.cookie])
        assert stored is not None
        assert stored["_user_id"] == "ann"
        client.post("/log-out")
        assert client.get("/protected").status_code == 302
        assert client.get("/whoami").json() == ""


def test_id_changes(options: Options, records: Records) -> None:
    """With principal="_user_id" a log-in and a switch of users give a new id, a log-out none."""
    ids = list[str]()
    with browser(application(options(principal="_user_id"))) as client:
        for path in ("/cart", "/log-in/ann", "/log-in/bob"):
            client.post(path)
            ids.append(id_of(client.cookies[HTTPS.cookie]))
            assert records.ids() == {ids[-1]}
        client.post("/log-out")
        assert HTTPS.cookie not in client.cookies
        assert records.ids() == set()
    assert len(set(ids)) == 3


def test_cart_goes_along(options: Options, records: Records) -> None:
    """What a visitor collected is there after the log-in, and gone for the next user."""
    with browser(application(options(principal="_user_id"))) as client:
        client.post("/cart")
        client.post("/log-in/ann")
        anns = records.read(client.cookies[HTTPS.cookie])
        client.post("/log-in/bob")
        bobs = records.read(client.cookies[HTTPS.cookie])
    assert anns is not None
    assert bobs is not None
    assert anns["cart"] == ["apples"]
    assert (bobs["_user_id"], "cart" in bobs) == ("bob", False)


def test_log_out_ends_the_session(options: Options, records: Records) -> None:
    """After a log-out the old token opens nothing, and what is left names nobody."""
    with browser(application(options(principal="_user_id"))) as client:
        client.post("/cart")
        client.post("/log-in/ann")
        token = client.cookies[HTTPS.cookie]
        client.post("/log-out")
        assert records.read(token) is None
        left = records.read(client.cookies[HTTPS.cookie])
    assert left == {"cart": ["apples"]}


def test_remember(options: Options, records: Records) -> None:
    """Its remember-me cookie signs in by itself, and its log-out is remembered in our session."""
    with browser(application(options(principal="_user_id"))) as client:
        client.post("/log-in/ann?remember=yes")
        token = client.cookies[HTTPS.cookie]
        client.cookies.delete(HTTPS.cookie)
        assert client.get("/protected").json() == "Ann"
        client.cookies.set(HTTPS.cookie, token, domain="testserver.local", path="/")
        client.post("/log-out")
        assert records.read(client.cookies[HTTPS.cookie]) == {"_remember": "clear"}
        assert client.get("/whoami").json() == ""


def test_visitors_get_a_session(options: Options, records: Records) -> None:
    """It writes `_fresh` for every visitor, so that each gets a session: with Starlette's too."""
    with browser(application(options())) as client:
        client.get("/whoami")
        assert records.read(client.cookies[HTTPS.cookie]) == {"_fresh": False}


def test_websocket(options: Options) -> None:
    """A WebSocket is told who is signed in."""
    with browser(application(options(principal="_user_id"))) as client:
        client.post("/log-in/ann")
        with client.websocket_connect(f"{HTTPS.socket_url}/socket") as connection:
            assert connection.receive_json() == "Ann"


def test_refused_websocket(options: Options, records: Records) -> None:
    """A visitor's WebSocket is closed before it is accepted, without an error of ours.

    starlette-login wrote `_fresh`, and a plain close carries no cookie: the session is dropped.
    """
    with (
        browser(application(options(principal="_user_id"))) as client,
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"{HTTPS.socket_url}/socket"),
    ):
        pass
    assert records.ids() == set()
