"""Users with the roles of `redis-sessions acl`, and all that a store sends as one of them."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from redis_sessions import RedisStore, StoreError
from redis_sessions.cli.notices import notices_of
from redis_sessions.messages import Messages
from redis_sessions.session.record import tombstone
from redis_sessions.stores.inspection import info
from redis_sessions.stores.redis import servers_of
from redis_sessions.stores.schedule import schedule_of, try_schedule
from redis_sessions.testing.conformance import MINUTE, new_id, new_record
from redis_sessions.testing.index_conformance import new_key
from tests.support.asgi import KEY

PASSWORD = "correct-horse"


def refused(client: Redis, *command: Any) -> None:
    """The server refuses the command for want of rights, whatever words its version has."""
    with pytest.raises(ResponseError, match=r"permission|ACL failure|can't run|can't access"):
        client.execute_command(*command)


async def exercise(url: str, prefix: str) -> None:
    """All kinds of commands that a store sends; `StoreError` also if there are no near copies."""
    store = RedisStore(url, prefix=prefix, timeout=1, client_cache=10)
    try:
        id, key, record = new_id(), new_key(), new_record()
        await store.commit(id, None, record, MINUTE)
        await store.commit(id, None, record, MINUTE)  # a retry
        await store.load(id)
        if store.near_copy(id) is None:
            raise StoreError("nothing is kept")
        for _ in range(2):
            async with store.lock(id, wait=0.05, hold=10):
                pass
        await store.end(id, tombstone(0), MINUTE)
        await store.enter(key, id, age=0, own=-1, ttl=MINUTE, descriptor=b"d")
        await store.ask(key, id, authenticated=1)
        await store.touch(key, id, authenticated=1, ttl=MINUTE, descriptor=b"")
        await store.authenticated(key, id, at=2**50)
        await store.revoke(key, keep=new_id(), memory=MINUTE)
        await store.entries(key)
        await store.remove(key, [id], until=2**51)
        for _ in range(257):
            await store.mark(key, new_id(), ttl=MINUTE)
        async with Messages(store, KEY).listen(all=True) as listener:
            await Messages(store, KEY).to_all({"n": 1})
            assert await anext(listener) == {"n": 1}
        await try_schedule(schedule := schedule_of(store), new_id())
        assert await schedule.left(id) is not None
    finally:
        await store.close()


async def administer(url: str, prefix: str) -> None:
    """What a manager and the command line send, besides what the store says of a retry."""
    store = RedisStore(url, prefix=prefix, timeout=1)
    try:
        id, key = new_id(), new_key()
        await store.load(id)
        assert (await store.mark(key, id, ttl=MINUTE)).result is False
        await store.revoke(key, keep=new_id(), memory=MINUTE)
        await store.revoke(key, keep=None, memory=MINUTE)
        await store.touch(key, other := new_id(), authenticated=2**50, ttl=MINUTE, descriptor=b"")
        await store.entries(key)
        await store.remove(key, [other], until=2**51)
        await store.ask(key, id, authenticated=1)
        for _ in range(2):
            await store.end(id, tombstone(0), MINUTE)
        assert id in [found.id async for page in store.scan() for found in page]
        assert await info(servers_of(store), "memory")
        async with notices_of(store):
            pass
        schedule = schedule_of(store)
        await schedule.note(id, -31 * 24 * 60 * MINUTE, b"x")  # so long ago that it is forgotten
        await schedule.end(id)
    finally:
        await store.close()
