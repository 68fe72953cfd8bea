"""starlette-admin's log-in keeps `session["user"]` in whatever `request.session` is."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette_admin.auth import AdminUser, AuthProvider, LoginFailed
from starlette_admin.base import BaseAdmin

from redis_sessions import SessionMiddleware, get_session
from tests.interop.serving import HTTPS, SECRET, Options, Records, Site, id_of

PROFILE = {"username": "root", "name": "Root", "roles": ["read", "write"]}


class Provider(AuthProvider):
    """As starlette-admin's documentation has it."""

    async def login(
        self, username: str, password: str, remember_me: bool, request: Request
    ) -> Response | None:
        if (username, password) != ("root", "right"):
            raise LoginFailed("Invalid username or password")
        request.session["user"] = dict(PROFILE)
        if remember_me:
            get_session(request).expire_in(timedelta(days=30))
        return None

    async def authenticate(self, request: Request) -> AdminUser | None:
        user = request.session.get("user")
        return AdminUser(username=user["name"]) if user else None

    async def logout(self, request: Request) -> Response | None:
        request.session.clear()
        return None


async def me(request: Request) -> Response:
    return JSONResponse(request.session)


def application(options: dict[str, Any], *, inside: bool = False) -> Starlette:
    """`inside`: the middleware is the admin's, not the application's."""
    ours = [Middleware(SessionMiddleware, **options)]
    app = Starlette(routes=[Route("/me", me)], middleware=[] if inside else ours)
    admin = BaseAdmin(
        auth_provider=Provider(), secret_key=SECRET, middlewares=ours if inside else []
    )
    admin.mount_to(app)
    return app


def browser(app: Starlette, site: Site = HTTPS) -> TestClient:
    return TestClient(app, base_url=site.url, follow_redirects=False)


def log_in(client: TestClient, password: str = "right", **more: str) -> httpx2.Response:
    page = client.get("/admin/login").text
    found = re.search(r'name="csrftoken" value="([^"]+)"', page)
    assert found is not None
    form = {"username": "root", "password": password, "csrftoken": found[1], **more}
    return client.post("/admin/login", data=form)


def log_out(client: TestClient) -> int:
    csrf = client.cookies["starlette_admin_csrftoken"]
    return client.post("/admin/logout", headers={"X-CSRFToken": csrf}).status_code


def is_in(client: TestClient) -> bool:
    answer = client.get("/admin/")
    assert answer.status_code in (200, 303)
    return answer.status_code == 200


@pytest.mark.parametrize("principal", ["user_id", "user.username"])
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
def test_log_in_and_out(
    options: Options, records: Records, site: Site, inside: bool, principal: str
) -> None:
    """The provider works unchanged, with or without a principal, ours outside or inside."""
    ours = options(https_only=site.https_only, principal=principal)
    with browser(application(ours, inside=inside), site) as client:
        assert not is_in(client)
        assert log_in(client).status_code == 303
        assert is_in(client)
        token = client.cookies[site.cookie]
        assert records.read(token) == {"user": PROFILE}
        assert log_out(client) == 303
        assert not is_in(client)
        assert site.cookie not in client.cookies
        assert records.read(token) is None
        assert records.ids() == set()


def test_wrong_password(options: Options, records: Records) -> None:
    """A log-in that fails, a 400, stores nothing and sends no session cookie."""
    with browser(application(options())) as client:
        assert log_in(client, "wrong").status_code == 400
        assert not is_in(client)
        assert HTTPS.cookie not in client.cookies
        assert records.ids() == set()


def test_principal_gives_a_new_id(options: Options, records: Records) -> None:
    """With principal="user.username" a log-in over a live session goes on under a new id."""

    async def visit(request: Request) -> Response:
        request.session["seen"] = ["welcome"]
        return Response()

    app = application(options(principal="user.username"))
    app.router.routes.insert(0, Route("/visit", visit))
    with browser(app) as client:
        client.get("/visit")
        before = client.cookies[HTTPS.cookie]
        log_in(client)
        after = client.cookies[HTTPS.cookie]
        assert id_of(after) != id_of(before)
        assert records.ids() == {id_of(after)}
        assert records.read(after) == {"seen": ["welcome"], "user": PROFILE}


@pytest.mark.parametrize("principal", ["user_id", "user.username"])
def test_remember_me(options: Options, principal: str) -> None:
    """Its "remember me" lengthens the session by expire_in(), and the cookie says so."""
    with browser(application(options(principal=principal))) as client:
        remembered = log_in(client, remember_me="on").headers["set-cookie"]
    with browser(application(options(principal=principal))) as client:
        usual = log_in(client).headers["set-cookie"]
    assert f"Max-Age={30 * 24 * 3600};" in remembered
    assert f"Max-Age={14 * 24 * 3600};" in usual


def test_hint_without_principal(options: Options, caplog: pytest.LogCaptureFixture) -> None:
    """Without it the log says, once, that signing in gives no new token."""
    with (
        caplog.at_level(logging.WARNING, "redis_sessions"),
        browser(application(options())) as client,
    ):
        log_in(client)
        log_out(client)
        log_in(client)
    hints = [text for text in caplog.messages if "nobody is signed in by principal" in text]
    assert len(hints) == 1
    assert "'user'" in hints[0]
