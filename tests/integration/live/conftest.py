"""The stores under the sockets, and the servers before them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from redis_sessions import MemoryStore
from redis_sessions.stores.protocols import Store


@pytest.fixture(params=["memory"])
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[Store, None]:
    """A store that tells of changes. The server and the test use it in event loops of their own."""
    assert request.param == "memory"
    store = MemoryStore()
    yield store
    await store.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop of uvicorn."""
    return str(request.param)
