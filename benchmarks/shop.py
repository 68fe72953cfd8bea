"""The application that is measured: three routes, without sessions and with the simplest ones.

The routes are `/read`, `/change` (a counter two levels down) and `/sign-in`. Each answers with the
counter, so that the driver can see whether a session was really kept. Of this library only its
public names are used: `ab` runs other checkouts of it with this module.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from inspect import signature
from typing import Any

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as CookieMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from redis_sessions import RedisStore, SessionMiddleware, generate_key

__all__ = [
    "NEAR_SECONDS",
    "SECRET",
    "Use",
    "application",
    "bare_routes",
    "change",
    "change_and_assign",
    "cookie",
    "data",
    "grow",
    "has_near_copies",
    "near",
    "near_copies",
    "nothing",
    "ours",
    "read",
    "routes",
    "sign_in",
]

# Several processes of one application share it.
SECRET = os.environ.get("BENCH_SECRET") or generate_key()
NEAR_SECONDS = 1.0

Session = Any
_users = itertools.count(10_000)
_history: list[dict[str, Any]] = []


def grow(size: int) -> None:
    """Make what signing in stores about `size` bytes larger, packed."""
    _history[:] = [
        {"sku": f"A-{number:05}", "count": number % 7, "price": 1299}
        for number in range(size // 30)
    ]


def data() -> dict[str, Any]:
    """What signing in stores: about 150 bytes, packed, unless it grew; each time another user."""
    history = {"history": _history} if _history else {}
    return {
        **history,
        "user_id": next(_users),
        "csrf": "PVQd3yIh0nD3NMbHhC7QpqsDTDyRtjZSwX1yfRtZzZQ",
        "cart": {
            "count": 0,
            "items": [{"sku": "A-10442", "count": 2}, {"sku": "B-00071", "count": 1}],
            "coupon": "SPRING",
        },
    }


# -- the three things that a request does


def read(session: Session) -> str:
    return str(session["cart"]["count"])


def change(session: Session) -> str:
    cart = session["cart"]
    cart["count"] += 1
    return str(cart["count"])


def change_and_assign(session: Session) -> str:
    """For those that don't notice a nested change: what their documents ask for."""
    cart = session["cart"]
    cart["count"] += 1
    session["cart"] = cart
    return str(cart["count"])


def sign_in(session: Session) -> str:
    session.update(data())
    return "0"


Use = Callable[[Session], str]
Renew = Callable[[Request], object]


def routes(change: Use = change, renew: Renew | None = None) -> list[Route]:
    """Starlette's routes. `renew` asks for a new id, where a library leaves that to the caller."""

    async def on_read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(read(request.session))

    async def on_change(request: Request) -> PlainTextResponse:
        return PlainTextResponse(change(request.session))

    async def on_sign_in(request: Request) -> PlainTextResponse:
        answer = sign_in(request.session)
        if renew is not None:
            renew(request)
        return PlainTextResponse(answer)

    handlers = {"/read": on_read, "/change": on_change, "/sign-in": on_sign_in}
    return [Route(path, handler) for path, handler in handlers.items()]


def bare_routes() -> list[Route]:
    """The same without a session."""

    async def answer(_: Request) -> PlainTextResponse:
        return PlainTextResponse("0")

    return [Route(path, answer) for path in ("/read", "/change", "/sign-in")]


def application(
    routes: list[Route], middleware: Sequence[Middleware] = (), client: Redis | None = None
) -> Starlette:
    """A Starlette application that closes the client in the end."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        yield
        if client is not None:
            await client.aclose()

    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


# -- the applications


def nothing(_: str) -> ASGIApp:
    return application(bare_routes())


def cookie(_: str) -> ASGIApp:
    """Starlette's own: the session signed, in the cookie."""
    middleware = Middleware(CookieMiddleware, secret_key=SECRET)
    return application(routes(change_and_assign), [middleware])


def ours(url: str) -> ASGIApp:
    return application(routes(), [Middleware(SessionMiddleware, secret_key=SECRET, store=url)])


def near(url: str) -> str:
    """The same Redis, with near copies."""
    return f"{url}{'&' if '?' in url else '?'}client_cache={NEAR_SECONDS}"


def near_copies(url: str) -> ASGIApp:
    return ours(near(url))


def has_near_copies() -> bool:
    """Whether this library's store has the option; a checkout of before has not."""
    return "client_cache" in signature(RedisStore.__init__).parameters
