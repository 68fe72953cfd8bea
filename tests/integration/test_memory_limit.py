"""A server whose memory is full: sign-outs still hold, and nobody is signed out by it."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from redis_sessions import (
    Keyring,
    RedisStore,
    SessionManager,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.session.outcome import Outcome
from redis_sessions.testing import read_session, store_session
from tests.support.servers import SERVERS, StartServer, as_owner


@pytest.mark.parametrize("kind", SERVERS)
async def test_full(start_server: StartServer, kind: str) -> None:
    """Reads and ends work over the limit; what would grow is refused, and loses nothing."""
    server = start_server("--maxmemory-policy", "noeviction", kind=kind)
    manager = SessionManager(RedisStore(server.url), Keyring(generate_key()))
    staying = await store_session(manager, {"user_id": 1})
    ending = await store_session(manager, {"user_id": 2})
    leaving = await store_session(manager, {"user_id": 3})
    async with Redis.from_url(as_owner(server.url)) as admin:
        await admin.config_set("maxmemory", "1")

        session = await manager.load(staying)
        session["x"] = "more"
        with pytest.raises(StoreUnavailableError) as refused:
            await manager.commit(session)
        assert refused.value.reason == "server"
        assert await read_session(manager, staying) == {"user_id": 1}

        session = await manager.load(ending)
        session.clear()
        assert (await manager.commit(session)).expire
        session = await manager.load(leaving)
        del session["user_id"]
        assert (await manager.commit(session)).outcome is Outcome.LOSE
        assert await read_session(manager, ending) == {}
        assert await read_session(manager, leaving) == {}

        await admin.config_set("maxmemory", "0")
        session = await manager.load(staying)
        session["x"] = "more"
        assert (await manager.commit(session)).outcome is Outcome.CHANGE
    await manager.close()
