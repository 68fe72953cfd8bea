"""Many sessions, of one principal and of many: what is listed, what is left, and when it ends."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import pytest

from redis_sessions import SessionManager, StoreUnavailableError
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.token import SessionToken
from redis_sessions.testing import store_session
from tests.support.apps import client_of, doing, manager_on, signed_in
from tests.support.deployments import until
from tests.support.redis_wire import Wire
from tests.support.servers import StartServer

HOUR: Final = 3_600_000


async def test_50_000_entries(manager: SessionManager, redis: Wire, prefix: str) -> None:
    """A principal with 50,000 entries is listed, kept one of, and revoked; the counts are right."""
    kept, *others = [await store_session(manager, {"user_id": "alice"}) for _ in range(50)]
    key = backend_of(manager).keyring.primary.index("alice")
    enter = partial(manager.store.enter, key, age=0, own=-1, ttl=HOUR, descriptor=b"x" * 100)
    for _ in range(50):
        ids = [SessionToken.generate().id for _ in range(1000)]
        await asyncio.gather(*(enter(id) for id in ids))
    assert redis.ask("HLEN", f"{prefix}of:{key}") == 50_050 + 1  # ... and when the last came
    shown = {info.id for info in await manager.sessions_of("alice")}
    assert shown == {token[:20] for token in (kept, *others)}
    assert await manager.revoke_all("alice", keep=kept[:20]) == 49
    assert [info.id for info in await manager.sessions_of("alice")] == [kept[:20]]
    assert dict(await manager.load(kept)) == {"user_id": "alice"}
    assert not any([await manager.load(token) for token in others])
    assert redis.ask("PTTL", f"{prefix}of:{key}") > HOUR


async def test_nothing_is_left_of_10_000_sessions(start_server: StartServer) -> None:
    """10,000 sessions that expired, of 100 principals and of nobody: no key of theirs is left."""
    server = start_server()
    manager = manager_on(server.url, max_age=1)
    with Wire(server.port) as redis:
        for start in range(0, 10_000, 1000):
            await asyncio.gather(
                *(
                    store_session(manager, {"user_id": n % 100} if n % 10 else {"cart": n})
                    for n in range(start, start + 1000)
                )
            )
        assert redis.ask("DBSIZE") > 0

        async def empty() -> bool:
            return bool(redis.ask("DBSIZE") == redis.ask("EXISTS", "session:keys"))

        await until(empty)
    await manager.close()


async def test_an_index_that_stays_in_use_does_not_grow(
    manager: SessionManager, redis: Wire, prefix: str
) -> None:
    """10,000 expired entries of a principal who goes on: later writes let them go."""
    token = await store_session(manager, {"user_id": "alice"})
    key = backend_of(manager).keyring.primary.index("alice")
    enter = partial(manager.store.enter, key, age=0, own=-1, ttl=1, descriptor=b"")
    for _ in range(10):
        await asyncio.gather(*(enter(SessionToken.generate().id) for _ in range(1000)))
    touch = partial(manager.store.touch, key, token[:20], authenticated=1, ttl=HOUR, descriptor=b"")
    for _ in range(10):
        await asyncio.gather(*(touch() for _ in range(200)))
    assert redis.ask("HLEN", f"{prefix}of:{key}") <= 10
    assert [info.id for info in await manager.sessions_of("alice")] == [token[:20]]


async def test_every_key_has_an_end(manager: SessionManager, redis: Wire, prefix: str) -> None:
    """Whatever happens to sessions, every key of theirs has a TTL."""
    app = doing(manager=manager)
    queries = [
        "set=a:1", "set=user_id:alice", "rotate=", "authenticated=", "expire_in=5000000",
        "set=user_id:bob", "drop=user_id", "set=user_id:alice", "clear=&set=user_id:alice",
        "clear=", "set=user_id:alice&status=500", "set=user_id:alice",
    ]  # fmt: skip
    async with client_of(app) as browser:
        for query in queries:
            await browser.get(f"/do?{query}")
    await manager.revoke_all("bob")
    (info,) = await manager.sessions_of("alice")
    await manager.revoke(info.id, principal="alice")
    await manager.revoke_all("carol", keep="x" * 20)
    keys = redis.keys(prefix)
    assert len(keys) >= 8
    assert {key: redis.ask("PTTL", key) > 0 for key in keys} == dict.fromkeys(keys, True)


@pytest.mark.everywhere
async def test_revoking_an_id_of_ones_making(manager: SessionManager) -> None:
    """An id that a client sent is an id, not the name of another field of the index."""
    session = await manager.load()
    session["user_id"] = "alice"
    await manager.revoke_all("alice")
    assert await manager.revoke("revoked", principal="alice") is False
    with pytest.raises(StoreUnavailableError):
        await manager.commit(session)


async def test_max_sessions(redis_url: str, prefix: str) -> None:
    """20 sign-ins at once with max_sessions=3: none is refused, and 3 are left."""
    manager = manager_on(redis_url, prefix, max_sessions=3)
    app = doing(manager=manager)

    async def sign_in() -> str:
        async with client_of(app) as browser:
            return await signed_in(browser)

    for _ in range(3):
        await sign_in()
    tokens = await asyncio.gather(*(sign_in() for _ in range(20)))
    assert 1 <= len(await manager.sessions_of("alice")) <= 3
    assert any([await manager.load(token) for token in tokens])
    await manager.close()
