"""What applications write of messages, cache, leaders and expiry, as type checkers see it.

Never run.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, assert_type
from uuid import uuid4

import msgspec
from fastapi import FastAPI
from redis.asyncio import Redis

from redis_sessions import (
    Cache,
    Expired,
    MemoryStore,
    Session,
    SessionManager,
    SessionMiddleware,
    generate_key,
)
from redis_sessions.fastapi import CacheDep, MessagesDep, PrincipalDep
from redis_sessions.leader import Leader, Term
from redis_sessions.messages import Messages, Missed

NEW_KEY, OLD_KEY = generate_key(), generate_key()
app = FastAPI()


class Cart(msgspec.Struct):
    items: list[str]


@app.post("/exports")
async def exports(messages: MessagesDep, user: PrincipalDep) -> None:
    assert_type(messages, Messages)
    await messages.to_principal(user, {"kind": "export"})
    await messages.to_principal(uuid4(), {})
    await messages.to_session("id", {})
    await messages.to_all({})
    alone = Messages("redis://localhost", [generate_key()], max_size=1000, on_event=print)
    async with alone.listen(principal=7, session="id", all=True) as listener:
        async for message in listener:
            assert_type(message, dict[str, Any] | Missed)
    await alone.close()


async def release(expired: Expired) -> None:
    assert_type(expired.id, str)
    assert_type(expired.principal, str | None)
    assert_type(expired.when, datetime)


async def told_of_expired(store: MemoryStore) -> None:
    manager = SessionManager(store, NEW_KEY, on_expired=release)
    SessionMiddleware(app, store=store, secret_key=NEW_KEY, on_expired=print)
    async with manager.expiring():
        pass


async def leading(manager: SessionManager, client: Redis) -> None:
    leader = Leader("redis://localhost", prefix="app:", lease=timedelta(minutes=1))
    Leader(client, lease=30)
    assert_type(manager.leader, Leader)
    async with leader("nightly", lease=60) as term:
        assert_type(term, Term)
        assert_type(term.token, int)
        term.check()

    @leader.every("5m")
    async def clean(term: Term) -> int:
        return term.token

    @leader.every(timedelta(hours=1), name="count", lease=60)
    async def count() -> None:
        pass

    async with leader.running():
        assert_type(await clean(term), int)
        await count()
    await leader.close()


async def caching(session: Session, manager: SessionManager, cache: CacheDep) -> None:
    async def load() -> dict[str, int]:
        return {"id": 7}

    assert_type(manager.cache, Cache)
    assert_type(await cache.get_or_set("key", load, ttl=60), dict[str, int])

    async def load_cart() -> Cart:
        return Cart([])

    # Without `as_` it would be a dict.
    await cache.get_or_set("key", load_cart, ttl=60)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]
    later = timedelta(minutes=1)
    cart = await cache.get_or_set(
        "key", load, ttl=later, as_=Cart, negative_ttl=1, stale_if_error=later, lock=2, beta=0
    )
    assert_type(cart, Cart | None)
    assert_type(cache.of(session), Cache)
    await cache.of_principal(uuid4()).forget("key")
    await cache.forget_principal(7)
    assert_type(Cache("redis://localhost", [NEW_KEY, OLD_KEY], max_size=1000).counts["hit"], int)
