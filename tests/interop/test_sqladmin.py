"""sqladmin brings Starlette's session middleware into its mount: side by side, or ours shared."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqladmin import Admin, ModelView
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from redis_sessions import SessionMiddleware, get_session
from tests.interop.serving import SECRET, Options, Records, Site, id_of

THEIR_COOKIE = "session"


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class NoteAdmin(ModelView, model=Note):
    pass


class Backend(AuthenticationBackend):
    """As sqladmin's documentation has it."""

    async def login(self, request: Request) -> bool:
        form = await request.form()
        if form["password"] != "right":
            return False
        request.session.update({"admin": str(form["username"])})
        return True

    async def logout(self, request: Request) -> bool:
        request.session.clear()
        return True

    async def authenticate(self, request: Request) -> bool:
        return "admin" in request.session


class SharedBackend(Backend):
    """No middleware of sqladmin's: the application's session is the admin's, too."""

    def __init__(self) -> None:
        self.middlewares = []


class SharedUserBackend(SharedBackend):
    """The admin is the application's user: one principal, one sign-in."""

    async def login(self, request: Request) -> bool:
        form = await request.form()
        request.session["user_id"] = str(form["username"])
        return True

    async def authenticate(self, request: Request) -> bool:
        return request.session.get("user_id") == "root"


class SharedButRotating(SharedBackend):
    """The admin's rights come on top of the user's session, under a new token."""

    async def login(self, request: Request) -> bool:
        get_session(request).rotate()
        return await super().login(request)

    async def logout(self, request: Request) -> bool:
        request.session.pop("admin", None)
        get_session(request).rotate()
        return True


class SeparateBackend(Backend):
    """Our middleware in place of theirs, with a cookie of its own."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.middlewares = [Middleware(SessionMiddleware, **options)]


async def sign_in(request: Request) -> Response:
    request.session["user_id"] = request.path_params["name"]
    return Response()


async def sign_out(request: Request) -> Response:
    del request.session["user_id"]
    return Response()


async def me(request: Request) -> Response:
    return JSONResponse(request.session)


def application(backend: AuthenticationBackend, options: dict[str, Any]) -> Starlette:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await engine.dispose()

    app = Starlette(
        routes=[
            Route("/sign-in/{name}", sign_in, methods=["POST"]),
            Route("/sign-out", sign_out, methods=["POST"]),
            Route("/me", me),
        ],
        middleware=[Middleware(SessionMiddleware, **options)],
        lifespan=lifespan,
    )
    Admin(app, engine, authentication_backend=backend).add_view(NoteAdmin)
    return app


def browser(app: Starlette, site: Site) -> TestClient:
    return TestClient(app, base_url=site.url, follow_redirects=False)


def admin_in(client: TestClient, name: str = "root") -> None:
    answer = client.post("/admin/login", data={"username": name, "password": "right"})
    assert answer.status_code == 302, answer.text


def is_admin(client: TestClient) -> bool:
    answer = client.get("/admin/note/list")
    assert answer.status_code in (200, 302)
    return answer.status_code == 200


def user(client: TestClient) -> str | None:
    name: str | None = client.get("/me").json().get("user_id")
    return name


def side_by_side(options: Options, site: Site) -> Starlette:
    backend = Backend(SECRET, https_only=site.https_only)
    return application(backend, options(https_only=site.https_only))


Step = Callable[[TestClient], object]


def as_user(client: TestClient) -> None:
    client.post("/sign-in/ann")


@pytest.mark.parametrize("steps", [(as_user, admin_in), (admin_in, as_user)])
def test_side_by_side(
    options: Options, records: Records, site: Site, steps: tuple[Step, Step]
) -> None:
    """Both log-ins hold in either order: two cookies, and each session has its own data."""
    with browser(side_by_side(options, site), site) as client:
        for step in steps:
            step(client)
        assert user(client) == "ann"
        assert is_admin(client)
        assert set(client.cookies) == {site.cookie, THEIR_COOKIE}
        token = client.cookies[site.cookie]
        assert records.ids() == {id_of(token)}
        assert records.read(token) == {"user_id": "ann"}


def test_user_signs_out(options: Options, records: Records, site: Site) -> None:
    """The user's sign-out leaves sqladmin's log-in."""
    with browser(side_by_side(options, site), site) as client:
        as_user(client)
        admin_in(client)
        client.post("/sign-out")
        assert user(client) is None
        assert is_admin(client)
        assert set(client.cookies) == {THEIR_COOKIE}
        assert records.ids() == set()


def test_admin_signs_out(options: Options, site: Site) -> None:
    """sqladmin's log-out, a clear() in its own session, leaves the user's."""
    with browser(side_by_side(options, site), site) as client:
        as_user(client)
        admin_in(client)
        token = client.cookies[site.cookie]
        assert client.get("/admin/logout").status_code == 302
        assert not is_admin(client)
        assert user(client) == "ann"
        assert client.cookies[site.cookie] == token


def test_wrong_password(options: Options, site: Site) -> None:
    """A refused admin log-in changes nothing for the user, and sends no cookie."""
    with browser(side_by_side(options, site), site) as client:
        as_user(client)
        answer = client.post("/admin/login", data={"username": "root", "password": "wrong"})
        assert answer.status_code == 400
        assert "set-cookie" not in answer.headers
        assert not is_admin(client)
        assert user(client) == "ann"


def test_shared(options: Options, records: Records, site: Site) -> None:
    """Without sqladmin's middleware its log-in is in our session, in Redis, and nowhere else."""
    app = application(SharedBackend(), options(https_only=site.https_only))
    with browser(app, site) as client:
        as_user(client)
        assert not is_admin(client)
        admin_in(client)
        assert is_admin(client)
        assert user(client) == "ann"
        assert set(client.cookies) == {site.cookie}
        assert records.read(client.cookies[site.cookie]) == {"user_id": "ann", "admin": "root"}


def test_shared_logout_ends_both(options: Options, records: Records, site: Site) -> None:
    """In a shared session, the clear() of sqladmin's log-out signs the user out as well."""
    app = application(SharedBackend(), options(https_only=site.https_only))
    with browser(app, site) as client:
        as_user(client)
        admin_in(client)
        client.get("/admin/logout")
        assert not is_admin(client)
        assert user(client) is None
        assert records.ids() == set()


def test_shared_principal(options: Options, records: Records, site: Site) -> None:
    """An admin who is the application's principal gets a new id, as with any sign-in."""
    app = application(SharedUserBackend(), options(https_only=site.https_only))
    with browser(app, site) as client:
        as_user(client)
        before = client.cookies[site.cookie]
        assert not is_admin(client)
        admin_in(client)
        assert is_admin(client)
        assert user(client) == "root"
        after = client.cookies[site.cookie]
        assert id_of(after) != id_of(before)
        assert records.read(before) is None
        assert records.ids() == {id_of(after)}


def test_shared_with_rotation(options: Options, records: Records, site: Site) -> None:
    """Rights that come and go with rotate() change the token and leave the user signed in."""
    app = application(SharedButRotating(), options(https_only=site.https_only))
    with browser(app, site) as client:
        as_user(client)
        tokens = [client.cookies[site.cookie]]
        admin_in(client)
        assert is_admin(client)
        tokens.append(client.cookies[site.cookie])
        client.get("/admin/logout")
        assert not is_admin(client)
        assert user(client) == "ann"
        tokens.append(client.cookies[site.cookie])
    assert len(set(tokens)) == 3
    assert [records.read(token) for token in tokens] == [None, None, {"user_id": "ann"}]


def test_separate(
    options: Options, records: Records, site: Site, redis_url: str, prefix: str
) -> None:
    """Our middleware in sqladmin's mount, under a second cookie, keeps two sessions in Redis."""
    name = "__Host-admin" if site.https_only else "admin"
    ours = options(https_only=site.https_only)
    theirs = {**ours, "session_cookie": name, "prefix": f"{prefix}admin:", "principal": "admin"}
    backend = SeparateBackend(theirs)
    with browser(application(backend, ours), site) as client:
        as_user(client)
        admin_in(client)
        assert user(client) == "ann"
        assert is_admin(client)
        assert records.read(client.cookies[site.cookie]) == {"user_id": "ann"}
        admins = Records(redis_url, f"{prefix}admin:")
        assert admins.read(client.cookies[name]) == {"admin": "root"}
        client.post("/sign-out")
        assert is_admin(client)
        client.get("/admin/logout")
        assert not is_admin(client)
        assert records.ids() == set()


def test_same_cookie_name(options: Options) -> None:
    """A cookie of ours named `session` collides with sqladmin's: log-ins are lost, no errors."""
    backend = Backend(SECRET)
    app = application(backend, options(https_only=False, session_cookie=THEIR_COOKIE))
    with TestClient(app, follow_redirects=False) as client:
        as_user(client)
        admin_in(client)
        assert user(client) is None
        assert is_admin(client)


def test_their_cookie_renamed(options: Options) -> None:
    """sqladmin's backend takes `session_cookie`, which ends such a collision from its side."""
    backend = Backend(SECRET, session_cookie="admin")
    app = application(backend, options(https_only=False, session_cookie=THEIR_COOKIE))
    with TestClient(app, follow_redirects=False) as client:
        as_user(client)
        admin_in(client)
        assert user(client) == "ann"
        assert is_admin(client)
        assert set(client.cookies) == {THEIR_COOKIE, "admin"}
