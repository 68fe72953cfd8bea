"""An index into which somebody else wrote."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from redis_sessions import (
    Keyring,
    RedisStore,
    SessionManager,
    generate_key,
)
from redis_sessions.testing import read_session, store_session
from tests.support.servers import as_owner


async def test_damaged_fields(redis_url: str, prefix: str) -> None:
    """Fields that somebody else wrote into an index count as none, and block nothing."""
    store = RedisStore(redis_url, prefix=prefix)
    manager = SessionManager(store, Keyring(generate_key()), max_sessions=5)
    token = await store_session(manager, {"user_id": "A"})
    async with Redis.from_url(as_owner(redis_url)) as redis:
        (key,) = await redis.keys(f"{prefix}of:*")
        odd: dict[Any, Any] = {
            "last": "abc", "revoked": "x", b"\xff\xfe": "L 1 2 3 x",
            "a" * 20: "L", "b" * 20: "L 1", "c" * 20: "L a b c d", "d" * 20: "E", "e" * 20: "Z",
            "f" * 20: "K", "g" * 20: "",
        }  # fmt: skip
        await redis.hset(key, mapping=odd)
    again = await store_session(manager, {"user_id": "A"})
    assert {info.id for info in await manager.sessions_of("A")} == {token[:20], again[:20]}
    assert await manager.revoke_all("A") == 2
    assert [await read_session(manager, t) for t in (token, again)] == [{}, {}]
    await store.close()
