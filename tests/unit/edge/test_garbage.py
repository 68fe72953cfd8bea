"""When a request is over, nothing of it is left to the garbage collector.

A server's own object for a request, as uvicorn's, has the scope, and `send` is a method of it. So
whatever is left in the scope, and keeps `send`, is a circle with all that the request held.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Scope
from starlette.websockets import WebSocket

from redis_sessions import MemoryStore, SessionMiddleware, get_session
from redis_sessions.accept import StarletteCookie
from redis_sessions.http.connection import SCOPE_KEY
from redis_sessions.telemetry import instrument
from tests.support.asgi import cookie, scope_of
from tests.unit.edge.edge import Edge
from tests.unit.setting import ALICE, KEY, stored

Headers = list[tuple[bytes, bytes]]

FOREIGN: Final = (b"origin", b"https://elsewhere.example")


class Served:
    """One request, as a server keeps it."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.sent = list[Message]()
        self.inbox: list[Message] = [{"type": "http.request"}]
        if scope["type"] == "websocket":
            self.inbox = [{"type": "websocket.connect"}, {"type": "websocket.disconnect"}]

    async def receive(self) -> Message:
        if not self.inbox:
            await asyncio.Event().wait()  # the client stays
        return self.inbox.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


# -- what handlers do


async def read(request: Request) -> Response:
    return PlainTextResponse(str(request.session.get("user_id")))


async def change(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return PlainTextResponse("")


async def sign_in(request: Request) -> Response:
    get_session(request).sign_in("bob")
    return PlainTextResponse("")


async def sign_out(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("")


async def change_late(request: Request) -> Response:
    async def body() -> AsyncGenerator[str]:
        yield "a"
        if request.session:
            request.session["late"] = 1

    return StreamingResponse(body())


async def stream(request: Request) -> Response:
    async def events() -> AsyncGenerator[str]:
        yield f"data: {request.session.get('user_id')}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def fail(request: Request) -> Response:
    request.session["n"] = 1
    raise ZeroDivisionError


async def refresh(request: Request) -> Response:
    await get_session(request).refresh()
    return PlainTextResponse("")


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    assert (await socket.receive())["type"] == "websocket.disconnect"


async def answers_nothing(scope: Scope, receive: object, send: object) -> None:
    scope["session"]["n"] = 1


ROUTES: Final = [
    *(
        Route(f"/{each.__name__}", each, methods=["GET", "POST"])
        for each in (read, change, sign_in, sign_out, change_late, stream, fail, refresh)
    ),
    WebSocketRoute("/talk", talk),
    Mount("/answers_nothing", answers_nothing),
]

Ask = Callable[..., Awaitable[Served]]


async def served(app: ASGIApp, path: str, headers: Headers, **fields: Any) -> Served:
    """A request, which the server has forgotten when this is over."""
    # With an older version Starlette's streams themselves leave a circle behind.
    asgi = {"version": "3.0", "spec_version": "2.4"}
    request = Served(scope_of(path, headers, asgi=asgi, **fields))
    try:
        await app(request.scope, request.receive, request.send)
    except ZeroDivisionError:
        assert path == "/fail"
    return request


async def is_left(app: ASGIApp, path: str, headers: Headers, **fields: Any) -> bool:
    """Whether the server's object for a request is still there when the server has forgotten it."""
    request = await served(app, path, headers, **fields)
    assert request.sent or path in ("/fail", "/answers_nothing/")
    left = weakref.ref(request)
    del request
    return left() is not None


def counts(_: HTTPConnection) -> bool:
    return True


OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "refuses": {"cross_site": "refuse"},
    "bound": {"binding": "ip", "touch": counts},
    "accepts others": {"accept": [StarletteCookie(KEY)]},
}
PATHS: Final = [
    *("/read", "/change", "/sign_in", "/sign_out", "/change_late", "/stream", "/fail", "/talk"),
    *("/answers_nothing/", "/nowhere", "/refresh"),
]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_one_middleware(at: Edge, options: dict[str, Any]) -> None:
    """With a session and without, of this origin and of another, with the store and without."""
    options = {"on_unavailable": "anonymous", **options}
    app = SessionMiddleware(Starlette(routes=ROUTES), manager=at.manager, **options)
    for path in PATHS:
        kind = "websocket" if path == "/talk" else "http"
        mine: Headers = [(b"cookie", cookie(await at.begin(ALICE)))]
        assert not await is_left(app, path, mine, kind=kind), path
        assert not await is_left(app, path, [], kind=kind), path
        if path == "/read":
            assert not await is_left(app, path, [*mine, FOREIGN], method="POST"), path
        at.away.away = True
        if path in ("/read", "/stream", "/nowhere"):  # no error is raised, which has circles itself
            assert not await is_left(app, path, mine, kind=kind), path
        at.away.away = False


async def test_a_trace(at: Edge) -> None:
    """What is told to OpenTelemetry's spans keeps nothing either."""
    instrument(at.manager, spans=True)
    app = SessionMiddleware(Starlette(routes=ROUTES), manager=at.manager)
    for path in PATHS:
        kind = "websocket" if path == "/talk" else "http"
        mine: Headers = [(b"cookie", cookie(await at.begin(ALICE)))]
        assert not await is_left(app, path, mine, kind=kind), path


async def test_lazily(at: Edge) -> None:
    """Whether the session is loaded or not."""
    app = SessionMiddleware(Starlette(routes=ROUTES), manager=at.manager, lazy=True)
    for path in ("/refresh", "/nowhere"):
        mine: Headers = [(b"cookie", cookie(await at.begin(ALICE)))]
        assert not await is_left(app, path, mine), path


@pytest.mark.parametrize("prefix", ["", "other:"], ids=["the same again", "a realm inside"])
async def test_two_middlewares(at: Edge, prefix: str) -> None:
    """The inner one may be the same, or one with sessions of its own."""
    inner: dict[str, Any] = {"manager": at.manager}
    if prefix:
        store = MemoryStore(prefix=prefix)
        inner = {"store": store, "secret_key": KEY, "session_cookie": "other"}
    app = SessionMiddleware(Starlette(routes=ROUTES), **inner)
    inside = app.manager
    around = SessionMiddleware(app, manager=at.manager)
    for path in PATHS:
        kind = "websocket" if path == "/talk" else "http"
        mine: Headers = [
            (b"cookie", cookie(await at.begin(ALICE))),
            (b"cookie", cookie(await stored(inside, **ALICE), "other")),
        ]
        assert not await is_left(around, path, mine, kind=kind), path


async def test_a_message_after_the_end(at: Edge) -> None:
    """A task that the application has left behind isn't connected with the client any more."""
    kept = list[Any]()

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        kept.append(send)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    request = await served(SessionMiddleware(app, manager=at.manager), "/", [])
    with pytest.raises(RuntimeError, match=r"^http\.response\.body was sent after the applic"):
        await kept[0]({"type": "http.response.body"})
    assert len(request.sent) == 2
    assert get_session(Request(request.scope)) is request.scope["session"]
    assert len(request.scope[SCOPE_KEY]) == 1
