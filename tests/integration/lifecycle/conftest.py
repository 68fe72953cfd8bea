"""Managers and a look into Redis, for the tests of the lifecycle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from redis_sessions import SessionManager
from tests.support.apps import (
    manager_on,
)
from tests.support.redis_wire import Wire


@pytest.fixture
async def manager(redis_url: str, prefix: str) -> AsyncIterator[SessionManager]:
    manager = manager_on(redis_url, prefix)
    yield manager
    await manager.close()


@pytest.fixture
async def workers(redis_url: str, prefix: str) -> AsyncIterator[list[SessionManager]]:
    """Four processes' managers, each with a store of its own."""
    managers = [manager_on(redis_url, prefix) for _ in range(4)]
    yield managers
    for manager in managers:
        await manager.close()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Wire]:
    with Wire.of(redis_url) as wire:
        yield wire
