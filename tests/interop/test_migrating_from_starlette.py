"""From Starlette's SessionMiddleware to ours: another import, and `store=`."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import itsdangerous
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import Session
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from redis_sessions import Event, SessionMiddleware
from tests.interop.serving import SECRET, Options, Records, id_of

COOKIE = "session"
BOTH = pytest.mark.parametrize("ours", [False, True], ids=["starlette", "redis-sessions"])
UNNOTICED = set[str]() if "popitem" in vars(Session) else {"or", "popitem"}
"""Changes that Starlette's own session doesn't notice: before 1.7."""


async def act(request: Request) -> Response:
    """Each of a dict's ways to change, as applications write them."""
    session = request.session
    match request.path_params["what"]:
        case "set":
            session["user"], session["n"] = "ann", 1
        case "nested":
            session["cart"] = {"apples": {"red": 2}, "list": [1, [2, None]], "ratio": 0.1}
        case "deeper":
            session["cart"]["apples"]["red"] += 1
            session["cart"] = session["cart"]
        case "setdefault":
            session.setdefault("seen", []).append(1)
        case "update":
            session.update({"n": 2}, extra=True)
        case "or":
            session |= {"n": 3}
        case "pop":
            session.pop("user", None)
            session.pop("missing", None)
        case "del":
            del session["cart"]
        case "popitem":
            session.popitem()
        case "forget":
            for key in list(session):
                del session[key]
        case "clear":
            session.clear()
        case "replace":
            session.clear()
            session["fresh"] = "start"
        case "read":
            assert session.get("missing") is None
        case unknown:
            raise AssertionError(unknown)
    return JSONResponse(session)


async def untouched(request: Request) -> Response:
    return Response("none of the session's business")


async def in_place(request: Request) -> Response:
    request.session["cart"]["apples"]["red"] += 1
    return Response()


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(websocket.session)
    await websocket.close()


@contextmanager
def browser(ours: bool, options: Options, **more: Any) -> Generator[TestClient]:
    """The same application under either middleware: nothing else differs."""
    if ours:
        arguments = options(session_cookie=COOKIE, https_only=False, **more)
        middleware = Middleware(SessionMiddleware, **arguments)
    else:
        middleware = Middleware(StarlettesMiddleware, secret_key=SECRET, https_only=False, **more)
    app = Starlette(
        routes=[
            Route("/act/{what}", act, methods=["POST"]),
            Route("/untouched", untouched),
            Route("/in-place", in_place, methods=["POST"]),
            WebSocketRoute("/socket", socket),
        ],
        middleware=[middleware],
    )
    with TestClient(app) as client:
        yield client


CART = {"apples": {"red": 2}, "list": [1, [2, None]], "ratio": 0.1}

STORIES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "set": [("set", {"user": "ann", "n": 1})],
    "nested": [
        ("nested", {"cart": CART}),
        ("deeper", {"cart": {**CART, "apples": {"red": 3}}}),
    ],
    "setdefault": [("setdefault", {"seen": [1]})],
    "update": [("set", {"user": "ann", "n": 1}),
               ("update", {"user": "ann", "n": 2, "extra": True})],
    "or": [("set", {"user": "ann", "n": 1}), ("or", {"user": "ann", "n": 3})],
    "pop": [("set", {"user": "ann", "n": 1}), ("pop", {"n": 1})],
    "pop of nothing": [("pop", {})],
    "del": [("set", {"user": "ann", "n": 1}), ("nested", {"user": "ann", "n": 1, "cart": CART}),
            ("del", {"user": "ann", "n": 1})],
    "popitem": [("set", {"user": "ann", "n": 1}), ("popitem", {"user": "ann"})],
    "clear": [("set", {"user": "ann", "n": 1}), ("clear", {})],
    "clear twice": [("set", {"user": "ann", "n": 1}), ("clear", {}), ("clear", {})],
    "clear of nothing": [("clear", {})],
    "replace": [("set", {"user": "ann", "n": 1}), ("replace", {"fresh": "start"})],
    "again": [("set", {"user": "ann", "n": 1}), ("clear", {}), ("nested", {"cart": CART})],
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_same_data(options: Options, ours: bool, story: list[tuple[str, dict[str, Any]]]) -> None:
    """After each change the handler, the next request and a WebSocket see the same data."""
    if not ours and UNNOTICED & {what for what, _ in story}:
        pytest.skip("this version of Starlette's own session doesn't notice the change")
    with browser(ours, options) as client:
        for what, expected in story:
            assert client.post(f"/act/{what}").json() == expected
            assert client.post("/act/read").json() == expected
            with client.websocket_connect("/socket") as connection:
                assert connection.receive_json() == expected


def attributes(set_cookie: str) -> str:
    """All of a cookie but its value."""
    name, _, rest = set_cookie.partition("=")
    return f"{name}={rest.partition(';')[2]}"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_age": 3600},
        {"max_age": None},
        {"same_site": "strict", "path": "/act"},
        {"domain": "testserver.local"},
    ],
    ids=str,
)
@pytest.mark.parametrize("end", ["set", "clear"])
def test_same_cookies(options: Options, arguments: dict[str, Any], end: str) -> None:
    """`Set-Cookie` has the same name and attributes, in the same spelling and order."""
    sent = list[str]()
    for ours in (False, True):
        with browser(ours, options, **arguments) as client:
            answer = client.post("/act/set")
            if end == "clear":
                answer = client.post("/act/clear")
            sent.append(attributes(answer.headers["set-cookie"]))
    assert sent[0] == sent[1]


@BOTH
def test_same_headers(options: Options, ours: bool) -> None:
    """`Vary: Cookie` where the session was read, and no cookie for reads; ours is more careful."""
    with browser(ours, options) as client:
        assert "vary" not in client.get("/untouched").headers
        client.post("/act/set")
        read, unread = client.post("/act/read"), client.get("/untouched")
        assert read.headers["vary"] == "Cookie"
        assert ("vary" in unread.headers) is ours  # it may have been read from the scope
        assert "set-cookie" not in read.headers
        assert "set-cookie" not in unread.headers


def test_nested_change_without_assignment(options: Options) -> None:
    """What Starlette's middleware loses, a change inside a value, ours stores."""
    for ours, expected in ((False, 2), (True, 3)):
        with browser(ours, options) as client:
            client.post("/act/nested")
            client.post("/in-place")
            assert client.post("/act/read").json()["cart"]["apples"]["red"] == expected


def test_emptied_session_stays(options: Options, records: Records) -> None:
    """Emptied key by key, Starlette's cookie is expired; ours stays, and clear() ends it."""
    for ours in (False, True):
        with browser(ours, options) as client:
            client.post("/act/set")
            client.post("/act/forget")
            assert client.post("/act/read").json() == {}
            assert (COOKIE in client.cookies) is ours
            if ours:
                client.post("/act/clear")
                assert COOKIE not in client.cookies
    assert records.ids() == set()


def test_old_cookie(options: Options, records: Records) -> None:
    """A signed cookie of before the move is no session; the next change replaces it."""
    events = list[Event]()
    with browser(False, options) as before:
        before.post("/act/set")
        signed = before.cookies[COOKIE]
    with browser(True, options, on_event=events.append) as client:
        client.cookies.set(COOKIE, signed, domain="testserver.local", path="/")
        answer = client.post("/act/read")
        assert (answer.status_code, answer.json()) == (200, {})
        assert "set-cookie" not in answer.headers
        assert ("rejected", "malformed token") in {(e.name, e.reason) for e in events}
        assert client.post("/act/nested").json() == {"cart": CART}
        assert client.post("/act/read").json() == {"cart": CART}
        assert records.ids() == {id_of(client.cookies[COOKIE])}


def signed_like_starlette(payload: bytes) -> str:
    return itsdangerous.TimestampSigner(SECRET).sign(b64encode(payload)).decode()


LONG = signed_like_starlette(b'{"user_id": "' + b"x" * 3000 + b'"}')

VALUES = {
    "signed": signed_like_starlette(b"{}"),
    "signed, long": LONG,
    "signed, cut to our length": LONG[:64],
    "Starlette's expired": "null",
    "empty": "",
    "short": "A" * 63,
    "long": "A" * 65,
    "padded": "A" * 63 + "=",
    "plain base64": "A" * 63 + "/",
    "quoted": f'"{"A" * 64}"',
    "latin-1": "\xff" * 64,
    "well-formed, unknown": "A" * 64,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("path", ["/act/read", "/act/set", "/act/clear"])
def test_any_old_value(
    options: Options,
    records: Records,
    caplog: pytest.LogCaptureFixture,
    value: str,
    path: str,
) -> None:
    """Whatever is under our cookie's name, reading, writing and clearing never fail."""
    with browser(True, options) as client, caplog.at_level(logging.ERROR):
        header = f"{COOKIE}={value}".encode("latin-1")
        answer = client.post(path, headers=[(b"cookie", header)])
        assert answer.status_code == 200
        assert ("set-cookie" in answer.headers) is (path == "/act/set")
    assert len(records.ids()) == (path == "/act/set")
    assert not caplog.records


def test_old_cookie_on_a_websocket(options: Options) -> None:
    """A WebSocket that brings an old cookie is accepted, with an empty session."""
    with browser(False, options) as before:
        before.post("/act/set")
        signed = before.cookies[COOKIE]
    with browser(True, options) as client:
        client.cookies.set(COOKIE, signed, domain="testserver.local", path="/")
        with client.websocket_connect("/socket") as connection:
            assert connection.receive_json() == {}
