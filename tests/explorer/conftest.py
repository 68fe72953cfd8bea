"""The stores that are explored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.explorer.backends import MemoryBackend, RedisBackend, redis_backend
from tests.support import DEFAULT_SERVER, Server


@pytest.fixture
def memory() -> MemoryBackend:
    """The memory store."""
    return MemoryBackend()


@pytest.fixture
async def backend(
    _shared_server: Callable[[str], Server], prefix: str
) -> AsyncIterator[RedisBackend]:
    """A real server, by its Unix socket."""
    async with redis_backend(_shared_server(DEFAULT_SERVER).unix_url, prefix) as opened:
        yield opened
