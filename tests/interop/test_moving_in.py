"""Sessions that other libraries have stored are accepted: each is written by the library itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, cast

import itsdangerous
import pytest
import redis_fastapi
import starsessions
import starsessions.stores.redis
from fastapi import FastAPI
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio import RedisCluster
from redis_fastapi.session_backend import RedisSessionStore
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from redis_sessions import RedisStore, SessionManager, SessionMiddleware
from redis_sessions.accept import Found, RedisSdk, Source, StarletteCookie, Starsessions
from tests.interop.serving import HTTPS, SECRET, Options
from tests.support.asgi import ask
from tests.support.deployments import Deployment
from tests.support.servers import as_owner
from tests.unit.accept.elsewhere import Elsewhere

OLD_KEY: Final = "the-key-of-starlette's-own-middleware"
ALICE: Final = {"user_id": 7, "cart": {"tea": 2, "ünïcode": [1.5, None, True]}}


async def sign_in(request: Request) -> Response:
    request.session.update(ALICE)
    return Response()


async def sign_out(request: Request) -> Response:
    request.session.clear()
    return Response()


async def leave(request: Request) -> Response:
    del request.session["user_id"]
    return Response()


async def show(request: Request) -> Response:
    return JSONResponse(dict(request.session))


def refused(_: dict[str, Any]) -> None:
    """As a map that accepts none."""


ROUTES: Final = [
    Route("/in", sign_in),
    Route("/out", sign_out),
    Route("/leave", leave),
    Route("/", show),
]


class Encryptor:
    """As an application of fastapi-redis-sdk may have one."""

    def encrypt(self, plaintext: bytes) -> bytes:
        return bytes(b ^ 0xAA for b in plaintext)

    def decrypt(self, ciphertext: bytes) -> bytes:
        return bytes(b ^ 0xAA for b in ciphertext)


class Move:
    """An application on the library of before, and the same one on ours, in one browser."""

    def __init__(
        self, url: str, prefix: str, options: Options, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.url, self.owner, self.prefix, self.options = url, as_owner(url), prefix, options
        self.monkeypatch = monkeypatch

    def starlette(self, **more: Any) -> tuple[Any, Callable[..., Source]]:
        def source(**kept: Any) -> Source:
            return StarletteCookie(["another", OLD_KEY, "a third"], **kept)

        middleware = Middleware(StarlettesMiddleware, secret_key=OLD_KEY, https_only=True, **more)
        return Starlette(routes=ROUTES, middleware=[middleware]), source

    def starsessions(self, **more: Any) -> tuple[Any, Callable[..., Source]]:
        prefix = f"{self.prefix}star."
        client = AsyncRedis.from_url(self.owner)
        store = starsessions.stores.redis.RedisStore(connection=client, prefix=prefix)
        middleware = [
            Middleware(starsessions.SessionMiddleware, store=store, lifetime=3600, **more),
            Middleware(starsessions.SessionAutoloadMiddleware),
        ]

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncGenerator[None]:
            yield
            await client.aclose()

        app = Starlette(routes=ROUTES, middleware=middleware, lifespan=lifespan)

        def source(**kept: Any) -> Source:
            return Starsessions(self.url, prefix=prefix, **kept)

        return app, source

    def sdk(self, **more: Any) -> tuple[Any, Callable[..., Source]]:
        for name, value in {"URL": self.owner, "PREFIX": f"{self.prefix}sdk"}.items():
            self.monkeypatch.setenv(f"REDIS_{name}", value)
        redis_fastapi.get_settings.cache_clear()
        app = FastAPI(routes=[*ROUTES], openapi_url=None)
        redis_fastapi.FastAPIRedis(app).lifespan().sessions(**more)

        def source(**kept: Any) -> Source:
            return RedisSdk(self.url, prefix=f"{self.prefix}sdk", **kept, **more)

        return app, source

    @contextmanager
    def browser(
        self, old: Any, source: Source, **more: Any
    ) -> Generator[tuple[TestClient, TestClient]]:
        """A client of each application. They have the same cookies."""
        accepts = Middleware(SessionMiddleware, **self.options(accept=[source], **more))
        new = Starlette(routes=ROUTES, middleware=[accepts])
        with ExitStack() as stack:
            before = stack.enter_context(TestClient(old, base_url=HTTPS.url))
            after = stack.enter_context(TestClient(new, base_url=HTTPS.url))
            after.cookies.jar = before.cookies.jar
            yield before, after


@pytest.fixture
def move(
    redis_url: str, prefix: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> Generator[Move]:
    """The two applications on one Redis."""
    yield Move(redis_url, prefix, options, monkeypatch)
    redis_fastapi.get_settings.cache_clear()


@pytest.mark.parametrize(
    ("library", "days"), [("starlette", 14), ("starsessions", 400), ("sdk", 8 / 24)]
)
def test_nobody_is_signed_out_on_the_day_of_the_switch(
    move: Move, library: str, days: float
) -> None:
    """Who was signed in before is signed in here, with all data, and once."""
    old, source_of = getattr(move, library)()
    with move.browser(old, source_of()) as (before, after):
        before.get("/in")
        foreign = before.cookies["session"]
        assert before.get("/").json() == ALICE
        assert after.get("/").json() == ALICE
        assert set(after.cookies) == {HTTPS.cookie}
        assert after.get("/").json() == ALICE
        after.get("/out")
        after.cookies.clear()
        after.cookies.set("session", foreign, domain="testserver.local", path="/")
        assert after.get("/").json() == {}
    with Redis.from_url(move.owner) as untyped:
        server: Any = untyped
        (marker,) = server.scan_iter(f"{move.prefix}accepted:*")
        lasts = server.ttl(marker) / (24 * 3600)
    # It outlives the foreign session, and a clock that is an hour behind.
    assert days <= lasts <= days + 1 / 24


def test_copies_that_starlette_has_signed_before(move: Move) -> None:
    """It signs the session anew with each response. After a sign-out here no copy of before opens.

    Who signs in there afterwards is signed in here.
    """
    old, source_of = move.starlette()
    with move.browser(old, source_of()) as (before, after):
        before.get("/in")
        signer = itsdangerous.TimestampSigner(OLD_KEY)
        payload, signed = signer.unsign(before.cookies["session"], return_timestamp=True)
        move.monkeypatch.setattr(signer, "get_timestamp", lambda: int(signed.timestamp()) - 60)
        copy = signer.sign(payload).decode()
        assert after.get("/").json() == ALICE
        after.get("/out")
        after.cookies.set("session", copy, domain="testserver.local", path="/")
        assert after.get("/").json() == {}
        with Redis.from_url(move.owner) as untyped:
            server: Any = untyped
            lasts = max(server.ttl(key) for key in server.scan_iter(f"{move.prefix}of:*"))
        assert 14 * 24 * 3600 < lasts <= 14 * 24 * 3600 + 3600
        for _ in range(100_000):  # a signature says in which second it was made, and no more
            before.get("/in")
            if after.get("/").json() == ALICE:
                break
        assert after.get("/").json() == ALICE


@pytest.mark.parametrize("library", ["starsessions", "sdk"])
def test_one_sign_out_ends_both(move: Move, library: str) -> None:
    """With follow=True the applications run side by side."""
    old, source_of = getattr(move, library)()
    for out in ("before", "after"):
        with move.browser(old, source_of(once=False, follow=True)) as (before, after):
            before.get("/in")
            assert after.get("/").json() == before.get("/").json() == ALICE
            {"before": before, "after": after}[out].get("/out")
            assert after.get("/").json() == before.get("/").json() == {}


@pytest.mark.parametrize("library", ["starsessions", "sdk"])
def test_a_sign_out_that_keeps_the_cart(move: Move, library: str) -> None:
    """It is one here, too, though the session keeps its id; and so is the next sign-in."""
    old, source_of = getattr(move, library)()
    with move.browser(old, source_of(once=False, follow=True)) as (before, after):
        for _ in range(2):
            before.get("/in")
            assert after.get("/").json() == before.get("/").json() == ALICE
            before.get("/leave")
            assert after.get("/").json() == before.get("/").json() == {"cart": ALICE["cart"]}


def test_an_encrypted_record_of_the_sdk(move: Move) -> None:
    """With the store's own encryptor it is read; without it, it is no session."""
    old, source_of = move.sdk(encryptor=Encryptor())
    with move.browser(old, RedisSdk(move.url, prefix=f"{move.prefix}sdk")) as (before, after):
        before.get("/in")
        assert after.get("/").json() == {}
    with move.browser(old, source_of()) as (before, after):
        before.get("/in")
        assert after.get("/").json() == ALICE


def test_a_map_says_what_becomes_ours(move: Move) -> None:
    """By a dotted path, or by a callable that may refuse a session."""
    old, source_of = move.starlette()
    with move.browser(old, source_of(map={"uid": "user_id", "tea": "cart.tea"})) as (before, after):
        before.get("/in")
        assert after.get("/").json() == {"uid": 7, "tea": 2}
    with move.browser(old, source_of(map=refused)) as (before, after):
        before.get("/in")
        assert after.get("/").json() == {}


@pytest.mark.parametrize(
    "signer",
    [
        itsdangerous.TimestampSigner("a key of somebody else"),
        itsdangerous.TimestampSigner(OLD_KEY, salt="another purpose"),
    ],
)
def test_a_cookie_that_starlette_would_not_take(
    move: Move, signer: itsdangerous.TimestampSigner
) -> None:
    """Neither another key's signature, nor another salt's, signs anybody in."""
    old, source_of = move.starlette()
    with move.browser(old, source_of()) as (_, after):
        value = signer.sign(b"eyJ1c2VyX2lkIjogN30=").decode()
        after.cookies.set("session", value, domain="testserver.local", path="/")
        assert after.get("/").json() == {}


@pytest.mark.parametrize("library", ["starsessions", "sdk"])
def test_records_that_are_damaged(move: Move, library: str) -> None:
    """Whatever is in the library's keys, it is no session and no exception."""
    old, source_of = getattr(move, library)()
    with (
        move.browser(old, source_of()) as (before, after),
        Redis.from_url(move.owner) as untyped,
    ):
        server: Any = untyped
        before.get("/in")
        (key,) = [k for k in server.scan_iter(f"{move.prefix}s*") if b":sessions-of:" not in k]
        damaged = [b"", b"\xff", b"[" * 5000, b"[]", b"null", b'{"d": 1']
        for value in [*damaged, *([b"{}", b'{"m": 1, "d": []}'] if library == "sdk" else [])]:
            server.delete(key)
            if library == "starsessions":
                server.set(key, value)
            else:
                server.hset(key, "d", value)
            server.expire(key, 60)
            assert after.get("/").json() == {}
        server.delete(key)
        server.lpush(key, "x")
        assert after.get("/").json() == {}
        for text in ("../x", "x" * 200, "%00" * 20, "a b"):
            after.cookies.set("session", text, domain="testserver.local", path="/")
            assert after.get("/").json() == {}


@pytest.mark.parametrize("deployment", ["cluster"], indirect=True)
async def test_records_in_a_cluster(deployment: Deployment, prefix: str) -> None:
    """Each source finds what its library has stored there, and ends it."""
    nodes = as_owner(deployment.url).replace("redis+cluster", "redis")
    client = RedisCluster.from_url(nodes.split(",")[0])
    star = starsessions.stores.redis.RedisStore(connection=cast("Any", client), prefix=prefix)
    sdk = RedisSessionStore(client, key_prefix=prefix)
    own: list[Source] = [
        Starsessions(deployment.url, prefix=prefix, once=False, follow=True),
        RedisSdk(deployment.url, prefix=prefix, once=False, follow=True),
    ]
    try:
        ids = [starsessions.session.generate_session_id(), sdk.new_id()]
        await star.write(ids[0], starsessions.JsonSerializer().serialize(ALICE), 60, 60)
        await sdk.create(ids[1], sdk.new_record(ALICE))
        for source, id in zip(own, ids, strict=True):
            found = await source.find(id)
            assert isinstance(found, Found)
            assert found.data == ALICE
            assert await source.read(id) is not None
            await source.end(id)
            assert await source.read(id) is None
            assert await source.find(id) is None
    finally:
        for each in own:
            await each.close()
        await client.aclose()


@pytest.mark.parametrize("out", [0, 1])
async def test_two_applications_with_one_manager(redis_url: str, prefix: str, out: int) -> None:
    """Each follows another library's sessions. A sign-out in either ends that library's session."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["session"] == ALICE
        if scope["path"] == "/out":
            scope["session"].clear()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    client = AsyncRedis.from_url(as_owner(redis_url))
    star = starsessions.stores.redis.RedisStore(connection=client, prefix=prefix)
    sdk = RedisSessionStore(client, key_prefix=prefix)
    ids = [starsessions.session.generate_session_id(), sdk.new_id()]
    await star.write(ids[0], starsessions.JsonSerializer().serialize(ALICE), 60, 60)
    await sdk.create(ids[1], sdk.new_record(ALICE))
    own: list[Source] = [
        Starsessions(redis_url, prefix=prefix, cookie_name="star", once=False, follow=True),
        RedisSdk(redis_url, prefix=prefix, cookie_name="sdk", once=False, follow=True),
    ]
    manager = SessionManager(RedisStore(redis_url, prefix=prefix), SECRET)
    apps = [SessionMiddleware(app, manager=manager, accept=[source]) for source in own]
    theirs = [
        (b"cookie", f"{each.cookie}={id}".encode()) for each, id in zip(own, ids, strict=True)
    ]
    try:
        replies = [await ask(each, [sent]) for each, sent in zip(apps, theirs, strict=True)]
        ours = b"cookie", replies[out].checked().cookies[0].split(";")[0].encode()
        (await ask(apps[out], [theirs[out], ours], path="/out")).checked()
        there = [await source.read(id) for source, id in zip(own, ids, strict=True)]
        assert [data is None for data in there] == [out == 0, out == 1]
    finally:
        for each in own:
            await each.close()
        await manager.close()
        await client.aclose()


async def test_many_first_requests_at_once(options: Options) -> None:
    """Of requests with one foreign cookie, in two processes, a single one signs in."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.wait_for(together.wait(), 30)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": repr(dict(scope["session"])).encode()})

    together = asyncio.Barrier(40)
    processes = [SessionMiddleware(app, **options(accept=[Elsewhere()])) for _ in range(2)]
    asked = [ask(each, [(b"cookie", b"theirs=s1")]) for each in processes * 20]
    replies = [reply.checked() for reply in await asyncio.gather(*asked)]
    assert len([reply for reply in replies if reply.cookies]) == 1
    assert {reply.body for reply in replies} == {replies[0].body}
    assert len(await processes[0].manager.sessions_of("alice")) == 1
    for each in processes:
        await each.manager.close()
