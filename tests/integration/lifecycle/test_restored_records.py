"""Somebody puts an older record back into Redis: its bytes of before a rotation."""

from __future__ import annotations

import time
from typing import Final

import pytest

from redis_sessions import RedisStore, Session, SessionManager, generate_key
from redis_sessions.testing import Clock, read_session, store_session
from tests.support.deployments import Deployment

ALICE: Final = {"user_id": "alice"}
DUE: Final = 301
HOUR: Final = 3_600_000


async def committed(manager: SessionManager, token: str, way: str = "") -> str | None:
    """A request, and what it does: the token that it gives."""
    session = await manager.load(token)
    if way:
        getattr(Session, way)(session)
    answer = await manager.commit(session)
    return None if answer.token is None else answer.token.value


@pytest.mark.parametrize("way", ["rotate", "authenticated", "clear"])
async def test_it_ends_at_its_touch(deployment: Deployment, prefix: str, way: str) -> None:
    """After a rotation as after a sign-out, and however often the restored one is rotated."""
    store = RedisStore(deployment.url, prefix=prefix, **deployment.options)
    clock = Clock(time.time() - 2 * DUE)  # so that the server's is past the 30 seconds
    manager = SessionManager(store, generate_key(), clock=clock)
    for again in (False, True):
        tokens: list[str | None] = [await store_session(manager, ALICE)]
        old = tokens[0] or ""
        before = await store.load(old[:20])
        assert before is not None
        tokens.append(await committed(manager, old, way))
        assert await read_session(manager, old) == {}
        await store.end(old[:20], before[:33], 1)  # whatever is there
        while await store.load(old[:20]) is not None:
            pass
        await store.commit(old[:20], None, before, HOUR)
        assert await read_session(manager, old) == ALICE
        if again:
            clock.advance(2)
            tokens.append(await committed(manager, old, "rotate"))
        clock.advance(DUE)
        for token in tokens:
            await committed(manager, token or old)
            assert await read_session(manager, token) == {}
        assert await manager.sessions_of("alice") == []
    await manager.close()
