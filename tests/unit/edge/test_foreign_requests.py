"""What a request gets that another origin caused, and what is told of it."""

from __future__ import annotations

import logging
from operator import methodcaller
from typing import Any, Final

import pytest
from starlette.types import Message, Receive, Scope, Send

from redis_sessions import (
    ConfigurationError,
    CookieTransport,
    CrossSiteError,
    HeaderTransport,
    Session,
    SessionError,
    SessionMiddleware,
)
from redis_sessions.http.cross_site import MOST_TOLD
from tests.support.asgi import COOKIE, ask
from tests.unit.edge.edge import BODY, Act, Edge, Headers, responding, setting, start
from tests.unit.edge.foreign import CROSS, DENYING, EVIL, POST, SOCKET, caused, sees

# -- what it gets

READS: Final[dict[str, Act]] = {
    "len": len,
    "get": lambda session: session.get("user_id"),
    "pop": lambda session: session.pop("user_id", None),
    "principal": lambda session: session.principal,
    "id": lambda session: session.id,
    "copy": lambda session: {**session, **session.copy()},
    "mark_accessed": methodcaller("mark_accessed"),
    "sign_out": methodcaller("sign_out"),
    "get_as": lambda session: session.get_as("cart", str),
}


@pytest.mark.parametrize("act", READS.values(), ids=READS)
@pytest.mark.parametrize("lazy", [False, True])
async def test_reading(at: Edge, act: Act, lazy: bool) -> None:
    """It is as without a cookie: empty, new, nobody's, and nothing is asked of the store."""
    token = await at.begin({"user_id": "alice"})
    at.away.away = True
    seen: list[Any] = []

    def look(session: Session) -> None:
        act(session)
        seen.append((dict(session), session.is_new, session.id, session.principal))

    await at.serve(responding(look), token, headers=CROSS, scope=POST, lazy=lazy)
    assert (at.status, seen) == (200, [({}, True, None, None)])
    assert at.header("set-cookie") == at.header("cache-control") == []


WRITES: Final[dict[str, Act]] = {
    "[] =": setting(x=1),
    "setdefault": lambda session: session.setdefault("x", 1),
    "update": lambda session: session.update(x=1),
    "|=": lambda session: session.__ior__({"x": 1}),
    "sign_in": lambda session: session.sign_in("mallory"),
    "authenticated": methodcaller("authenticated"),
    "rotate": methodcaller("rotate"),
    "clear": methodcaller("clear"),
    "expire_in": lambda session: session.expire_in(60),
    "mark_modified": methodcaller("mark_modified"),
    "exclusive": methodcaller("exclusive"),
    "past its methods": lambda session: dict.__setitem__(session, "x", 1),
}


@pytest.mark.parametrize("act", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("cookie", [True, False])
async def test_writing(at: Edge, act: Act, cookie: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is a 403 that leaves the cookie as it is, and the log says what to write."""
    token = await at.begin({"user_id": "alice"})
    before = len(at.away)
    went_on: list[Session] = []

    def doing(session: Session) -> None:
        act(session)
        went_on.append(session)

    await at.serve(responding(doing), token if cookie else None, headers=CROSS, scope=POST)
    assert (at.status, at.token) == (403, None)
    assert (went_on == []) is (act is not WRITES["past its methods"])
    assert at.sent[1]["body"] == b"Another origin caused this request"
    assert (len(at.away), await at.data(token)) == (before, {"user_id": "alice"})
    assert at.reported("rejected") == ["cross-site"]
    assert caplog.text.count(f"write trusted_origins=['{EVIL}']") == 1


async def test_what_the_application_sees(at: Edge) -> None:
    """An error of its own, with a status for handlers of HTTP exceptions, where it writes."""
    token = await at.begin({"x": 1})
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session: Session = scope["session"]
        await session.refresh()
        await session.save()
        seen.append([keys async for keys in session.changes()])
        for act in (WRITES["sign_in"], WRITES["update"]):
            with pytest.raises(CrossSiteError) as caught:
                act(session)
            seen.append((caught.value.status_code, str(caught.value.__cause__)))  # type: ignore[attr-defined]  # it is an HTTPException, too
        with pytest.raises(CrossSiteError):
            await at.manager.update(session, methodcaller("update", x=2))
        dict.__setitem__(session, "x", 2)
        with pytest.raises(CrossSiteError):
            await session.save()
        dict.clear(session)
        await send(start(status=418))
        await send(BODY)

    await at.serve(app, token, headers=CROSS, scope=POST)
    assert at.status == 418  # the application has answered it by itself
    (changes, *errors) = seen
    assert changes == []
    assert [(status, EVIL in told) for status, told in errors] == [(403, True)] * 2
    assert await at.data(token) == {"x": 1}


async def test_a_request_of_a_principal_ends_no_session_of_its_own(at: Edge) -> None:
    """revoke_all() in such a request ends all, and doesn't take the request for one of them."""
    token = await at.begin({"user_id": "alice"})
    counts: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        counts.append(await at.manager.revoke_all("alice"))
        await send(start())
        await send(BODY)

    await at.serve(app, token, headers=CROSS, scope=POST)
    assert (at.status, at.token, counts) == (200, None, [1])


@pytest.mark.parametrize("scope", [POST, DENYING, SOCKET], ids=["POST", "denial", "close"])
@pytest.mark.parametrize("token", [True, False])
async def test_refusing(
    at: Edge, scope: dict[str, Any], token: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The application doesn't run: it is a 403, or the handshake is denied."""
    ran: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ran.append(scope)

    brought = await at.begin({"x": 1}) if token else None
    await at.serve(app, brought, headers=CROSS, scope=scope, cross_site="refuse")
    assert ran == []
    if scope is SOCKET:
        close = {"type": "websocket.close", "code": 1008, "reason": "another origin caused this"}
        assert at.sent == [close]
    else:
        assert (at.status, at.header("set-cookie")) == (403, [])
    assert at.reported("rejected") == ["cross-site"]
    assert f"trusted_origins=['{EVIL}']" in caplog.text


async def test_refusing_lets_others_through(at: Edge) -> None:
    """What is safe, our own, or trusted is served with its session."""
    for headers, scope in (
        (CROSS, {"method": "GET"}),
        (caused("https://shop.example", "same-origin"), POST),
        (caused("https://app.example.com", "same-site"), POST),
    ):
        options = {"cross_site": "refuse", "trusted_origins": ["https://app.example.com"]}
        assert await sees(at, headers, scope, **options)


@pytest.mark.parametrize("same_site", ["lax", "strict", "none"])
async def test_allowing(at: Edge, same_site: Any) -> None:
    """Whoever causes it: the session is there."""
    transport = CookieTransport(same_site=same_site)
    assert await sees(at, CROSS, transport=transport, cross_site="allow")


@pytest.mark.parametrize("same_site", ["lax", "strict", "none"])
async def test_the_cookies_same_site_does_not_matter(at: Edge, same_site: Any) -> None:
    """With SameSite=None any site's form brings the cookie, so it is guarded most of all."""
    transport = CookieTransport(same_site=same_site)
    assert not await sees(at, CROSS, transport=transport)
    assert await sees(at, CROSS, transport=transport, trusted_origins=[EVIL])


# -- sockets

ACCEPT: Final[Message] = {"type": "websocket.accept"}


@pytest.mark.parametrize("scope", [DENYING, SOCKET], ids=["denial", "close"])
async def test_a_socket_that_writes(at: Edge, scope: dict[str, Any]) -> None:
    """Before it is accepted it is denied; afterwards it is closed."""
    token = await at.begin({"x": 1})
    late: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if late:
            await send(ACCEPT)
        scope["session"]["x"] = 2

    await at.serve(app, token, headers=CROSS, scope=scope)
    close = {"type": "websocket.close", "code": 1008, "reason": "another origin caused this"}
    assert at.status == 403 if scope is DENYING else at.sent == [close]
    late.append(True)
    await at.serve(app, token, headers=CROSS, scope=scope)
    assert at.sent[1:] == [close]
    assert await at.data(token) == {"x": 1}


# -- transports

BOTH: Final = [CookieTransport(), HeaderTransport()]
NAME: Final = b"x-session-token"


async def test_a_header_comes_by_nobody_itself(at: Edge) -> None:
    """Another origin's page has to be allowed to send it, so nothing is guarded."""
    token = await at.begin({"user_id": "alice"})
    seen: list[Session] = []
    headers = [*CROSS, (NAME, token.encode())]
    for choice in ("anonymous", "refuse"):
        await at.serve(
            responding(seen.append),
            headers=headers,
            scope=POST,
            transport=HeaderTransport(),
            cross_site=choice,
        )
        assert seen.pop() == {"user_id": "alice"}


class Unsaid:
    """A transport of one's own that doesn't say whether browsers send its token by themselves."""

    secure = cross_site = False
    vary, key = "X-Session-Token", ("own", "x-session-token")
    read, send, expire = HeaderTransport().read, HeaderTransport().send, HeaderTransport().expire


async def test_a_transport_that_says_nothing(at: Edge) -> None:
    """It is guarded as a cookie is, alone and beside a header that isn't."""
    alice = await at.begin({"user_id": "alice"})
    unsaid: Any = Unsaid()
    seen: list[Session] = []
    for transport in (unsaid, [unsaid, HeaderTransport("X-Other")]):
        for headers in (CROSS, caused()):
            await at.serve(
                responding(seen.append),
                headers=[*headers, (NAME, alice.encode())],
                scope=POST,
                transport=transport,
            )
        assert [dict(session) for session in seen[-2:]] == [{}, {"user_id": "alice"}]


@pytest.mark.parametrize("choice", ["anonymous", "refuse"])
async def test_a_header_beside_a_cookie(at: Edge, choice: str) -> None:
    """The session of the header is served, and the cookie isn't looked at."""
    alice, bob = await at.begin({"user_id": "alice"}), await at.begin({"user_id": "bob"})
    options: dict[str, Any] = {"transport": BOTH, "cross_site": choice, "scope": POST}
    seen: list[Session] = []
    await at.serve(
        responding(seen.append), alice, headers=[*CROSS, (NAME, bob.encode())], **options
    )
    assert [dict(session) for session in seen] == [{"user_id": "bob"}]
    await at.serve(responding(setting(x=1)), alice, headers=[*CROSS, (NAME, b"no")], **options)
    assert (at.status, at.token, await at.data(alice)) == (200, None, {"user_id": "alice"})


async def test_a_first_token_by_header(at: Edge) -> None:
    """A client that sends the header empty signs in, and is told in the header, not the cookie."""
    alice = await at.begin({"user_id": "alice"})
    await at.serve(
        responding(methodcaller("sign_in", "bob")),
        alice,
        headers=[*CROSS, (NAME, b"")],
        scope=POST,
        transport=BOTH,
    )
    [token] = at.header(NAME.decode())
    assert (at.token, await at.data(token)) == (None, {"user_id": "bob"})
    assert await at.data(alice) == {"user_id": "alice"}


async def test_a_cookie_where_a_header_is_possible(at: Edge) -> None:
    """It doesn't count, and the header answers nothing."""
    assert not await sees(at, CROSS, transport=BOTH)
    await at.serve(responding(setting(x=1)), headers=CROSS, scope=POST, transport=BOTH)
    assert (at.status, at.header(NAME.decode())) == (403, [])


# -- several middlewares


async def test_in_a_mounted_application(at: Edge) -> None:
    """The same middleware inside of another one sees what the outer one lets it see."""
    token = await at.begin({"x": 1})
    seen: list[Any] = []
    inner = SessionMiddleware(responding(lambda s: seen.append(dict(s))), manager=at.manager)
    for options in ({}, {"trusted_origins": [EVIL]}, {"cross_site": "allow"}):
        await at.serve(inner, token, headers=CROSS, scope=POST, **options)
    assert seen == [{}, {"x": 1}, {"x": 1}]


@pytest.mark.parametrize(
    "options",
    [{"cross_site": "refuse"}, {"cross_site": "allow"}, {"trusted_origins": [EVIL]}],
    ids=str,
)
async def test_options_of_the_inner_one(at: Edge, options: dict[str, Any]) -> None:
    """They would do nothing, so they are an error, unless the outer one has the same."""
    inner = SessionMiddleware(responding(), manager=at.manager, **options)
    with pytest.raises(ConfigurationError, match="give them to the outer one"):
        await at.serve(inner)
    await at.serve(inner, **options)
    assert at.status == 200


# -- what is told


async def test_what_is_told_without_a_cookie(at: Edge, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing, if nothing was missed: other origins may well use what needs no session."""
    await at.serve(responding(len), headers=CROSS, scope=POST)
    assert at.events == []
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        (CROSS, f"If this origin is yours, write trusted_origins=['{EVIL}']"),
        (caused("HTTP://App.Example.com:80"), "trusted_origins=['http://app.example.com']"),
        (caused(EVIL), "that of the header Host, 'shop.example': if a proxy has replaced this"),
        (caused("null", "cross-site"), "its origin is 'null', as browsers send it from sandboxed"),
        (caused(site="cross-site"), "it names no origin"),
        (caused("\x1b[2J\n" + "x" * 999), r"its origin is '\x1b[2J\n" + "x" * 95 + "'"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_the_log(
    at: Edge, headers: Headers, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the origin, and what to write if it is trusted; with nothing hidden in it."""
    await sees(at, headers)
    assert told in caplog.text


async def test_the_log_is_bounded(at: Edge, caplog: pytest.LogCaptureFixture) -> None:
    """Each origin once, and not any number of them; the events count on."""
    token = await at.begin({"x": 1})
    middleware = SessionMiddleware(responding(len), manager=at.manager)
    for number in range(MOST_TOLD + 5):
        for site in (None, "cross-site"):
            headers = caused(f"https://{number}.x", site)
            headers.append((b"cookie", f"{COOKIE}={token}".encode()))
            (await ask(middleware, headers, method="POST")).checked()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * MOST_TOLD
    assert caplog.records[-1].getMessage().endswith("Further origins aren't logged")
    assert at.manager.counts["rejected: cross-site"] == 2 * (MOST_TOLD + 5)


# -- nothing is missing


def test_every_method_that_writes_is_refused() -> None:
    """A new method of Session, or of dict, is in one of the two lists above, or does no harm."""
    known = {
        *("__setitem__", "setdefault", "update", "__ior__", "sign_in", "authenticated", "rotate"),
        *("clear", "expire_in", "mark_modified", "exclusive"),
    }
    harmless = {
        *("__delitem__", "pop", "popitem"),  # of nothing
        *("sign_out", "mark_accessed", "get_as", "save", "refresh", "changes", "untouched"),
        *("get", "keys", "values", "items", "copy", "fromkeys"),
        *("id", "is_new", "created_at", "expires_at", "authenticated_at", "principal"),
        *("idle_expires_at", "authentication_methods", "messages"),
    }
    plain = {name for name in dir(Session) if not name.startswith("_")}
    assert plain - known - harmless == set()


def test_the_error() -> None:
    """It is one of ours, and has its place beside the others."""
    assert issubclass(CrossSiteError, SessionError)
