"""The demo's application: signing in and out, a counter, a cart, devices, and the page for all."""

import asyncio
import json
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import FastAPI, Form, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydantic import StringConstraints
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import Keyring, SessionManager, SessionMiddleware
from redis_sessions.demo.view import device_view, dump, record_view, session_view
from redis_sessions.fastapi import PrincipalDep, SessionDep, SessionManagerDep
from redis_sessions.stores import open_store

__all__ = ["KEY_VARIABLE", "STORE_VARIABLE", "create_app", "from_environment"]

KEY_VARIABLE: Final = "SESSION_SECRET_KEY"
STORE_VARIABLE: Final = "REDIS_SESSIONS_DEMO_STORE"

_HERE: Final = Path(__file__).parent
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

_templates: Final = Jinja2Templates(_HERE / "templates")  # it escapes what it puts into HTML

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{20}$")]
Item = Literal["apple", "pear", "plum"]


def from_environment() -> FastAPI:
    """The application with the store and the key of the environment: what workers import."""
    return create_app(os.environ[STORE_VARIABLE], os.environ[KEY_VARIABLE])


def create_app(store: str, secret_key: str) -> FastAPI:
    """The application, on the store that a URL names. Raises `ConfigurationError`."""
    keyring = Keyring(secret_key)
    # The usual key is new at each start, and the server may outlive it. Its records should
    # read as absent, not as those of another deployment, which are left in their place.
    prefix = f"demo:{keyring.primary.id.hex()}:"

    app = FastAPI(title="redis-sessions demo", openapi_url=None)
    app.add_middleware(
        SessionMiddleware,
        manager=SessionManager(open_store(store, prefix=prefix), keyring),
        # Cookies don't tell one port from another: "sid" may be some other application's.
        session_cookie="redis-sessions-demo",
        # Plain http on this machine, where not every client returns a Secure cookie.
        https_only=False,
        # The stylesheet and the script need no session, and so ask Redis for none.
        lazy=True,
    )
    app.add_middleware(_SecureHeaders)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    app.get("/", response_model=None)(show)
    app.post("/sign-in")(sign_in)
    app.post("/count")(count)
    app.post("/add")(add)
    app.post("/remove")(remove)
    app.websocket("/changes")(changes)
    app.post("/sign-out")(sign_out)
    app.post("/revoke")(revoke)
    app.post("/revoke-others")(revoke_others)
    return app


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
    return _templates.TemplateResponse(
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
            "url": str(request.base_url).rstrip("/"),
        },
    )


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


async def changes(socket: WebSocket, session: SessionDep) -> None:
    """Tell an open page which keys other requests change. It ends when the session does."""
    await socket.accept()
    if session.id is None:
        await socket.close()  # nothing to watch; the page comes again, perhaps with a session
        return

    async def show() -> None:
        with suppress(WebSocketDisconnect):  # the page may be left just now
            async for keys in session.changes():
                await socket.send_json(sorted(keys))

    async with asyncio.TaskGroup() as group:
        group.create_task(show())
        async for _ in socket.iter_text():  # until the page is left, or the session ends
            pass


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
    return RedirectResponse("/", 303)  # relative, and a GET


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
