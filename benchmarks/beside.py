"""What the README's table says of other libraries, tried: `python -m benchmarks.beside`.

Each application has the same routes, and a browser that sends it requests at the same time. The
Redis is one of its own.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from importlib import import_module
from typing import Any, cast

import httpx
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.shop import SECRET
from redis_sessions import SessionMiddleware
from redis_sessions.connect.embedded import ensure_server

NAME = "Ada-Lovelace"

arrived, go_on = asyncio.Event(), asyncio.Event()


async def sign_in(request: Request) -> JSONResponse:
    request.session["user_id"] = NAME
    return JSONResponse(None)


async def change(request: Request) -> JSONResponse:
    key = request.path_params["key"]
    request.session.get("user_id")  # it is loaded
    if key == "slow":
        arrived.set()
        await go_on.wait()
    request.session[key] = 1
    return JSONResponse(None)


async def nested(request: Request) -> JSONResponse:
    request.session.setdefault("cart", {"items": []})["items"].append(1)
    return JSONResponse(None)


async def sign_out(request: Request) -> JSONResponse:
    request.session.clear()
    return JSONResponse(None)


async def read(request: Request) -> JSONResponse:
    return JSONResponse(dict(request.session))


ROUTES = [
    Route("/sign-in", sign_in),
    Route("/change/{key}", change),
    Route("/nested", nested),
    Route("/sign-out", sign_out),
    Route("/read", read),
]


def ours(url: str) -> Any:
    options: dict[str, Any] = {"store": url, "secret_key": SECRET, "https_only": False}
    return Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, **options)])


def cookie(_: str) -> Any:
    middleware = import_module("starlette.middleware.sessions").SessionMiddleware
    return Starlette(routes=ROUTES, middleware=[Middleware(middleware, secret_key=SECRET)])


def starsessions(url: str) -> Any:
    module, stores = import_module("starsessions"), import_module("starsessions.stores.redis")
    store = stores.RedisStore(connection=Redis.from_url(url))
    middleware = [
        Middleware(module.SessionMiddleware, store=store, lifetime=3600, cookie_https_only=False),
        Middleware(module.SessionAutoloadMiddleware),
    ]
    return Starlette(routes=ROUTES, middleware=middleware)


def fastapi_redis_sdk(url: str) -> Any:
    module = import_module("redis_fastapi")
    module.get_settings().url = url
    app = import_module("fastapi").FastAPI(routes=ROUTES, openapi_url=None)
    module.FastAPIRedis(app).lifespan().sessions()
    return app


def alcazaba(url: str) -> Any:
    cache = import_module("fastapi_alcazaba.cache").Cache(
        import_module("fastapi_alcazaba.backends.redis").RedisBackend(Redis.from_url(url)),
        encryption_key=SECRET,
        metrics=False,
        tracing=False,
    )
    middleware = import_module("fastapi_alcazaba.sessions").ServerSessionMiddleware
    return Starlette(routes=ROUTES, middleware=[Middleware(middleware, cache=cache)])


async def in_redis(client: Redis) -> bool:
    """Whether the name can be read in any value."""
    untyped = cast("Any", client)
    async for key in untyped.scan_iter():
        found: bytes | None = await untyped.dump(key)
        if found is not None and NAME.encode() in found:
            return True
    return False


async def at_once(browser: httpx.AsyncClient, other: str) -> None:
    """A slow change, and meanwhile another request."""
    arrived.clear()
    go_on.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(browser.get("/change/slow"))
        await arrived.wait()
        await browser.get(other)
        go_on.set()


async def tried(build: Callable[[str], Any], url: str) -> dict[str, bool]:
    """What is true of this library."""
    client = Redis.from_url(url)
    app = build(url)
    await client.flushdb()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app)
        browser = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="https://localhost")
        )
        await browser.get("/sign-in")
        cookies = " ".join(browser.cookies.values())
        readable = await in_redis(client)
        with suppress(ValueError):
            readable |= NAME.encode() in b64decode(cookies.partition(".")[0] + "==")
        await browser.get("/nested")
        await browser.get("/nested")
        items = (await browser.get("/read")).json().get("cart", {}).get("items")
        await at_once(browser, "/change/fast")
        kept = (await browser.get("/read")).json()
        before = dict(browser.cookies)
        await at_once(browser, "/sign-out")
        after = (await browser.get("/read")).json()
        async with httpx.AsyncClient(
            transport=transport, base_url="https://localhost", cookies=before
        ) as thief:
            stolen = (await thief.get("/read")).json()
    await client.aclose()
    return {
        "the data can be read": readable,
        "a nested change is kept": items == [1, 1],
        "both changes are kept": {"slow", "fast"} <= kept.keys(),
        "a slow request signs the browser in again": after.get("user_id") == NAME,
        "the old cookie opens the session again": stolen.get("user_id") == NAME,
    }


async def main() -> None:
    """Try all of them, and print what is found."""
    url = f"unix://{ensure_server('beside')}"
    for build in (ours, cookie, starsessions, fastapi_redis_sdk, alcazaba):
        print(build.__name__, await tried(build, url))


if __name__ == "__main__":
    asyncio.run(main())
