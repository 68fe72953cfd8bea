"""One middleware with several transports: one session for browsers and other clients."""

# No `from __future__ import annotations`: FastAPI resolves what closures are annotated with.

from typing import Annotated, Any, Final

import httpx2
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from redis_sessions import (
    ConfigurationError,
    CookieTransport,
    HeaderTransport,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from redis_sessions.fastapi import session_security
from redis_sessions.http.transports import Transport
from redis_sessions.testing import store_session
from tests.support.apps import Events, client_of, doing, manager_on, token_in
from tests.support.asgi import COOKIE, ask

HEADER: Final = "X-Session-Token"
BOTH: Final[list[Transport]] = [CookieTransport(), HeaderTransport()]


class Site:
    """An application with both transports, and what it reported."""

    def __init__(self, *, lazy: bool = False, transport: Any = BOTH, **options: Any) -> None:
        self.events = Events()
        self.manager = manager_on(MemoryStore(), on_event=self.events)
        self.app: Starlette = doing(
            Route("/do-lazily", self._lazily),
            Route("/end", self._end),
            manager=self.manager,
            transport=transport,
            lazy=lazy,
            **options,
        )

    async def _lazily(self, request: Request) -> JSONResponse:
        session = get_session(request)
        await session.refresh()
        session["user_id"] = "bob"
        return JSONResponse(dict(session))

    async def _end(self, request: Request) -> JSONResponse:
        session = get_session(request)
        await session.refresh()
        if "clear" in request.query_params:
            session.clear()
        if "sign_out" in request.query_params:
            session.sign_out()
        return JSONResponse(dict(session))

    async def token(self, **data: Any) -> str:
        return await store_session(self.manager, data)

    async def get(self, path: str, *, cookie: str | None = None, header: str | None = None) -> Any:
        """The response to a client that brings these."""
        async with client_of(self.app, cookie) as client:
            headers = {} if header is None else {HEADER: header}
            return await client.get(path, headers=headers)


def answer(response: httpx2.Response) -> tuple[str | None, str | None]:
    """What the response says of the token: in the cookie, and in the header."""
    return token_in(response), response.headers.get(HEADER)


SIGN_IN: Final = "/do?set=user_id:alice"


async def test_a_browser_and_another_client_share_the_session() -> None:
    """The token that a browser got in its cookie opens the session in the header, too."""
    site = Site()
    token, header = answer(await site.get(SIGN_IN))
    assert token is not None
    assert header is None
    for brought in ({"cookie": token}, {"header": token}, {"cookie": token, "header": token}):
        assert (await site.get("/do", **brought)).json() == {"user_id": "alice"}


@pytest.mark.parametrize("what", ["set=user_id:alice", "rotate="])
@pytest.mark.parametrize("way", ["cookie", "header"])
async def test_the_transport_that_brought_the_token_answers(way: str, what: str) -> None:
    """A new token goes back the way that the old one came, and that way alone."""
    site = Site()
    token = await site.token(cart="tea")
    new = answer(await site.get(f"/do?{what}", **{way: token}))
    assert [value is not None for value in new] == [way == "cookie", way == "header"]
    assert token not in new


@pytest.mark.parametrize(
    ("way", "ended"), [("cookie", ("null", None)), ("header", (None, ""))], ids=["cookie", "header"]
)
async def test_the_end_is_told_the_same_way(way: str, ended: tuple[str | None, str | None]) -> None:
    """As the cookie's expiry, or as the empty header."""
    site = Site()
    token = await site.token(user_id="alice")
    assert answer(await site.get("/do?clear=", **{way: token})) == ended


@pytest.mark.parametrize("first", ["cookie", "header"])
async def test_where_none_brought_one_the_first_answers(first: str) -> None:
    """The order of the list decides what a client without a token gets."""
    site = Site(transport=BOTH if first == "cookie" else BOTH[::-1])
    cookie, header = answer(await site.get(SIGN_IN))
    assert (cookie is not None, header is not None) == (first == "cookie", first == "header")


@pytest.mark.parametrize("brought", ["", "junk", "A" * 64], ids=["empty", "malformed", "unknown"])
async def test_a_client_of_the_header_goes_on_with_the_header(brought: str) -> None:
    """A token that opens nothing (any more), or an empty one, tells which kind of client asks."""
    site = Site()
    cookie, header = answer(await site.get(SIGN_IN, header=brought))
    assert cookie is None
    assert header is not None
    assert (
        site.events.named("rejected")
        == {
            "": [],
            "junk": ["malformed token"],
            "A" * 64: ["unknown id"],
        }[brought]
    )


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("opens", ["cookie", "header"])
async def test_the_token_that_opened_decides(opens: str, lazy: bool) -> None:
    """Of two tokens one opens nothing: the answer goes the other one's way."""
    site = Site(lazy=lazy)
    brought = {"cookie": "A" * 64, "header": "B" * 64, opens: await site.token(cart="tea")}
    cookie, header = answer(await site.get("/do-lazily", **brought))
    assert (cookie is not None, header is not None) == (opens == "cookie", opens == "header")


async def test_two_different_tokens_open_nothing() -> None:
    """As two cookies do: no session, and an event."""
    site = Site()
    tokens = {
        "cookie": await site.token(user_id="alice"),
        "header": await site.token(user_id="bob"),
    }
    assert (await site.get("/do", **tokens)).json() == {}
    assert site.events.named("rejected") == ["several tokens open a session"]
    for way, token in tokens.items():
        assert (await site.get("/do", **{way: token})).json() != {}


@pytest.mark.parametrize("end", ["clear=", "sign_out="])
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
async def test_signing_out_with_two_different_tokens_ends_both(end: str, lazy: bool) -> None:
    """The client holds both: neither opens any more, and the transport that answers is told."""
    site = Site(lazy=lazy)
    tokens = {
        "cookie": await site.token(user_id="alice"),
        "header": await site.token(user_id="bob"),
    }
    response = await site.get(f"/end?{end}", **tokens)
    assert response.status_code == 200
    assert answer(response) == ("null", None)
    assert site.events.named("ended") == ["cleared", "cleared"]
    for way, token in tokens.items():
        assert (await site.get("/end", **{way: token})).json() == {}
    for user in ("alice", "bob"):
        assert await site.manager.sessions_of(user) == []


async def test_signing_in_after_a_sign_out_with_two_different_tokens() -> None:
    """What comes after the sign-out is a session of its own."""
    site = Site()
    tokens = {
        "cookie": await site.token(user_id="alice"),
        "header": await site.token(user_id="bob"),
    }
    token, _ = answer(await site.get("/do?sign_out=&set=user_id:carol&set=a:1", **tokens))
    assert token is not None
    assert (await site.get("/do", cookie=token)).json() == {"user_id": "carol", "a": "1"}
    assert len(site.events.named("ended")) == 2


async def test_a_failed_request_signs_out_with_two_different_tokens() -> None:
    """A sign-out holds whatever the response is."""
    site = Site()
    tokens = {
        "cookie": await site.token(user_id="alice"),
        "header": await site.token(user_id="bob"),
    }
    assert (await site.get("/do?clear=&status=500", **tokens)).status_code == 500
    assert site.events.named("ended") == ["cleared", "cleared"]


@pytest.mark.parametrize("end", ["clear=", "sign_out="])
async def test_signing_out_with_two_cookies(redis_url: str, prefix: str, end: str) -> None:
    """As with a cookie that somebody planted beside the browser's own."""
    events = Events()
    manager = manager_on(redis_url, prefix, on_event=events)
    tokens = [await store_session(manager, {"user_id": user}) for user in ("alice", "mallory")]
    cookies = "; ".join(f"{COOKIE}={token}" for token in tokens)
    async with client_of(doing(manager=manager)) as client:
        response = await client.get(f"/do?{end}", headers={"Cookie": cookies})
    assert token_in(response) == "null"
    assert events.named("ended") == ["cleared", "cleared"]
    for token in tokens:
        assert (await manager.load(token)).is_new


async def test_the_same_token_twice_opens() -> None:
    """It is one token, and one session."""
    site = Site()
    token = await site.token(user_id="alice")
    assert (await site.get("/do", cookie=token, header=token)).json() == {"user_id": "alice"}
    assert site.events.named("rejected") == []


async def test_vary_names_each() -> None:
    """Also beside what the application varies by, and each once."""

    async def varied(request: Request) -> JSONResponse:
        return JSONResponse(request.session, headers={"Vary": "Accept, cookie"})

    async def anything(request: Request) -> JSONResponse:
        return JSONResponse(request.session, headers={"Vary": "*"})

    app = doing(
        Route("/varied", varied),
        Route("/anything", anything),
        manager=manager_on(MemoryStore()),
        transport=[*BOTH, CookieTransport("other")],
    )
    async with client_of(app) as client:
        told = [
            (await client.get(path)).headers["vary"] for path in ("/do", "/varied", "/anything")
        ]
    assert told == ["Cookie, X-Session-Token", "Accept, cookie, X-Session-Token", "*"]


@pytest.mark.parametrize(
    ("headers", "begins"),
    [([], False), ([(b"x-session-token", b"")], True)],
    ids=["cookie", "header"],
)
async def test_the_cross_site_guard_is_the_answering_transports(
    headers: list[tuple[bytes, bytes]], begins: bool
) -> None:
    """A form of another site begins no session by cookie; a header doesn't come from forms."""
    site = Site(transport=[CookieTransport(), _Anywhere()])
    cross = [*headers, (b"sec-fetch-site", b"cross-site")]
    told = dict((await ask(site.app, cross, path="/do?set=a:1", method="POST")).headers)
    assert (b"x-session-token" in told, b"set-cookie" in told) == (begins, False)


class _Anywhere(HeaderTransport):
    cross_site = True


@pytest.mark.parametrize(("way", "warned"), [("cookie", True), ("header", False)])
async def test_only_a_cookie_is_warned_of(
    way: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Over plain http a Secure cookie is lost; a header isn't."""
    site = Site()
    token = (await site.token(cart="tea")).encode()
    name = f"{COOKIE}=".encode() if way == "cookie" else b""
    header = (b"cookie" if way == "cookie" else b"x-session-token", name + token)
    (await ask(site.app, [header], path="/do?rotate=", scheme="http")).checked()
    assert ("Secure session cookie" in caplog.text) is warned


async def test_dependencies_find_it_by_either_name() -> None:
    """session_security() of the cookie and of the header are the same session."""
    app = FastAPI()
    by_cookie, by_header = session_security(cookie=COOKIE), session_security(header=HEADER)

    @app.get("/")
    async def same(
        one: Annotated[Session, Depends(by_cookie.session)],
        other: Annotated[Session, Depends(by_header.session)],
    ) -> bool:
        return one is other

    @app.get("/no")
    async def no(
        session: Annotated[Session, Depends(session_security(cookie="no").session)],
    ) -> None: ...

    app.add_middleware(SessionMiddleware, manager=manager_on(MemoryStore()), transport=BOTH)
    async with client_of(app) as client:
        assert (await client.get("/")).json() is True
        with pytest.raises(ConfigurationError, match="'no'"):
            await client.get("/no")


@pytest.mark.parametrize(
    ("inner", "works"),
    [(BOTH, True), (BOTH[0], True), (BOTH[1], True), ([*BOTH, CookieTransport("b")], False)],
    ids=["both", "the cookie", "the header", "more"],
)
async def test_inside_of_itself_it_stands_aside(inner: Any, works: bool) -> None:
    """A mount with the same manager and some of the transports shares the session."""

    async def write(request: Request) -> JSONResponse:
        request.session["in"] = "mount"
        return JSONResponse(request.session)

    site = Site()
    mounted = Starlette(
        routes=[Route("/write", write)],
        middleware=[Middleware(SessionMiddleware, manager=site.manager, transport=inner)],
    )
    site.app.routes.append(Mount("/sub", mounted))
    token = await site.token(a="1")
    if works:
        response = await site.get("/sub/write", header=token)
        assert response.json() == {"a": "1", "in": "mount"}
        assert (await site.get("/do", header=token)).json() == {"a": "1", "in": "mount"}
    else:
        with pytest.raises(ConfigurationError, match="share the prefix"):
            await site.get("/sub/write", header=token)


async def test_another_realm_inside() -> None:
    """With another manager the same header is refused; a header of its own nests."""
    site = Site()
    other: SessionManager = manager_on(MemoryStore(prefix="other:"))

    async def show(request: Request) -> JSONResponse:
        return JSONResponse(request.session)

    def inside(transport: Transport) -> Starlette:
        ours = Middleware(SessionMiddleware, manager=other, transport=transport)
        return Starlette(routes=[Route("/show", show)], middleware=[ours])

    site.app.routes.append(Mount("/same", inside(HeaderTransport(HEADER))))
    site.app.routes.append(Mount("/other", inside(HeaderTransport("X-Other"))))
    token = await site.token(a="1")
    with pytest.raises(ConfigurationError, match="different managers share"):
        await site.get("/same/show")
    assert (await site.get("/other/show", header=token)).json() == {}
