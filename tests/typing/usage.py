"""What applications write, as type checkers see it. Never run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, assert_type
from uuid import UUID, uuid4

import msgspec
from anyio import from_thread
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from redis_sessions import (
    Answer,
    CookieTransport,
    CrossSiteError,
    Event,
    HeaderTransport,
    Keyring,
    LeadershipLostError,
    MemoryStore,
    RedisStore,
    Session,
    SessionAuthBackend,
    SessionError,
    SessionIndex,
    SessionInfo,
    SessionManager,
    SessionMiddleware,
    SessionStore,
    StoredSession,
    client_ip,
    generate_key,
    get_session,
    readiness,
    safe_next,
)
from redis_sessions.accept import Found, RedisSdk, StarletteCookie, Starsessions
from redis_sessions.fastapi import (
    OptionalPrincipalDep,
    PrincipalDep,
    SessionDep,
    SessionManagerDep,
    fresh,
    login_required,
    session_security,
    untouched,
)
from redis_sessions.messages import Missed
from redis_sessions.php import PhpSessions
from redis_sessions.telemetry import hashed_id, instrument
from redis_sessions.testing import (
    Clock,
    IndexConformance,
    StoreConformance,
    browser_cookie,
    set_session_data,
)
from redis_sessions.testing.session_client import SessionClient, in_memory


class Cart(msgspec.Struct):
    items: list[str]


@dataclass
class Point:
    x: int


class User(BaseModel):
    name: str


class OwnSource:
    cookie, path, domain = "sid", "/", None
    once, follow = True, False

    def map(self, data: dict[str, Any]) -> dict[str, Any] | None:
        return data

    async def find(self, value: str) -> Found | str | None:
        return Found({"user_id": value}, value, 60)

    async def read(self, id: str) -> dict[str, Any] | None:
        return {"user_id": id}

    async def end(self, id: str) -> None:
        pass

    async def close(self) -> None:
        pass


NEW_KEY, OLD_KEY = generate_key(), generate_key()

starlette_app = Starlette(
    middleware=[
        Middleware(
            SessionMiddleware,
            store="redis://localhost:6379/0",
            secret_key=os.environ["SESSION_SECRET_KEY"],
            max_age=timedelta(days=1),
            same_site="strict",
            clear_site_data=("cache", "storage"),
        ),
        Middleware(AuthenticationMiddleware, backend=SessionAuthBackend()),
        Middleware(
            AuthenticationMiddleware,
            backend=SessionAuthBackend(scopes=lambda session: session.get("roles", ())),
        ),
    ]
)

app = FastAPI()
app.add_middleware(
    SessionMiddleware,
    store="redis://localhost:6379/0",
    secret_key=Keyring(NEW_KEY, OLD_KEY, dropped=["a key that leaked, alas, to everybody"]),
    on_unavailable=lambda connection: "anonymous" if connection.url.path == "/" else "error",
    binding=client_ip(v4=24, v6=56),
    touch=lambda connection: not connection.url.path.startswith("/poll"),
    on_binding_mismatch="report",
    max_sessions=5,
    rotate_on=("role", "tenant"),
    on_conflict="error",
    clear_site_data={"cache", "storage"},
    accept=[
        StarletteCookie(["new", "old"], max_age=timedelta(days=14), map={"user_id": "user.id"}),
        Starsessions("redis://localhost:6379/0", map=lambda data: data.get("user")),
        RedisSdk("redis://localhost:6379/0", once=False, follow=True),
        PhpSessions("redis://localhost", map={"user_id": "user.id"}, write_back={"user_id"}),
        PhpSessions("redis://localhost", serializer="igbinary", compression="lz4", once=True),
        OwnSource(),
    ],
    principal=lambda data: data.get("user", {}).get("sub"),
)


async def starlette_handler(request: Request) -> JSONResponse:
    session = get_session(request)
    assert_type(session, Session)
    session["count"] = session.get("count", 0) + 1
    session.rotate()
    session.authenticated()
    session.authenticated(methods=["otp"])
    session.sign_in("ann", methods=("pwd", "otp"))
    assert_type(session.authentication_methods, tuple[str, ...])
    session.sign_in(1)
    session.sign_in("ann")
    session.sign_in(uuid4())
    session.sign_out()
    session.expire_in(timedelta(days=30), persistent=True)
    session.untouched()
    assert_type(session.idle_expires_at, datetime | None)
    assert_type(session.id, str | None)
    assert_type(session.principal, str | None)
    assert_type(session.get_as("cart", Cart), Cart | None)
    assert_type(session.get_as("cart", Cart, Cart([])), Cart)
    assert_type(session.get_as("point", Point), Point | None)
    assert_type(session.get_as("user", User), User | None)
    assert_type(session["anything"], Any)
    return JSONResponse(session)


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    session = get_session(websocket)
    session["seen"] = True
    await session.save()
    await session.refresh()
    async for keys in session.changes():
        assert_type(keys, frozenset[str])
    async for message in session.messages():
        assert_type(message, dict[str, Any] | Missed)
        if isinstance(message, Missed):
            assert_type(message.count, int | None)
    async with session.messages() as messages:
        assert_type(await anext(messages), dict[str, Any] | Missed)
    assert_type(get_session(websocket, watch=False), Session)


@app.get("/poll", dependencies=[Depends(untouched)])
async def poll(session: SessionDep) -> int:
    return len(session)


@app.get("/me")
def me(session: SessionDep, user: PrincipalDep, manager: SessionManagerDep) -> dict[str, Any]:
    assert_type(session, Session)
    assert_type(user, str)
    assert_type(manager, SessionManager)
    return dict(session)


def take_code(data: dict[str, Any]) -> str | None:
    code: str | None = data.pop("code", None)
    return code


@app.post("/devices/{id}")
async def devices(id: str, session: SessionDep, manager: SessionManagerDep) -> list[str | None]:
    assert_type(await manager.revoke(id, principal=uuid4()), bool)
    assert_type(await manager.revoke(id, "alice"), bool)
    assert_type(await manager.revoke_all(7, keep=session.id), int)
    session.sign_in(7, aliases={"sid": "08a5019c"})
    assert_type(await manager.revoke_by("sid", "08a5019c"), int)
    shown = await manager.sessions_of("alice")
    assert_type(shown, list[SessionInfo])
    assert_type(shown[0].last_seen_at, datetime)
    assert_type(shown[0].created_at, datetime | None)
    assert_type(shown[0].methods, tuple[str, ...])
    assert_type(await manager.update(session, take_code), str | None)
    async with session.exclusive(timeout=2.5):
        session["balance"] -= 1
    return [shown[0].browser, shown[0].system, shown[0].address]


@app.get("/pay", dependencies=[Depends(fresh(300))])
@app.get("/transfer", dependencies=[Depends(fresh(within=300))])
@app.get("/close", dependencies=[Depends(fresh(within=300, methods={"otp"}))])
@app.get("/keys", dependencies=[Depends(fresh(methods=("hwk", "user")))])
async def transfer(user: Annotated[str, Depends(fresh(within=timedelta(minutes=5)))]) -> str:
    return user


UserDep = Annotated[str, Depends(login_required("/login"))]


@app.get("/account", dependencies=[Depends(fresh(300, page="/login"))])
def account(user: UserDep, manager: SessionManagerDep) -> int:
    assert_type(user, str)
    return from_thread.run(manager.revoke_all, user)


@app.post("/login")
def login(request: Request, user: OptionalPrincipalDep, session: SessionDep) -> str:
    assert_type(user, str | None)
    from_thread.run(session.save)
    assert_type(safe_next(request), str)
    return safe_next(request, "/cart", default="/home")


admin = session_security(cookie="admin")
AdminPage = Annotated[str, Depends(admin.login_required("admin:login"))]
AdminOrNobody = Annotated[str | None, Depends(admin.optional_principal)]
AdminSession = Annotated[Session, Depends(admin.session)]
AdminPrincipal = Annotated[str, Depends(admin.principal)]


@app.get("/admin", dependencies=[Depends(admin.fresh(within=60)), Depends(admin.untouched)])
async def administer(session: AdminSession, who: AdminPrincipal) -> str:
    assert_type(session, Session)
    return who


def device(connection: HTTPConnection) -> str | None:
    return connection.headers.get("x-device")


def log(event: Event) -> None:
    assert_type(event.reason, str | None)
    assert_type(event.principal, str | None)
    assert_type((event.address, event.user_agent), tuple[str | None, str | None])


async def without_a_request(client: Redis) -> None:
    store = MemoryStore(clock=Clock())
    stores: list[SessionStore] = [
        store,
        RedisStore(client, prefix="s:"),
        RedisStore("rediss://user:password@host:6379/0?ssl_ca_certs=ca.pem", timeout=1),
    ]
    for each in stores:
        await each.close()
    manager = SessionManager(
        store,
        Keyring(NEW_KEY, OLD_KEY),
        max_age=None,
        on_event=log,
        personal_events=True,
        deadline=2,
    )
    SessionManager("redis://localhost:6379/0", "new" * 12, max_age=3600)
    SessionManager(client, ["new" * 12, b"old" * 12])
    assert_type(await manager.count(), int)
    async for stored in manager.sessions():
        assert_type(stored, StoredSession)
        assert_type(stored.idle_expires_at, datetime | None)
    session = await manager.load("token")
    answer = await manager.commit(session, status=200)
    assert_type(answer, Answer)
    Starlette(middleware=[Middleware(SessionMiddleware, manager=manager)])
    Starlette(
        middleware=[Middleware(SessionMiddleware, manager=manager, transport=HeaderTransport())]
    )
    Starlette(
        middleware=[
            Middleware(
                SessionMiddleware,
                manager=manager,
                transport=CookieTransport("sid", https_only=False, same_site="lax"),
            )
        ]
    )
    SessionMiddleware(Starlette(), store="memory://", secret_key=NEW_KEY, binding="ip")
    SessionMiddleware(
        Starlette(),
        store="memory://",
        secret_key=[NEW_KEY, OLD_KEY],
        binding=device,
    )
    SessionMiddleware(
        Starlette(),
        manager=manager,
        cross_site="refuse",
        trusted_origins={"https://app.example.com"},
    )
    errors: list[type[SessionError]] = [CrossSiteError, LeadershipLostError]
    assert errors
    SessionMiddleware(
        Starlette(), manager=manager, transport=[CookieTransport(), HeaderTransport()]
    )
    SessionMiddleware(
        Starlette(), manager=manager, transport=(CookieTransport("a"), HeaderTransport("b"))
    )
    indexes: list[SessionIndex] = [MemoryStore(), RedisStore(client)]
    who: str | int | UUID = uuid4()
    assert_type(await manager.revoke_all(who), int)
    await indexes[0].entries("0" * 32)


def in_a_test(client: Any, manager: SessionManager) -> None:
    set_session_data(client, manager, {"user_id": 1})
    client.add_cookies([browser_cookie("token", "http://localhost:8000")])
    app = Starlette(middleware=[Middleware(SessionMiddleware, store="memory://")])
    with in_memory(app, clock=Clock()) as its, SessionClient(app) as session_client:
        assert_type(its, SessionManager)
        session_client.sign_in(1, cart=["tea"])
        with session_client.session() as session:
            assert_type(session, Session)


class TestMine(StoreConformance):
    """A store of one's own."""


class TestMyIndex(IndexConformance):
    """An index of one's own."""


hook: Callable[[type, Any], Any] = lambda kind, value: kind(value)  # noqa: E731 - as users write it
SessionManager(MemoryStore(), Keyring(NEW_KEY), enc_hook=str, dec_hook=hook)


async def observability(manager: SessionManager, app: Starlette) -> None:
    instrument(manager)
    instrument(manager, spans=True)
    app.add_route("/ready", readiness(manager, timeout=1.5))
    assert_type(hashed_id("an id"), str)
    assert_type(await manager.ready(timeout=1.5), bool)
