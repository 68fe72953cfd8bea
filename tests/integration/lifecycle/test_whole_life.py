"""A session's whole life: the events that tell of it, and the rights that it takes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from redis_sessions import (
    Event,
    Keyring,
    MemoryStore,
    RedisStore,
    SessionManager,
    StoreUnavailableError,
)
from redis_sessions.testing import store_session
from tests.support import ROOT
from tests.support.apps import Events, client_of, doing, manager_on, token_in
from tests.support.asgi import KEY
from tests.support.servers import Server, StartServer

# -- events


def count(data: dict[str, Any]) -> int:
    data["n"] += 1
    return int(data["n"])


async def test_events() -> None:
    """Everything that happens is told by name, reason and id; never a token, a key or data."""
    told: list[Event] = []
    now = [1_800_000_000.0]
    # The store keeps the time as well, so that it can be set.
    store = MemoryStore(clock=lambda: now[0])
    manager = SessionManager(store, Keyring(KEY), clock=lambda: now[0], on_event=told.append)
    app = doing(manager=manager)

    def names() -> list[tuple[str, str | None]]:
        found = [(event.name, event.reason) for event in told]
        told.clear()
        return found

    async with client_of(app) as browser:
        tokens = [token_in(await browser.get("/do?set=cart:secret-tea"))]
        assert names() == [("created", "create")]
        tokens.append(token_in(await browser.get("/do?set=user_id:secret-alice")))
        assert names() == [("created", "gain"), ("ended", "signed in"), ("signed_in", "gain")]
        tokens.append(token_in(await browser.get("/do?rotate=")))
        assert names() == [("rotated", "rotate")]
        tokens.append(token_in(await browser.get("/do?authenticated=")))
        again = "reauthenticate"
        assert names() == [("rotated", again), ("signed_in", again)]
        now[0] += 301
        await browser.get("/do")
        assert names() == [("touched", None)]
        one, other = [await manager.load(tokens[-1]) for _ in range(2)]
        one["a"], other["b"] = 1, 2
        await manager.commit(one)
        await manager.commit(other)
        assert names() == [("merged", None)]
        tokens.append(token_in(await browser.get("/do?set=user_id:secret-bob")))
        assert names() == [
            ("created", "switch"),
            ("ended", "switched"),
            ("signed_out", "switched"),
            ("signed_in", "switch"),
        ]
        late = await manager.load(tokens[-1])
        await browser.get("/do?clear=")
        assert names() == [("ended", "cleared"), ("signed_out", "cleared")]
        late["a"] = 1
        await manager.commit(late)
        assert names() == [("dropped", "ended elsewhere")]
        tokens.append(token_in(await browser.get("/do?set=user_id:secret-alice")))
        await browser.get("/do?drop=user_id&drop=cart")
        assert [name for name, _ in names()] == ["created", "signed_in", "ended", "signed_out"]
        late = await manager.load()
        late["user_id"] = "secret-alice"
        now[0] += 1
        await manager.revoke_all("secret-alice")
        with pytest.raises(StoreUnavailableError):
            await manager.commit(late)
        assert names() == [("revoked", "all"), ("refused", "revoked meanwhile")]
        browser.cookies.clear()
        await browser.get("/do", headers={"Cookie": f"__Host-session={'x' * 64}"})
        assert names() == [("rejected", "unknown id")]


async def test_events_hold_ids_alone(redis_url: str, prefix: str) -> None:
    """No token, principal, data or key in any event of a life that is as long as this one."""
    told = Events()
    manager = manager_on(redis_url, prefix, on_event=told, max_sessions=1)
    app = doing(manager=manager)
    tokens: set[str] = set()
    async with client_of(app) as browser, client_of(app) as other:
        for client in (browser, other, browser):
            for query in ("set=cart:secret", "set=user_id:secret", "rotate=", "set=a:secret"):
                tokens.add(token_in(await client.get(f"/do?{query}")) or "")
        await manager.revoke_all("secret")
    text = repr(told)
    assert len(told) > 10
    assert "secret" not in text
    assert KEY not in text
    assert not any(token[20:] in text for token in tokens if token)
    assert all(event.id is None or re.fullmatch(r"[\w-]{20}", event.id) for event in told)
    await manager.close()


# -- the deployment


async def test_the_deployed_user_suffices(start_server: StartServer) -> None:
    """deploy/redis: the application's user may do all that a session's life takes."""
    deploy = ROOT / "deploy" / "redis"
    server: Server = start_server(
        "--aclfile", str(deploy / "users.acl"), kind="redis", config=deploy / "redis.conf"
    )
    url = server.url.replace("//", "//app:development@")
    manager = SessionManager(RedisStore(url), Keyring(KEY), max_sessions=2)
    await manager.connect()
    app = doing(manager=manager)
    async with client_of(app) as browser:
        for query in ("set=a:1", "set=user_id:alice", "authenticated=", "rotate=", "set=b:2"):
            assert (await browser.get(f"/do?{query}")).status_code == 200
    tokens = [await store_session(manager, {"user_id": "alice", "n": 0}) for _ in range(3)]
    session = await manager.load(tokens[-1])
    assert await manager.update(session, count) == 1
    async with session.exclusive():
        session["n"] += 1
    assert (await manager.load(tokens[-1]))["n"] == 2
    one, _ = await manager.sessions_of("alice")
    assert await manager.revoke(one.id, principal="alice")
    assert await manager.revoke_all("alice") == 1
    await manager.close()
