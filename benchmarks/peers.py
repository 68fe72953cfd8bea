"""What is compared: each library in the application of `shop`, set up as its documents say."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from redis.asyncio import Redis
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from benchmarks.shop import (
    SECRET,
    Use,
    application,
    bare_routes,
    change,
    change_and_assign,
    cookie,
    near_copies,
    nothing,
    ours,
    read,
    routes,
    sign_in,
)
from redis_sessions import Keyring, RedisStore, SessionManager, SessionMiddleware
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.record import Sealer

__all__ = [
    "NEAR",
    "OURS",
    "OURS_CLUSTER",
    "PEERS",
    "Forgetful",
    "Peer",
    "baseline_of",
    "missing",
    "present",
]

# A pool that is never the bottleneck, for those that have one connection a request.
CONNECTIONS = 2048
OURS = "ours"
OURS_CLUSTER = "ours-cluster"
NEAR = "ours-near"


def redis_client(url: str) -> Redis:
    return Redis.from_url(url, max_connections=CONNECTIONS)


# -- the applications


def nothing_fastapi(_: str) -> ASGIApp:
    app: ASGIApp = import_module("fastapi").FastAPI(routes=bare_routes(), openapi_url=None)
    return app


def nothing_litestar(_: str) -> ASGIApp:
    litestar = import_module("litestar")

    async def answer() -> str:
        return "0"

    handler = litestar.get(["/read", "/change", "/sign-in"], media_type="text/plain")(answer)
    app: ASGIApp = litestar.Litestar([handler], openapi_config=None, logging_config=None)
    return app


class Forgetful(Sealer):
    """Opens every record as if it had never seen it."""

    small = 0


def ours_first(url: str) -> ASGIApp:
    """Each read as if it were this process's first of that record."""
    store, keyring = RedisStore(url), Keyring(SECRET)
    manager = SessionManager(store, keyring)
    backend_of(manager).sealer = Forgetful(keyring, store.prefix)
    return application(routes(), [Middleware(SessionMiddleware, manager=manager)])


def ours_tuned(url: str) -> ASGIApp:
    """In a process whose collector looks less often, as docs/scaling.md proposes."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 100)
    return ours(url)


def from_environment() -> ASGIApp:
    """For uvicorn's `--factory`: the peer `BENCH_PEER`, with the server at `BENCH_URL`."""
    return PEERS[os.environ["BENCH_PEER"]].app(os.environ["BENCH_URL"])


def starsessions(url: str) -> ASGIApp:
    module, stores = import_module("starsessions"), import_module("starsessions.stores.redis")
    client = redis_client(url)
    middleware = [
        Middleware(
            module.SessionMiddleware,
            store=stores.RedisStore(connection=client),
            lifetime=1_209_600,
        ),
        Middleware(module.SessionAutoloadMiddleware),
    ]
    return application(routes(renew=module.regenerate_session_id), middleware, client)


def fastapi_redis_sdk(url: str) -> ASGIApp:
    """With the sessions' own settings; the pool is made when the application starts."""
    module = import_module("redis_fastapi")
    settings = module.get_settings()
    settings.url, settings.max_connections = url, CONNECTIONS
    app: ASGIApp = import_module("fastapi").FastAPI(
        routes=routes(change_and_assign), openapi_url=None
    )
    module.FastAPIRedis(app).lifespan().sessions()
    return app


def alcazaba(url: str) -> ASGIApp:
    """Encrypted; without metrics and traces."""
    module, sessions = (
        import_module("fastapi_alcazaba.cache"),
        import_module("fastapi_alcazaba.sessions"),
    )
    client = redis_client(url)
    cache = module.Cache(
        import_module("fastapi_alcazaba.backends.redis").RedisBackend(client),
        encryption_key=SECRET,
        metrics=False,
        tracing=False,
        # With its 1 s, 1,024 new connections on a busy machine leave it without sessions.
        backend_timeout=30.0,
    )
    middleware = Middleware(sessions.ServerSessionMiddleware, cache=cache, max_size=1 << 20)
    return application(routes(renew=sessions.rotate_session), [middleware], client)


def litestar(url: str) -> ASGIApp:
    module = import_module("litestar")
    backend = import_module("litestar.middleware.session.server_side")
    store = import_module("litestar.stores.redis").RedisStore(
        redis_client(url), handle_client_shutdown=True
    )

    def handler(path: str, use: Use) -> Any:
        async def handle(request: Any) -> str:
            return use(request.session)

        handle.__annotations__["request"] = module.Request  # Litestar wants to see it
        return module.get(path, media_type="text/plain")(handle)

    app: ASGIApp = module.Litestar(
        [handler("/read", read), handler("/change", change), handler("/sign-in", sign_in)],
        middleware=[backend.ServerSideSessionConfig().middleware],
        stores={"sessions": store},
        openapi_config=None,
        logging_config=None,
    )
    return app


@dataclass(frozen=True)
class Peer:
    """One column of the tables. `baseline` names the same application without sessions."""

    name: str
    title: str
    app: Callable[[str], ASGIApp]
    baseline: str | None = "none"
    package: str = "starlette"
    modules: tuple[str, ...] = ()
    server: str = "redis"
    server_side: bool = True
    nested: bool = True
    """Whether a change of a nested value is noticed, without an assignment."""
    only: str = ""
    """The one benchmark that it is of interest to."""
    near: bool = False
    """Whether it keeps near copies."""

    def version(self) -> str:
        return f"{self.package} {version(self.package)}"


def _none(name: str, title: str, app: Callable[[str], ASGIApp], *modules: str) -> Peer:
    return Peer(name, title, app, baseline=None, modules=modules, server_side=False)


_ALL = [
    _none("none", "no sessions, Starlette", nothing),
    _none("none-fastapi", "no sessions, FastAPI", nothing_fastapi, "fastapi"),
    _none("none-litestar", "no sessions, Litestar", nothing_litestar, "litestar"),
    Peer("cookie", "Starlette's signed cookie", cookie, server_side=False, nested=False),
    Peer(
        "starsessions",
        "starsessions",
        starsessions,
        package="starsessions",
        modules=("starsessions",),
    ),
    Peer(
        "fastapi-redis-sdk",
        "fastapi-redis-sdk",
        fastapi_redis_sdk,
        "none-fastapi",
        package="fastapi-redis-sdk",
        modules=("redis_fastapi", "fastapi"),
        nested=False,
    ),
    Peer(
        "alcazaba",
        "fastapi-alcazaba, encrypted",
        alcazaba,
        package="fastapi-alcazaba",
        modules=("fastapi_alcazaba", "cryptography"),
    ),
    Peer(
        "litestar",
        "Litestar, server-side",
        litestar,
        "none-litestar",
        package="litestar",
        modules=("litestar",),
    ),
    Peer(OURS, "redis-sessions", ours, package="redis-sessions"),
    Peer(
        NEAR,
        "redis-sessions, near copies",
        near_copies,
        package="redis-sessions",
        near=True,
    ),
    Peer(
        "ours-first",
        "redis-sessions, first reads",
        ours_first,
        package="redis-sessions",
        only="overhead",
    ),
    Peer(
        "ours-tuned",
        "redis-sessions, collector tuned",
        ours_tuned,
        package="redis-sessions",
        only="http",
    ),
    Peer("ours-valkey", "redis-sessions, Valkey", ours, package="redis-sessions", server="valkey"),
    Peer(
        OURS_CLUSTER,
        "redis-sessions, Cluster of 3",
        ours,
        package="redis-sessions",
        server="cluster",
    ),
]
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in _ALL}


def missing(peer: Peer) -> list[str]:
    """The modules that this peer needs and that aren't installed."""
    return [name for name in peer.modules if find_spec(name) is None]


def present(servers: Sequence[str], benchmark: str) -> list[Peer]:
    """The peers that have sessions and can run here, ours last."""
    return [
        peer
        for peer in _ALL
        if peer.baseline and not missing(peer)
        if peer.server in servers and peer.only in ("", benchmark)
    ]


def baseline_of(peer: Peer) -> Peer:
    assert peer.baseline is not None
    return PEERS[peer.baseline]
