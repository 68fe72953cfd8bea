"""`login_required`: who is sent to the sign-in page, how, and back to which page."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket

from redis_sessions import (
    ConfigurationError,
    SessionManager,
    SessionMiddleware,
)
from redis_sessions.fastapi import (
    OptionalPrincipalDep,
    SessionDep,
    fresh,
    login_required,
    session_security,
)
from redis_sessions.testing import store_session
from tests.support.asgi import Reply, ask, cookie
from tests.unit.setting import ALICE, Setting
from tests.unit.tracebacks.shown import ours

Header = tuple[bytes, bytes]

NAVIGATES: Header = (b"sec-fetch-mode", b"navigate")
HTML: Header = (b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8")
HTMX: Header = (b"hx-request", b"true")
HOST: Header = (b"host", b"shop.example")

UserDep = Annotated[str, Depends(login_required("/login"))]

router = APIRouter()


@router.api_route("/me", methods=["GET", "HEAD", "POST", "QUERY"], include_in_schema=False)
@router.get("/users/{name:path}")
async def me(user: UserDep) -> str:
    return user


@router.get("/named")
async def named(user: Annotated[str, Depends(login_required("sign_in_page"))]) -> str:
    return user


@router.get("/other")
async def other(user: Annotated[str, Depends(login_required("no_such_route"))]) -> str:
    return user


@router.get("/query")
async def query(user: Annotated[str, Depends(login_required("/login?lang=en"))]) -> str:
    return user


@router.get("/login")
async def sign_in_page(user: UserDep) -> str:
    return user


@router.get("/optional")
async def optional(user: OptionalPrincipalDep) -> str | None:
    return user


@router.get("/fresh")
async def pay(user: Annotated[str, Depends(fresh(300, page="/confirm"))]) -> str:
    return user


@router.websocket("/socket")
async def socket(socket: WebSocket, user: UserDep) -> None:
    await socket.accept()
    await socket.send_text(user)
    await socket.close()


def app_with(manager: SessionManager, **options: Any) -> FastAPI:
    app, mounted = FastAPI(), FastAPI()
    app.include_router(router)
    mounted.include_router(router)
    app.mount("/shop", mounted)
    app.add_middleware(SessionMiddleware, manager=manager, **options)
    return app


async def visit(
    manager: SessionManager, path: str, *headers: Header, token: str = "", **fields: Any
) -> Reply:
    more = [(b"cookie", cookie(token))] if token else []
    return await ask(app_with(manager), [HOST, *headers, *more], path=path, **fields)


def header(reply: Reply, name: bytes) -> str | None:
    found = [value.decode() for key, value in reply.headers if key == name]
    assert len(found) < 2
    return found[0] if found else None


@pytest.mark.parametrize(
    "headers",
    [
        [NAVIGATES],
        [NAVIGATES, (b"accept", b"*/*")],
        [HTML],
        [(b"accept", b"TEXT/HTML ; q=0.5")],
        [(b"accept", b"application/json"), (b"accept", b"application/xhtml+xml")],
        [HTML, (b"sec-fetch-mode", b"cors")],  # as Turbo asks for a page
        [HTML, (b"hx-request", b"false")],
    ],
)
async def test_pages_are_redirected(manager: SessionManager, headers: list[Header]) -> None:
    """A request that takes HTML gets 303 to the page, which no cache keeps."""
    reply = await visit(manager, "/me", *headers)
    assert reply.status == 303
    assert header(reply, b"location") == "/login?next=/me"
    assert header(reply, b"cache-control") == "no-store"
    assert header(reply, b"vary") == "Accept, HX-Request, Sec-Fetch-Mode, Cookie"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"accept", b"*/*")],
        [(b"accept", b"application/json, text/plain, */*"), (b"sec-fetch-mode", b"cors")],
        [(b"accept", b"image/avif,image/*;q=0.8"), (b"sec-fetch-mode", b"no-cors")],
        [(b"accept", b"text/event-stream")],
        [(b"accept", b"text/html;q=0, application/json")],
        [(b"accept", b"text/html;level=1;q=0.000")],
        [(b"accept", b",;,=;\xff/\xfe;;q")],
    ],
)
async def test_other_requests_are_refused(manager: SessionManager, headers: list[Header]) -> None:
    """A request that doesn't take HTML gets 401 with the challenge, and no place to go to."""
    reply = await visit(manager, "/me", *headers)
    assert reply.status == 401
    assert header(reply, b"www-authenticate") == "Session"
    assert header(reply, b"location") is None
    assert header(reply, b"cache-control") == "no-store"
    assert header(reply, b"vary") == "Accept, HX-Request, Sec-Fetch-Mode, Cookie"


@pytest.mark.parametrize(
    ("current", "to"),
    [
        (b"https://shop.example/cart?a=1#end", "/login?next=/cart%3Fa%3D1%23end"),
        (b"https://other.example/cart", "/login"),
        (b"https://shop.example//other.example", "/login"),
        (b"\xff\x00", "/login"),
        (None, "/login"),
    ],
)
async def test_htmx_goes_to_the_page(
    manager: SessionManager, current: bytes | None, to: str
) -> None:
    """htmx gets 401 with HX-Redirect; `next` is the page that is shown, not the part asked for."""
    more = [] if current is None else [(b"hx-current-url", current)]
    reply = await visit(manager, "/me", HTMX, HTML, *more)
    assert reply.status == 401
    assert header(reply, b"hx-redirect") == to
    assert header(reply, b"location") is None
    assert header(reply, b"www-authenticate") == "Session"


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ("/me?a=1&b=%2F%26", "/login?next=/me%3Fa%3D1%26b%3D%252F%2526"),
        ("/users/a b?ü", "/login?next=/users/a%2520b%3F%25C3%25BC"),
        ("/users/%3F#\x0bX: y", "/login?next=/users/%25253F%2523%250BX%3A%2520y"),
        ("/users/" + 2000 * "a", "/login"),
        ("/query?a=1", "/login?lang=en&next=/query%3Fa%3D1"),
        ("/named", "/login?next=/named"),
        ("/shop/named", "/login?next=/shop/named"),
        ("/shop/me", "/login?next=/shop/me"),
    ],
)
async def test_next_is_the_page(manager: SessionManager, path: str, to: str) -> None:
    """It has path and query as the browser asked for them, encoded and bounded."""
    reply = await visit(manager, path, HTML)
    assert header(reply.checked(), b"location") == to


@pytest.mark.parametrize("stripped", [True, False])
async def test_root_path(manager: SessionManager, stripped: bool) -> None:
    """A prefix that a proxy removes is in `next`, and in a page that is a route's name."""
    prefix = "" if stripped else "/api"
    for path, to in {
        "/me": "/login?next=/api/me",
        "/named": "/api/login?next=/api/named",
    }.items():
        reply = await visit(manager, prefix + path, HTML, root_path="/api")
        assert header(reply.checked(), b"location") == to


@pytest.mark.parametrize("host", [b"[", b"", b"a@[::1", b"\xff", b"shop.example:x", None])
async def test_hosts_that_are_none(manager: SessionManager, host: bytes | None) -> None:
    """The way to the page doesn't depend on `Host`."""
    more = [] if host is None else [(b"host", host)]
    for headers, to in {
        (HTML,): "/login?next=/named",
        (HTMX, (b"hx-current-url", b"https:///x")): "/login",
    }.items():
        reply = await ask(app_with(manager), [*headers, *more], path="/named")
        found = header(reply.checked(), b"location") or header(reply, b"hx-redirect")
        assert found == to


async def test_slashes_at_the_beginning(manager: SessionManager) -> None:
    """A request for a path that would name a host, on a page, has no `next`."""
    app = FastAPI()

    @app.get("/{path:path}")
    async def any_page(user: UserDep) -> None: ...

    app.add_middleware(SessionMiddleware, manager=manager)
    for path in ("//other.example/", "/\\other.example", "/\t/other.example", "/ /x"):
        reply = await ask(app, [HTML], path=path)
        assert header(reply.checked(), b"location") == "/login", path


@pytest.mark.parametrize(
    ("method", "referer", "to"),
    [
        ("HEAD", None, "/login?next=/me%3Fa%3D1"),
        ("POST", None, "/login"),
        ("POST", b"https://shop.example/form?b=2", "/login?next=/form%3Fb%3D2"),
        ("POST", b"https://other.example/form", "/login"),
        ("QUERY", b"https://shop.example/form", "/login?next=/form"),
    ],
)
async def test_next_of_a_form(
    manager: SessionManager, method: str, referer: bytes | None, to: str
) -> None:
    """After a POST it is the page with the form, since nobody can come back to the POST."""
    more = [] if referer is None else [(b"referer", referer)]
    reply = await visit(manager, "/me?a=1", HTML, *more, method=method)
    assert (reply.status, header(reply, b"location")) == (303, to)


async def test_websockets_are_denied(manager: SessionManager) -> None:
    """A WebSocket is denied with 401, or closed, before it is accepted: never redirected."""
    more: dict[str, Any] = {"kind": "websocket"}
    closed = await visit(manager, "/socket", NAVIGATES, **more)
    assert closed.checked().messages == [
        {"type": "websocket.close", "code": 1008, "reason": "Not signed in"}
    ]
    more["extensions"] = {"websocket.http.response": {}}
    denied = await visit(manager, "/socket", NAVIGATES, **more)
    assert (denied.status, header(denied, b"location")) == (401, None)
    token = await store_session(manager, ALICE)
    accepted = await visit(manager, "/socket", token=token, **more)
    assert accepted.kinds == ["websocket.accept", "websocket.send", "websocket.close"]


@pytest.mark.parametrize("lazy", [False, True])
async def test_who_is_signed_in(manager: SessionManager, lazy: bool) -> None:
    """Who is signed in is the str that the endpoint gets; optional, it is None for nobody."""
    app = app_with(manager, lazy=lazy)
    headers = [(b"cookie", cookie(await store_session(manager, {"user_id": 7})))]
    for path in ("/me", "/named", "/optional", "/shop/me", "/login"):
        assert (await ask(app, headers, path=path)).checked().body == b'"7"'
    nobody = await ask(app, path="/optional")
    assert (nobody.status, nobody.body) == (200, b"null")
    assert header(nobody, b"vary") == "Cookie"


async def test_a_page_that_wants_itself(manager: SessionManager) -> None:
    """A sign-in page that itself wants a sign-in says so, instead of redirecting for ever."""
    for path, why in {"/login": "itself wants a sign-in", "/other": "no route"}.items():
        reply = await visit(manager, path, HTML)
        with pytest.raises(ConfigurationError, match=why) as raised:
            reply.checked()
        assert not ours(raised.value)


@pytest.mark.parametrize(
    "page",
    [
        *("", "//other.example", "/\\other.example", "/%2Fother.example", "/ x", "/é", "/a#b"),
        *("https://sso.example/", "https:sso.example/", "a/b", "a b", "\\\\other.example"),
    ],
)
def test_pages_on_this_site_only(page: str) -> None:
    """The page is a path, or the name of a route."""
    for depend in (login_required, session_security(cookie="a").login_required):
        with pytest.raises(ConfigurationError, match="write a path of this site"):
            depend(page)
    with pytest.raises(ConfigurationError, match="write a path of this site"):
        fresh(300, page=page)


OTHER = session_security(cookie="sid")


@pytest.mark.parametrize(
    "factory",
    [login_required, fresh, OTHER.login_required, OTHER.fresh],
    ids=["login_required", "fresh", "its login_required", "its fresh"],
)
def test_a_call_that_was_forgotten(factory: Callable[..., Any]) -> None:
    """`Depends(login_required)` would let everybody pass who gives a `page` in the query."""
    with pytest.raises(ConfigurationError, match=r"write Depends\(login_required\('/login'\)\)"):
        APIRouter().add_api_route("/", lambda: None, dependencies=[Depends(factory)])


def test_it_is_no_decorator() -> None:
    """`@login_required` is refused, too, where it is written."""
    with pytest.raises(ConfigurationError, match="write a path of this site"):
        login_required(me)  # type: ignore[arg-type]  # what is tested  # pyright: ignore[reportArgumentType] - what is tested


async def test_an_old_sign_in(at: Setting) -> None:
    """fresh(page=…): visitors, and who signed in too long ago, go to that page."""
    reply = await visit(at.manager, "/fresh", HTML)
    assert header(reply, b"location") == "/confirm?next=/fresh"
    token = await at.begin(ALICE)
    assert (await visit(at.manager, "/fresh", HTML, token=token)).body == b'"alice"'
    at.clock.advance(301)
    reply = await visit(at.manager, "/fresh", HTML, token=token)
    assert (reply.status, header(reply, b"location")) == (303, "/confirm?next=/fresh")
    reply = await visit(at.manager, "/fresh", HTMX, token=token)
    assert (reply.status, header(reply, b"hx-redirect")) == (401, "/confirm")
    assert header(reply, b"www-authenticate") == (
        'Session error="insufficient_user_authentication", max_age=300'
    )


async def test_while_the_store_is_away(at: Setting) -> None:
    """Nobody is sent to the sign-in page since the store doesn't answer: 503."""
    token = await at.begin(ALICE)
    at.store.away = True
    for path in ("/me", "/optional", "/fresh"):
        assert (await visit(at.manager, path, HTML, token=token)).status == 503


async def test_a_session_that_this_request_begins(manager: SessionManager) -> None:
    """What a dependency before it writes is stored with the redirect, for the sign-in page."""
    app = FastAPI()

    async def count(session: SessionDep) -> None:
        session["seen"] = 1

    @app.get("/me", dependencies=[Depends(count)])
    async def me(user: UserDep) -> None: ...

    app.add_middleware(SessionMiddleware, manager=manager)
    reply = await ask(app, [HTML], path="/me")
    assert reply.status == 303
    assert dict(await manager.load(reply.token.value)) == {"seen": 1}


def test_openapi(manager: SessionManager) -> None:
    """The security scheme is shown as with PrincipalDep, and nothing else of ours."""
    paths = app_with(manager).openapi()["paths"]
    for path in ("/named", "/optional", "/fresh"):
        assert paths[path]["get"]["security"] == [{"session-__Host-session": []}]
        assert "parameters" not in paths[path]["get"]
