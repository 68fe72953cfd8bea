"""What the demo's panels do: each answers a form with a piece of HTML, and shows its own code."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from textwrap import dedent
from time import perf_counter
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.templating import Jinja2Templates
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from redis_sessions import (
    Keyring,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.demo.chart import chart
from redis_sessions.demo.server import RedisError, Server
from redis_sessions.demo.view import ago, dump, opened
from redis_sessions.demo.visitor import Visitor
from redis_sessions.fastapi import SessionDep

__all__ = [
    "COOKIE",
    "Demo",
    "DemoDep",
    "add_panels",
    "code_of",
    "open_record",
    "race",
    "read",
    "templates",
]

COOKIE: Final = "redis-sessions-demo"
"""Cookies don't tell one port from another: "sid" may be some other application's."""
REQUESTS: Final = 20
READS: Final = 150
SENT: Final = ("mget", "evalsha", "script|load")
"""The commands that requests send. What else is counted are commands in scripts."""

templates: Final = Jinja2Templates(Path(__file__).parent / "templates")  # it escapes
templates.env.filters["ago"] = ago


@dataclass
class Demo:
    """What the windows and the panels share."""

    keyring: Keyring
    manager: SessionManager
    near: SessionManager | None
    """The same sessions, with near copies. None: the store has no such thing."""
    server: Server
    bench: ASGIApp
    """The windows' application, for requests that the demo sends itself."""
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    """What is measured isn't measured at the same time as something else."""


def _demo_of(connection: HTTPConnection) -> Demo:
    demo: Demo = connection.app.state.demo
    return demo


DemoDep = Annotated[Demo, Depends(_demo_of)]


def code_of(function: Callable[..., Any]) -> str:
    """The source of a function, as it runs here."""
    return dedent(inspect.getsource(function)).rstrip()


def add_panels(app: FastAPI) -> None:
    """The panels that need no session."""
    for handler in (parallel, costs, latency, stop_redis, start_redis):
        app.post(f"/{handler.__name__}", response_model=None)(handler)
    for error in (StoreUnavailableError, RedisError):
        app.add_exception_handler(error, _away)


async def _away(_: Request, __: Exception) -> Response:
    """One of the panels has stopped Redis."""
    return JSONResponse({"detail": "Redis is away"}, 503)


def _piece(request: Request, name: str, **values: Any) -> Response:
    return templates.TemplateResponse(request, f"pieces/{name}.html", values)


# -- requests at the same time


async def race(session: SessionDep, demo: DemoDep, number: int) -> None:
    """One of the requests that are under way at once: each sets a key of its own."""
    plain = f"{demo.manager.store.prefix}plain:{session['race']}"
    loaded = json.loads(await demo.server.client.get(plain) or "{}")  # what others do: GET
    await asyncio.sleep(0.02)  # the handler's own work
    session[f"request {number}"] = True
    loaded[f"request {number}"] = True
    await demo.server.client.set(plain, json.dumps(loaded), ex=60)  # and SET


async def parallel(request: Request, demo: DemoDep) -> Response:
    """Send requests at the same time, with one cookie, and count what is kept."""
    _need_server(demo)
    manager, client, name = demo.manager, demo.server.client, token_hex(8)
    merged = manager.counts["merged"]
    async with demo.alone:
        visitor = await _visitor(demo.bench, manager, race=name)
        await asyncio.gather(*(visitor.post(f"/race/{number}") for number in range(REQUESTS)))
        session = await manager.load(visitor.token)
        kept = sum(key.startswith("request ") for key in session)
        plain = await client.getdel(f"{manager.store.prefix}plain:{name}")
        await _end(manager, visitor)
    theirs = len(json.loads(plain or "{}"))
    return _piece(
        request,
        "parallel",
        total=REQUESTS,
        rows=[("redis-sessions", kept), ("GET and SET: the last write wins", theirs)],
        merged=manager.counts["merged"] - merged,
    )


async def _visitor(app: ASGIApp, manager: SessionManager, **data: Any) -> Visitor:
    """A browser with a new session that has these data."""
    session = await manager.load()
    session.update(data)
    visitor, token = Visitor(app), (await manager.commit(session)).token
    assert token is not None  # the session is new
    visitor.cookie = f"{COOKIE}={token.value}".encode()
    return visitor


async def _end(manager: SessionManager, visitor: Visitor) -> None:
    session = await manager.load(visitor.token)
    session.clear()
    await manager.commit(session)


# -- what a click costs


async def read(session: SessionDep) -> dict[str, Any]:
    """A request that looks at the session and changes nothing."""
    return {"count": session.get("count", 0)}


async def costs(request: Request, demo: DemoDep) -> Response:
    """What each of these clicks asks of Redis, by the server's own counts."""
    _need_server(demo)
    visitor, name = Visitor(demo.bench), f"visitor-{token_hex(8)}"
    clicks: dict[str, Callable[[], Any]] = {
        "look, without a session": lambda: visitor.get("/read"),
        "sign in": lambda: visitor.post("/sign-in", name=name),
        "read a page": lambda: visitor.get("/read"),
        "change something": lambda: visitor.post("/count"),
        "sign out": lambda: visitor.post("/sign-out"),
    }
    rows: list[tuple[str, Counter[str], Counter[str]]] = []
    async with demo.alone:
        for click, send in clicks.items():
            before = await demo.server.counts()
            await send()
            counted = await demo.server.counts() - before
            sent = Counter({name: counted[name] for name in SENT if counted[name]})
            rows.append((click, sent, Counter(dict(sorted((counted - sent).items())))))
    return _piece(request, "costs", rows=rows)


# -- near copies


async def latency(request: Request, demo: DemoDep) -> Response:
    """How long reads take, one after the other, with and without near copies."""
    if demo.near is None:
        raise HTTPException(404, "This store keeps no near copies.")
    async with demo.alone:
        times = {
            "without near copies": await _times(demo.manager),
            "with client_cache=1.0": await _times(demo.near),
        }
    return _piece(request, "latency", chart=chart(times), reads=READS)


async def _times(manager: SessionManager) -> list[float]:
    """The time in microseconds of each request that reads a session, through the middleware."""
    app = SessionMiddleware(_reading, manager=manager, session_cookie=COOKIE, https_only=False)
    visitor = await _visitor(app, manager, count=1)
    times: list[float] = []
    for _ in range(READS + 20):
        begun = perf_counter()
        await visitor.get("/")
        times.append((perf_counter() - begun) * 1e6)
        await asyncio.sleep(0)  # others have their turn
    await _end(manager, visitor)
    return times[-READS:]  # the first ones open connections


async def _reading(scope: Scope, _: Receive, send: Send) -> None:
    assert scope["session"]["count"] == 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


# -- Redis is away


async def stop_redis(request: Request, demo: DemoDep) -> Response:
    """Stop the embedded server."""
    _need_own(demo)
    await demo.server.stop()
    return _piece(request, "redis", running=False)


async def start_redis(request: Request, demo: DemoDep) -> Response:
    """Start it again, with the data that it had."""
    _need_own(demo)
    await demo.server.start()
    return _piece(request, "redis", running=True)


def _need_server(demo: Demo) -> None:
    if not demo.server.available:
        raise HTTPException(404, "This panel needs a single Redis server: --redis redis://…")


def _need_own(demo: Demo) -> None:
    if demo.server.embedded is None:
        raise HTTPException(404, "Only a server that the demo has started is stopped.")


# -- the record


async def open_record(
    request: Request,
    session: SessionDep,
    demo: DemoDep,
    key: Annotated[bool, Form()] = False,
    token: Annotated[bool, Form()] = False,
    prefix: Annotated[bool, Form()] = False,
) -> Response:
    """Try to open this session's record with the parts that are ticked, and others in place."""
    store = demo.manager.store
    stored = None if session.id is None else await store.load(session.id)
    if stored is None:
        return _piece(request, "record", stored=None)
    result = opened(
        stored,
        keyring=demo.keyring if key else Keyring(generate_key()),
        token=request.cookies[COOKIE] if token else f"{session.id}{token_hex(22)}",
        prefix=store.prefix if prefix else "other:",
    )
    return _piece(
        request,
        "record",
        stored=stored,
        key=f"{store.prefix}{session.id}",
        dump="\n".join(dump(stored)),
        contents=result if isinstance(result, str) else json.dumps(result, indent=2),
        open=not isinstance(result, str),
    )
