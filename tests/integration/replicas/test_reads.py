"""Reads from replicas: who is served by one, and who sees what it wrote all the same."""

from __future__ import annotations

import itertools
import re
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
    CookieTransport,
    HeaderTransport,
    Keyring,
    RedisStore,
    Session,
    SessionManager,
    SessionMiddleware,
    get_session,
)
from redis_sessions.fastapi import SessionDep
from redis_sessions.lifecycle.copies import load_from_replica, reads_replicas
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.token import SessionToken
from redis_sessions.testing import store_session, topology
from tests.integration.replicas.lagging import Lagging, in_copy, see, wait_for_copies
from tests.support.apps import BASE, client_of, doing, manager_on, signed_in, token_in
from tests.support.asgi import COOKIE, KEY
from tests.support.deployments import replicas_url, until
from tests.support.servers import as_app

HINT = f"{COOKIE}-fresh"


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


async def test_without_replicas(lagging: Lagging, prefix: str) -> None:
    """A store that reads none offers none, and no response has a hint."""
    manager = manager_on(as_app(lagging.primary.url), prefix)
    assert not reads_replicas(backend_of(manager))
    assert isinstance(manager.store, RedisStore)
    assert manager.store.load_from_replica(SessionToken.generate().id) is None
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
    assert await load_from_replica(backend_of(manager), manager.load, [token]) == {"n": 1}
    await manager.close()


async def test_urls(replicas_topology: topology.Topology, prefix: str) -> None:
    """Several replicas: any of them may be asked."""
    manager = manager_on(replicas_url(replicas_topology), prefix)
    await wait_for_copies(manager)
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
        (hint,) = hints(created)
        value, _, flags = hint.partition("; ")
        assert re.fullmatch(f"{HINT}=[0-9a-f]{{12}}", value)
        assert flags == "path=/; Max-Age=10; httponly; samesite=lax; secure"
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


@pytest.mark.parametrize("way", ["cookie", "header"])
async def test_of_two_transports_the_one_that_brought_the_token_decides(
    manager: SessionManager, lagging: Lagging, way: str
) -> None:
    """A browser is served by a replica, and keeps the hint; a client of the header isn't."""
    token = await store_session(manager, {"n": 1})
    await until(lambda: in_copy(manager, token))
    before = lagging.reads()
    app = doing(manager=manager, transport=[CookieTransport(), HeaderTransport()])
    brought = {"cookie": f"{COOKIE}={token}"} if way == "cookie" else {"X-Session-Token": token}
    async with client_of(app, headers=brought) as client:
        assert (await client.get("/do")).json() == {"n": 1}
        assert (lagging.reads() > before) is (way == "cookie")
        assert len(hints(await client.get("/do?set=n:2"))) == (1 if way == "cookie" else 0)


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


class Refusing(SessionManager):
    """It serves no session of mallory's."""

    async def load(self, token: Any = None, **options: Any) -> Session:
        session = await super().load(token, **options)
        return session if session.principal != "mallory" else await super().load()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("own", ["class", "instance"])
async def test_a_load_of_its_own_is_called(
    manager: SessionManager, lagging: Lagging, own: str, lazy: bool
) -> None:
    """A replica serves nobody past it, whether a class has it or one manager."""
    refusing = Refusing(RedisStore(lagging.url, prefix=manager.store.prefix), Keyring(KEY))
    await wait_for_copies(refusing)
    asked: SessionManager = refusing
    if own == "instance":
        asked = SessionManager(refusing.store, Keyring(KEY))
        asked.load = refusing.load  # type: ignore[method-assign]  # as applications may
    app = FastAPI()
    app.add_middleware(SessionMiddleware, manager=asked, lazy=lazy)

    @app.get("/")
    async def read(session: SessionDep) -> dict[str, str]:
        return dict(session)

    shown = dict[str, object]()
    for user in ("mallory", "alice"):
        token = await store_session(manager, {"user_id": user})
        await until(lambda: in_copy(manager, token))  # noqa: B023 - it is over before the next
        async with client_of(app, token) as browser:
            shown[user] = (await browser.get("/")).json()
    assert shown == {"mallory": {}, "alice": {"user_id": "alice"}}
    await refusing.close()
