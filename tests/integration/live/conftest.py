"""The stores under the sockets, and the servers before them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

import pytest

from redis_sessions import MemoryStore, RedisStore, SessionStore

NEAR: Final = {"redis": 0, "redis, near copies": 1.0}
"""The bound of each `RedisStore`."""


@pytest.fixture(params=["memory", *NEAR])
async def store(
    request: pytest.FixtureRequest, redis_url: str, prefix: str
) -> AsyncGenerator[SessionStore, None]:
    """A store that tells of changes. The server and the test use it in event loops of their own."""
    store: SessionStore = MemoryStore()
    if request.param in NEAR:
        store = RedisStore(redis_url, prefix=prefix, client_cache=NEAR[request.param])
    yield store
    await store.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop of uvicorn."""
    return str(request.param)
