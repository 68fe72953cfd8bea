"""A Redis with a replica, behind a network that fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.combinations.grounds import OnRedis
from tests.support.proxy import Proxy
from tests.support.servers import StartServer


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """Journeys log what they are meant to meet: bugs, refusals, a store that is away."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
async def on_redis(start_server: StartServer) -> AsyncIterator[OnRedis]:
    """Servers that are this test's own."""
    primary = start_server("--repl-diskless-sync-delay", "0", "--repl-diskless-load", "swapdb")
    replica = start_server("--replicaof", f"127.0.0.1 {primary.port}")
    with Proxy(primary.port) as proxy:
        ground = OnRedis(proxy, replica.port)
        await ground.follow()
        yield ground
        await ground.close()
