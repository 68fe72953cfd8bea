"""The demo's application: two browsers in one page, and what each of them can do."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import FastAPI, Form, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import StringConstraints
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import (
    Keyring,
    RedisStore,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
)
from redis_sessions.demo.panels import (
    COOKIE,
    Demo,
    DemoDep,
    add_panels,
    code_of,
    open_record,
    race,
    read,
    templates,
)
from redis_sessions.demo.server import Server
from redis_sessions.demo.view import device_view, dump, opened, record_view, session_view
from redis_sessions.events import logger
from redis_sessions.fastapi import PrincipalDep, SessionDep, SessionManagerDep
from redis_sessions.stores import open_store

__all__ = ["HOST_VARIABLE", "KEY_VARIABLE", "STORE_VARIABLE", "create_app", "from_environment"]

KEY_VARIABLE: Final = "SESSION_SECRET_KEY"
STORE_VARIABLE: Final = "REDIS_SESSIONS_DEMO_STORE"
HOST_VARIABLE: Final = "REDIS_SESSIONS_DEMO_HOST"

_HERE: Final = Path(__file__).parent
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

PHONE: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{20}$")]
Item = Literal["apple", "pear", "plum"]


def from_environment() -> FastAPI:
    """The application with store, key and name of the environment: what workers import."""
    name = os.environ.get(HOST_VARIABLE, "localhost")
    return create_app(os.environ[STORE_VARIABLE], os.environ[KEY_VARIABLE], name)


def create_app(store: str, secret_key: str, host: str = "localhost") -> FastAPI:
    """The application, on the store that a URL names.

    It is served as `localhost`, as `host`, and under any address.
    `ConfigurationError`, and `StoreUnavailableError` if an embedded server doesn't start.
    """
    keyring = Keyring(secret_key)
    # The usual key is new at each start, and the server may outlive it. Its records should
    # read as absent, not as those of another deployment, which are left in their place.
    prefix = f"demo:{keyring.primary.id.hex()}:"
    open_store(store, prefix=prefix)  # refuses what can't work, before a server starts
    server = Server(store, prefix)
    manager = SessionManager(
        open_store(server.url, prefix=prefix),
        keyring,
        on_event=server.on_event,
        personal_events=True,
    )
    near = None if store.startswith("memory:") else near_manager(server.url, prefix, keyring)

    laptop, phone, bench = (browser(manager, path) for path in ("/laptop", "/phone", "/"))
    for window in (laptop, phone, bench):
        add_window(window)
    bench.post("/race/{number}")(race)  # what the demo asks itself
    # Only to refuse what other sites' pages cause: the panels have no session of their own.
    panels = browser(manager, "/panels", cross_site="refuse")
    add_panels(panels)
    demo = Demo(keyring, manager, near, server, bench)

    app = FastAPI(title="redis-sessions demo", openapi_url=None, lifespan=_lifespan(demo))
    for each in (app, laptop, phone, bench, panels):
        each.state.demo = demo
    app.add_middleware(_OwnNames, names={"localhost", host.lower()})
    app.add_middleware(_SecureHeaders)
    app.get("/", response_model=None)(stage)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    app.mount("/laptop", laptop)
    app.mount("/phone", _As(PHONE, phone))
    app.mount("/panels", panels)
    return app


def browser(manager: SessionManager, path: str, **more: Any) -> FastAPI:
    """The application for one of two browsers: a cookie's path is all that differs."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(
        SessionMiddleware,
        manager=manager,
        session_cookie=COOKIE,
        path=path,
        https_only=False,  # plain http on this machine
        lazy=True,  # what needs no session asks Redis for none
        **more,
    )
    return app


def near_manager(url: str, prefix: str, keyring: Keyring) -> SessionManager:
    """The same sessions, of which this process keeps copies: Redis says when to forget one."""
    store = RedisStore(url, prefix=prefix, client_cache=1.0)
    return SessionManager(store, keyring)


def _lifespan(demo: Demo) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        # Middlewares of mounted applications see no lifespan, so this is theirs.
        try:
            await demo.manager.connect()
        except StoreUnavailableError as exc:
            logger.error("%s; until it is back, requests that need a session get 503", exc)
        await demo.server.open()
        yield
        await demo.server.close()
        await demo.manager.close()
        if demo.near is not None:
            await demo.near.close()

    return lifespan


def add_window(app: FastAPI) -> None:
    """What one browser sees: the session, the cart, and the list of devices."""
    app.get("/", response_model=None)(show)
    app.get("/cart", response_model=None)(show_cart)
    app.get("/read")(read)
    app.websocket("/changes")(changes)
    app.post("/open", response_model=None)(open_record)
    for handler in (sign_in, count, add, remove, sign_out, revoke, revoke_others):
        app.post(f"/{handler.__name__.replace('_', '-')}")(handler)


async def stage(request: Request, demo: DemoDep) -> Response:
    """Two browsers side by side, and the panels below them."""
    code = (revoke, changes, race, opened, count, browser, near_manager)
    return templates.TemplateResponse(
        request,
        "stage.html",
        {
            "source": {function.__name__: code_of(function) for function in code},
            "server": demo.server,
            "near": demo.near,
        },
    )


async def show(
    request: Request, session: SessionDep, manager: SessionManagerDep
) -> Response | dict[str, Any]:
    """The page, or for `Accept: application/json` what is on it."""
    stored = None if session.id is None else await manager.store.load(session.id)
    seen, who = session_view(session), session.principal
    devices = [] if who is None else [device_view(info) for info in await manager.sessions_of(who)]
    record = None if stored is None else record_view(f"{manager.store.prefix}{session.id}", stored)
    if "application/json" in request.headers.get("accept", ""):
        return {"session": seen, "record": record, "devices": devices}
    return templates.TemplateResponse(
        request,
        "page.html",
        {
            "session": seen,
            "items": get_args(Item),
            "data": json.dumps(seen["data"], indent=2, ensure_ascii=False),
            "record": record,
            "devices": devices,
            "dump": "\n".join(dump(stored or b"")),
            "idle": timedelta(seconds=manager.policy.idle_timeout),
            "url": str(request.url.replace(query="")).rstrip("/"),
            "device": request.scope["root_path"].strip("/"),
            "framed": request.headers.get("sec-fetch-dest") == "iframe",
        },
    )


async def show_cart(request: Request, session: SessionDep, tab: int = 1) -> Response:
    """The cart alone: the second and the third tab of one browser."""
    context = {
        "session": session_view(session),
        "items": get_args(Item),
        "device": request.scope["root_path"].strip("/"),
        "tab": tab,
    }
    return templates.TemplateResponse(request, "cart.html", context)


async def sign_in(session: SessionDep, name: Annotated[Name, Form()]) -> RedirectResponse:
    """Sign in by name: a new token each time, and for somebody else a new id."""
    if name != session.principal:
        session["previous_id"] = session.id
    session.sign_in(name)
    return _to_the_page()


async def count(session: SessionDep) -> RedirectResponse:
    """Count, signed in or not: whoever signs in keeps what they counted before."""
    session["count"] = session.get("count", 0) + 1
    return _to_the_page()


async def add(session: SessionDep, item: Annotated[Item, Form()]) -> RedirectResponse:
    """Put something into the cart."""
    session.setdefault("cart", []).append(item)
    return _to_the_page()


async def remove(session: SessionDep, item: Annotated[Item, Form()]) -> RedirectResponse:
    """Take something out of the cart, unless another tab has done so."""
    if item in session.get("cart", []):
        session["cart"].remove(item)
    return _to_the_page()


async def changes(socket: WebSocket, session: SessionDep, demo: DemoDep) -> None:
    """Tell an open page what other requests change. It ends when the session does."""
    await socket.accept()
    if session.id is None:
        await socket.close()  # nothing to watch; the page comes again, perhaps with a session
        return

    async def tell(changes: AsyncIterator[Iterable[str]]) -> None:
        with suppress(WebSocketDisconnect):  # the page may be left just now
            async for keys in changes:
                await socket.send_json(sorted(keys))

    async with asyncio.TaskGroup() as group:
        told = [group.create_task(tell(session.changes()))]
        if session.principal is not None:
            told.append(group.create_task(tell(demo.server.changes_of(session.principal))))
        async for _ in socket.iter_text():  # until the page is left, or the session ends
            pass
        for task in told:
            task.cancel()


async def sign_out(session: SessionDep) -> RedirectResponse:
    """End the session."""
    session.clear()
    return _to_the_page()


async def revoke(
    manager: SessionManagerDep, user: PrincipalDep, id: Annotated[Id, Form()]
) -> RedirectResponse:
    """Sign one device out. The id comes from the browser, so only the user's own are ended."""
    await manager.revoke(id, principal=user)
    return _to_the_page()


async def revoke_others(
    manager: SessionManagerDep, session: SessionDep, user: PrincipalDep
) -> RedirectResponse:
    """Sign out everywhere else: this session stays."""
    await manager.revoke_all(user, keep=session.id)
    return _to_the_page()


def _to_the_page() -> RedirectResponse:
    return RedirectResponse("./", 303)  # relative, and a GET


class _As:
    """One browser shows both windows: this one says that it is another."""

    def __init__(self, user_agent: str, app: ASGIApp) -> None:
        self.user_agent = user_agent.encode()
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        others = [(name, value) for name, value in scope["headers"] if name != b"user-agent"]
        scope = {**scope, "headers": [*others, (b"user-agent", self.user_agent)]}
        await self.app(scope, receive, send)


class _OwnNames:
    """Refuses requests to a name that isn't the demo's.

    The owner of a name may have it lead to this machine (DNS rebinding). Their page is then of the
    same origin as the demo, and the guard against other sites' requests doesn't know it. With an
    address that isn't possible.
    """

    _HOST: Final = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?", re.ASCII)

    def __init__(self, app: ASGIApp, names: set[str]) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._are_ours(Headers(scope=scope).getlist("host")):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})  # before it is accepted: 403
        else:
            said = "The demo isn't served under this name: `--host NAME` gives it one."
            await PlainTextResponse(said, 400)(scope, receive, send)

    def _are_ours(self, hosts: list[str]) -> bool:
        match = self._HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        return match is not None and (match[1] in self.names or _is_address(match[1]))


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        ip_address(host.removeprefix("[").removesuffix("]"))
        return True
    return False


class _SecureHeaders:
    """Around the sessions, so that their 503 has these headers, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def on_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.add_vary_header("Accept")
            await send(message)

        await self.app(scope, receive, on_send)
