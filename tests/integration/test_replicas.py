"""Reads from replicas: fast where they are fresh, and never what somebody must not see."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from redis_sessions import (
    HeaderTransport,
    RedisStore,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from redis_sessions.connect import connector_of
from redis_sessions.fastapi import SessionDep
from redis_sessions.stores import replicas as replicas_module
from redis_sessions.stores.replicas import Replicas
from redis_sessions.stores.wire import Wire
from redis_sessions.testing import store_session, topology
from redis_sessions.testing.topologies.processes import wait_until
from redis_sessions.token import SessionToken
from tests.deployments import replicas_url, until
from tests.integration.apps import BASE, COOKIE, client_of, doing, manager_on, signed_in, token_in
from tests.proxy import Proxy
from tests.support import app_user, as_app

HINT = f"{COOKIE}-fresh"


class Lagging:
    """A primary, and one replica whose stream of writes comes through a proxy."""

    def __init__(self, servers: topology.Topology, stream: Proxy) -> None:
        self.primary, self.replica = servers.nodes
        both = f"{self.primary.address},{self.replica.address}"
        self.url = as_app(f"redis://{both}/0?replicas=read")
        self._stream = stream

    def through_the_proxy(self) -> None:
        """Have the replica follow through it."""
        self.replica.ask("REPLICAOF", "127.0.0.1", self._stream.port)
        follows(self.replica)

    @contextmanager
    def behind(self) -> Generator[None]:
        """The replica gets nothing that is written in here."""
        self._stream.freeze()
        try:
            yield
        finally:
            self._stream.heal()

    def reads(self) -> int:
        """How many records the replica was asked for."""
        said: dict[str, dict[str, int]] = self.replica.ask("INFO", "commandstats")
        return said.get("cmdstat_mget", {}).get("calls", 0)


@pytest.fixture(scope="module")
def lagging(server_binary: Path) -> Iterator[Lagging]:
    with (
        topology.replicas(1, server=server_binary, options=app_user(replicas=True)) as servers,
        Proxy(servers.primary.port) as stream,
    ):
        lagging = Lagging(servers, stream)
        lagging.through_the_proxy()
        yield lagging


def follows(replica: topology.Node) -> None:
    """Return once it has its primary's data, and gets what is new."""
    wait_until(lambda: "" if replica.ask("ROLE")[3] == "connected" else "it doesn't follow")


@pytest.fixture
async def manager(lagging: Lagging, prefix: str) -> AsyncIterator[SessionManager]:
    """A manager whose store has found the replica fresh."""
    manager = manager_on(lagging.url, prefix)
    await wait_for_copies(manager)
    yield manager
    await manager.close()


async def wait_for_copies(manager: SessionManager) -> None:
    store = manager.store
    assert isinstance(store, RedisStore)

    async def offered() -> bool:
        copy = store.nearby(SessionToken.generate().id)
        if copy is not None:
            await copy  # the connection is there, and was judged, too
        return copy is not None

    for _ in range(3):
        await until(offered)


async def see(manager: SessionManager, token: str) -> httpx2.Response:
    """What a browser without the hint is shown."""
    async with client_of(doing(manager=manager), token) as browser:
        return await browser.get("/do")


def hints(response: httpx2.Response) -> list[str]:
    return [c for c in response.headers.get_list("set-cookie") if c.startswith(f"{HINT}=")]


# -- what they are read for


async def test_a_request_is_served_by_a_replica(manager: SessionManager, lagging: Lagging) -> None:
    """Where nothing was changed lately, the primary isn't asked."""
    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    before = lagging.reads()
    assert (await see(manager, token)).json() == {"n": 1}
    assert lagging.reads() > before


async def in_copy(manager: SessionManager, token: str) -> bool:
    """Whether the replica has this session."""
    store = manager.store
    assert isinstance(store, RedisStore)
    copy = store.nearby(token[:20])
    return copy is not None and await copy is not None


async def test_without_replicas(lagging: Lagging, prefix: str) -> None:
    """A store that reads none offers none, and no response has a hint."""
    manager = manager_on(as_app(lagging.primary.url), prefix)
    assert not manager.reads_replicas
    assert isinstance(manager.store, RedisStore)
    assert manager.store.nearby(SessionToken.generate().id) is None
    async with client_of(doing(manager=manager)) as browser:
        assert hints(await browser.get("/do?set=a:1")) == []
    await manager.close()


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
async def test_other_deployments(request: pytest.FixtureRequest, kind: str, prefix: str) -> None:
    """The replicas of what the Sentinels watch, and of each of a Cluster's primaries."""
    running: topology.ClusterTopology | topology.SentinelTopology
    running = request.getfixturevalue(f"{kind}_topology")
    manager = manager_on(f"{as_app(running.url)}?replicas=read", prefix)
    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    assert await manager.nearby([token]) == {"n": 1}
    await manager.close()


# -- read your writes


async def test_a_browser_sees_what_it_wrote(manager: SessionManager, lagging: Lagging) -> None:
    """Whichever process serves it, however far the replica is behind."""
    other = manager_on(lagging.url, manager.store.prefix)
    await wait_for_copies(other)
    turns = itertools.cycle([doing(manager=manager), doing(manager=other)])

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await next(turns)(scope, receive, send)

    async with client_of(either) as browser:
        token = await signed_in(browser)
        await until(lambda: in_copy(manager, token))
        with lagging.behind():
            for number in range(5):
                changed = await browser.get(f"/do?set=n:{number}")
                assert len(hints(changed)) == 1
                assert (await browser.get("/do")).json()["n"] == str(number)
    await other.close()


async def test_the_hint(manager: SessionManager) -> None:
    """A cookie with the session's own flags, for longer than a replica may lag behind."""
    async with client_of(doing(manager=manager)) as browser:
        created = await browser.get("/do?set=a:1")
        assert hints(created) == [f"{HINT}=1; path=/; Max-Age=10; httponly; samesite=lax; secure"]
        assert token_in(created) is not None
        assert hints(await browser.get("/do")) == []
        assert len(hints(await browser.get("/do?rotate="))) == 1
        assert len(hints(await browser.get("/do?set=user_id:a"))) == 1
        assert len(hints(await browser.get("/do?drop=user_id"))) == 1  # a is left
        assert hints(await browser.get("/do?clear=")) == []


async def test_a_touch_needs_no_hint(lagging: Lagging, prefix: str) -> None:
    """The times in a session are nothing that a browser sees."""
    now = [1_800_000_000.0]
    manager = manager_on(lagging.url, prefix, clock=lambda: now[0])
    token = await store_session(manager, {"n": 1})
    now[0] += 3600
    response = await see(manager, token)
    assert (manager.counts["touched"], hints(response)) == (1, [])
    await manager.close()


async def test_what_save_stored_is_hinted(manager: SessionManager) -> None:
    """Also where the response itself has nothing left to store."""

    async def save(request: Request) -> Response:
        session = get_session(request)
        session["n"] = 2
        await session.save()
        return PlainTextResponse("saved")

    token = await store_session(manager, {"n": 1})
    async with client_of(doing(Route("/save", save), manager=manager), token) as browser:
        assert len(hints(await browser.get("/save"))) == 1


@pytest.mark.parametrize("value", ["", "0", "x" * 4000, "%00", '"'])
async def test_any_hint_will_do(manager: SessionManager, lagging: Lagging, value: str) -> None:
    """What a client writes into it doesn't matter: it gets the newest."""
    token = await store_session(manager, {"n": 1})
    before = lagging.reads()
    headers = {"cookie": f"a=b; {HINT}={value}; {COOKIE}={token}"}
    async with client_of(doing(manager=manager), headers=headers) as browser:
        assert (await browser.get("/do")).json() == {"n": 1}
    assert lagging.reads() == before


async def test_headers_read_the_primary(manager: SessionManager, lagging: Lagging) -> None:
    """A client without cookies can't keep a hint."""
    token = await store_session(manager, {"n": 1})
    before = lagging.reads()
    app = doing(manager=manager, transport=HeaderTransport())
    async with client_of(app, headers={"X-Session-Token": token}) as browser:
        changed = await browser.get("/do?set=n:2")
        assert changed.json() == {"n": "2"}
        assert "set-cookie" not in changed.headers
    assert lagging.reads() == before


def test_a_websocket(lagging: Lagging, prefix: str) -> None:
    """It brings the hint to its handshake, and gets one with it."""

    async def talk(websocket: WebSocket) -> None:
        get_session(websocket)["n"] = 1
        await websocket.accept()
        await websocket.close()

    app = doing(WebSocketRoute("/ws", talk), manager=manager_on(lagging.url, prefix))
    with TestClient(app, BASE) as client, client.websocket_connect("wss://testserver/ws") as ws:
        headers = cast("list[tuple[bytes, bytes]]", ws.extra_headers)
        sent = [value for name, value in headers if name == b"set-cookie"]
        assert [value.partition(b"=")[0].decode() for value in sent] == [COOKIE, HINT]


async def test_lazy_requests_read_replicas(manager: SessionManager, lagging: Lagging) -> None:
    """What a dependency loads is loaded as eagerly as ever, and no more."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=manager, lazy=True)

    @app.get("/")
    async def read(session: SessionDep) -> dict[str, int]:
        return dict(session)

    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    before = lagging.reads()
    async with client_of(app, token) as browser:
        response = await browser.get("/")
    assert (response.json(), hints(response)) == ({"n": 1}, [])
    assert lagging.reads() > before


# -- nobody is signed out by a replica, or overwrites by one


async def test_a_miss_asks_the_primary(manager: SessionManager, lagging: Lagging) -> None:
    """A session that the replica doesn't have yet, without the hint."""
    with lagging.behind():
        token = await store_session(manager, {"n": 1})
        assert (await see(manager, token)).json() == {"n": 1}
    assert manager.counts["rejected"] == 0


async def test_a_new_token_asks_the_primary(manager: SessionManager, lagging: Lagging) -> None:
    """The replica's record doesn't open with the token of a rotation."""
    async with client_of(doing(manager=manager)) as browser:
        old = await signed_in(browser)
        await until(lambda: in_copy(manager, old))
        with lagging.behind():
            new = token_in(await browser.get("/do?rotate="))
            assert new is not None
            assert (await see(manager, new)).json() == {"user_id": "alice"}
    assert manager.counts["rejected"] == 0


async def test_another_binding_asks_the_primary(lagging: Lagging, prefix: str) -> None:
    """What isn't bound here is judged by the newest, and reported once."""
    manager = manager_on(lagging.url, prefix)
    await wait_for_copies(manager)
    session = await manager.load(None, bound="here")
    session["n"] = 1
    answer = await manager.commit(session)
    assert answer.token is not None
    token = answer.token.value
    await until(lambda: in_copy(manager, token))
    assert await manager.nearby([token], bound="there") == {}
    assert manager.counts["rejected"] == 1
    assert await manager.nearby([token], bound="here") == {"n": 1}
    await manager.close()


async def test_an_old_copy_overwrites_nothing(manager: SessionManager, lagging: Lagging) -> None:
    """A change that was made on one is merged into what the primary has."""
    token = await store_session(manager, {"a": 1})
    await until(lambda: in_copy(manager, token))
    with lagging.behind():
        newer = await manager.load(token)
        newer["b"] = 2
        await manager.commit(newer)
        old = await manager.nearby([token])
        assert old == {"a": 1}
        old["c"] = 3
        await manager.commit(old)
        assert await manager.load(token) == {"a": 1, "b": 2, "c": 3}
    assert manager.counts["merged"] == 1


async def test_a_replica_that_hangs(
    manager: SessionManager, lagging: Lagging, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs its own time-out once; then the primary serves everybody."""
    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    lagging.replica.pause()
    try:
        for _ in range(3):
            assert (await see(manager, token)).status_code == 200
        assert isinstance(manager.store, RedisStore)
        assert manager.store.nearby(token[:20]) is None
    finally:
        lagging.replica.resume()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    await until(lambda: in_copy(manager, token))


# -- the bound


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is less than a second."""
    monkeypatch.setattr(replicas_module, "MAX_LAG", 0.3)
    monkeypatch.setattr(replicas_module, "_SAMPLE_EVERY", 0.05)


async def test_a_revocation_is_not_outlived(
    soon: None, lagging: Lagging, manager: SessionManager
) -> None:
    """A replica that never hears of it is soon not asked any more."""
    token = await store_session(manager, {"user_id": "bob"})
    await until(lambda: in_copy(manager, token))

    async def signed_out() -> bool:
        return bool((await see(manager, token)).json() == {})

    with lagging.behind():
        assert await manager.revoke_all("bob") == 1
        with lagging.replica.connect() as client:
            assert client.get(manager.store.prefix + token[:20]) is not None
        over = asyncio.get_running_loop().time() + replicas_module.MAX_LAG

        async def bound_has_passed() -> bool:
            return asyncio.get_running_loop().time() > over

        await until(bound_has_passed)
        assert [await signed_out() for _ in range(20)] == [True] * 20
        assert not await in_copy(manager, token)
    await wait_for_copies(manager)  # it catches up, and is asked again
    assert await signed_out()


async def test_a_replica_of_another_primary(
    soon: None, lagging: Lagging, manager: SessionManager
) -> None:
    """One that was made a primary of its own, say by hand, isn't believed for long."""
    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    role: list[Any] = lagging.replica.ask("ROLE")
    lagging.replica.ask("REPLICAOF", "NO", "ONE")
    try:

        async def left() -> bool:
            return not await in_copy(manager, token)

        await until(left)
        assert [await left() for _ in range(20)] == [True] * 20
    finally:
        lagging.replica.ask("REPLICAOF", "127.0.0.1", role[2])
        follows(lagging.replica)


async def test_a_replica_that_started_anew(
    lagging: Lagging, manager: SessionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of the one before doesn't count for the process that follows it."""
    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    monkeypatch.setattr(replicas_module, "_SAMPLE_EVERY", 1e9)
    assert await in_copy(manager, token)  # still in time
    lagging.replica.kill()
    lagging.replica.start()
    try:
        assert [await in_copy(manager, token) for _ in range(20)] == [False] * 20
        assert (await see(manager, token)).json() == {"n": 1}
    finally:
        follows(lagging.replica)  # its configuration has connected it to the primary itself
        lagging.through_the_proxy()


async def test_several_replicas_behind_one_address(
    server_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer's: what is learned of one of them doesn't count for another."""
    monkeypatch.setattr(replicas_module, "_SAMPLE_EVERY", 0.0)  # with each read, beside it
    with (
        topology.replicas(2, server=server_binary) as servers,
        Proxy(servers.primary.port) as stream,
        Proxy(servers.nodes[1].port) as balancer,
    ):
        primary, fresh, stale = servers.nodes
        primary.ask("SET", "k", "old")
        stale.ask("REPLICAOF", "127.0.0.1", stream.port)
        follows(stale)
        stream.freeze()
        primary.ask("SET", "k", "new")
        connector = connector_of(primary.url, timeout=1)
        wire = Wire(connector, 1, [])
        replicas = Replicas(connector, wire, 1, [("127.0.0.1", balancer.port)])

        async def read() -> bytes | None:
            copy = replicas.load("k")
            value = None if copy is None else await copy
            await vars(replicas)["_sampling"]
            return value

        async def is_new() -> bool:
            return await read() == b"new"

        await until(is_new)
        there: Any = next(iter(vars(replicas)["_all"].values()))

        async def keep_busy() -> None:
            """Three connections, which all there are."""
            block = ("XREAD", "BLOCK", 100, "STREAMS", "none", "$")
            waits = (there.wire.send_one(*block) for _ in range(3))
            await asyncio.gather(*waits, return_exceptions=True)  # mixed ones are closed

        await keep_busy()
        for node in (stale, fresh, stale, fresh):
            busy = asyncio.create_task(keep_busy())
            for _ in range(3):
                await asyncio.sleep(0)  # they are taken
            balancer.target = node.port  # of the next connection
            assert await read() != b"old"
            await busy
            for _ in range(5):
                assert await read() != b"old"
        await replicas.close()
        await wire.close()


async def test_urls(replicas_topology: topology.Topology, prefix: str) -> None:
    """Several replicas: any of them may be asked."""
    manager = manager_on(replicas_url(replicas_topology), prefix)
    await wait_for_copies(manager)
    await manager.close()
