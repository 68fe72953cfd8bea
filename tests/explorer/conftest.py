"""The stores that are explored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests.explorer.backends import MemoryBackend, RedisBackend, narrow_memory, redis_backend
from tests.support.servers import DEFAULT_SERVER, Server


@pytest.fixture
def memory() -> MemoryBackend:
    """The memory store."""
    return MemoryBackend()


@pytest.fixture
def unix_url(_shared_server: Callable[[str], Server]) -> str:
    """A real server, by its Unix socket."""
    return _shared_server(DEFAULT_SERVER).unix_url


@pytest.fixture
def narrow(memory: MemoryBackend) -> Iterator[MemoryBackend]:
    """The memory store, whose indexes keep one mark and are turned over an entry at a time."""
    with narrow_memory(memory) as opened:
        yield opened


@pytest.fixture
async def narrow_backend(unix_url: str, prefix: str) -> AsyncIterator[RedisBackend]:
    """A real server, whose indexes keep one mark and are turned over an entry at a time."""
    async with redis_backend(unix_url, prefix, marks=1) as opened:
        yield opened


@pytest.fixture
async def backend(unix_url: str, prefix: str) -> AsyncIterator[RedisBackend]:
    """A real server, by its Unix socket."""
    async with redis_backend(unix_url, prefix) as opened:
        yield opened
